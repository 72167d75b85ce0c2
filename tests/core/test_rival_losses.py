"""Each rival's loss against a naive computation, most in float64."""

import itertools
import math

import pytest
import torch
from srrl_tasks.classification.networks import build_network
from staged import Staged, batch, make, rows
from torch import nn
from toys import CLASSES, softmax

from srrl.adapters import build_model
from srrl.distillers import crd, dkd, ofd, reviewkd, rkd
from srrl.distillers.at import attention_transfer
from srrl.distillers.stages import PreReLU, pairs, same_size
from srrl.errors import UserError
from srrl.losses import pearson_distance


def test_attention_by_a_loop():
    student, teacher = rows(2, 3, 2, 2, seed=0), rows(2, 5, 2, 2, seed=1)
    total = 0.0
    for s, t in zip(student.double(), teacher.double(), strict=True):
        maps = []
        for m in (s, t):
            q = [sum(float(m[c, i, j]) ** 2 for c in range(len(m))) for i in range(2) for j in range(2)]
            length = math.sqrt(sum(v * v for v in q))
            maps.append([v / length for v in q])
        total += sum((a - b) ** 2 for a, b in zip(*maps, strict=True))
    assert float(attention_transfer(student, teacher)) == pytest.approx(total / (2 * 4), rel=1e-6)


def test_the_larger_map_is_averaged_over_areas():
    student, teacher = torch.arange(16.0).view(1, 1, 4, 4), torch.zeros(1, 2, 2, 2)
    s, t = same_size(student, teacher)
    assert s.flatten().tolist() == [2.5, 4.5, 10.5, 12.5] and t is teacher


def test_stages_are_paired_from_the_last_one():
    assert pairs(["a", "b", "c"], [1, 2, 3, 4]) == [("a", 2), ("b", 3), ("c", 4)]


def huber(a, b):
    d = abs(a - b)
    return 0.5 * d * d if d < 1 else d - 0.5


def test_relational_distances_and_angles_by_loops():
    student, teacher = rows(4, 3, seed=0).double(), rows(4, 5, seed=1).double()

    def distances(e):
        d = [[float((a - b).norm()) for b in e] for a in e]
        off = [v for i, line in enumerate(d) for j, v in enumerate(line) if i != j]
        mean = sum(off) / len(off)
        return [[v / mean for v in line] for line in d]

    a, b = distances(student), distances(teacher)
    expected = sum(huber(a[i][j], b[i][j]) for i in range(4) for j in range(4)) / 16
    found = nn.functional.smooth_l1_loss(rkd.relative_distances(student), rkd.relative_distances(teacher))
    assert float(found) == pytest.approx(expected, rel=1e-6)

    def cosine(e, j, i, k):
        u, v = e[i] - e[j], e[k] - e[j]
        if i == j or k == j:
            return 0.0
        return float(u @ v / (u.norm() * v.norm()))

    triples = list(itertools.product(range(4), repeat=3))
    expected = sum(huber(cosine(student, *t), cosine(teacher, *t)) for t in triples) / 64
    found = nn.functional.smooth_l1_loss(rkd.angles(student), rkd.angles(teacher))
    assert float(found) == pytest.approx(expected, rel=1e-6)


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_decoupled_kd_by_a_loop_and_its_sum_is_kd():
    """Eq. 5 of the paper: KD = TCKD + (1 − p_T(target)) · NCKD, a sample."""
    student, teacher, label, heat = rows(3, 4, seed=0), rows(3, 4, seed=1), torch.tensor([2, 0, 3]), 2.0
    tckd = nckd = whole = 0.0
    for s, t, y in zip(student.double().tolist(), teacher.double().tolist(), label.tolist(), strict=True):
        p, q = softmax([v / heat for v in t]), softmax([v / heat for v in s])
        tc = kl([p[y], 1 - p[y]], [q[y], 1 - q[y]])
        rest = [[v / (1 - d[y]) for i, v in enumerate(d) if i != y] for d in (p, q)]
        tckd, nckd, whole = tckd + tc, nckd + kl(*rest), whole + kl(p, q)
        assert kl(p, q) == pytest.approx(tc + (1 - p[y]) * kl(*rest), rel=1e-9)
    found = dkd.decoupled(student, teacher, label, heat)
    assert [float(f) for f in found] == pytest.approx([4 * tckd / 3, 4 * nckd / 3], rel=1e-6)


def test_pearson_distance_against_numpy():
    import numpy as np

    a, b = rows(3, 5, seed=0), rows(3, 5, seed=1)
    expected = 1 - np.mean([np.corrcoef(x, y)[0, 1] for x, y in zip(a.double(), b.double(), strict=True)])
    assert float(pearson_distance(a, b)) == pytest.approx(expected, rel=1e-5)
    assert float(pearson_distance(a, 3 * a + 7)) == pytest.approx(0, abs=1e-6)


def test_dist_total_by_hand():
    distiller = make("dist", dist_inter=3.0, dist_intra=5.0, dist_temperature=2.0).eval()
    data = batch()
    with torch.no_grad():
        p, q = ((m(data["image"]).double() / 2).softmax(1) for m in (distiller.student, distiller.teacher))
    corr = lambda x, y: torch.corrcoef(torch.stack([x, y]))[0, 1]  # noqa: E731 - another library's
    inter = 1 - sum(corr(a, b) for a, b in zip(p, q, strict=True)) / len(p)
    intra = 1 - sum(corr(a, b) for a, b in zip(p.T, q.T, strict=True)) / CLASSES
    result = distiller(data)
    expected = result["supervised"] + 3 * 4 * inter + 5 * 4 * intra
    assert float(result["loss"]) == pytest.approx(float(expected), rel=1e-4)


def test_partial_distance_leaves_out_what_lies_below_a_silent_teacher():
    """(S, T): (−3, −1) is left out, (0, −1), (−1, 2) and (3, 1) count 1, 9 and 4; two samples."""
    student = torch.tensor([-3.0, 0.0, -1.0, 3.0]).view(2, 1, 1, 2)
    teacher = torch.tensor([-1.0, -1.0, 2.0, 1.0]).view(2, 1, 1, 2)
    assert float(ofd.partial_l2(student, teacher)) == pytest.approx((1 + 9 + 4) / 2)


def test_margin_is_the_mean_of_the_teachers_negative_responses():
    distiller = make("ofd").train()
    data = batch()
    with torch.no_grad():
        x, seen = data["image"], []
        for stage in distiller.teacher.model.stages:
            seen.append(stage[:2](x))
            x = stage(x)
    distiller(data)
    for i, m in enumerate(seen):
        for c in range(m.shape[1]):
            negative = [v for v in m[:, c].flatten().double().tolist() if v < 0]
            mean = sum(negative) / len(negative) if negative else 0.0
            assert float(distiller.margin(i)[0, c]) == pytest.approx(mean, rel=1e-5)
    before = distiller.margin(0).clone()
    distiller.eval()(batch(seed=5))
    assert distiller.margin(0).equal(before)  # only training batches count


def test_ofd_total_by_a_loop_over_the_stages():
    distiller = make("ofd", ofd_weight=0.5).train()
    data = batch()
    result = distiller(data)
    x, y, expected = data["image"], data["image"], 0.0
    reference = make("ofd").train()  # the same weights, BatchNorm as before the pass
    with torch.no_grad():
        for i, (s, t) in enumerate(
            zip(reference.student.stages, reference.teacher.model.stages, strict=True)
        ):
            pre_s, pre_t = s[:2](x), t[:2](y)
            x, y = pre_s.relu(), pre_t.relu()
            target = torch.maximum(pre_t, distiller.margin(i)).double()
            connected = reference.connectors[i](pre_s).double()
            for a, b in zip(connected.flatten().tolist(), target.flatten().tolist(), strict=True):
                expected += 0.0 if a <= b <= 0 else (b - a) ** 2 / len(x) / 2 ** (2 - i)
    assert float(result["ofd"]) == pytest.approx(expected, rel=1e-4)
    assert float(result["loss"]) == pytest.approx(float(result["supervised"]) + 0.5 * expected, rel=1e-4)


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet10t"])
def test_maps_before_the_last_relu_of_library_networks(name):
    """Their blocks share one ReLU module in place; the ReLU of what was kept must be the stage's map."""
    model = build_model(name, num_classes=3).eval()
    before = PreReLU(model, "teacher", "ofd")
    with torch.no_grad(), before.seen() as kept:
        maps = model.forward_intermediates(torch.rand(1, 3, 64, 64))
    assert len(kept) == len(maps) and min(m.min() for m in kept.values()) < 0
    for i, m in enumerate(maps):
        torch.testing.assert_close(kept[i].relu(), m)


def test_maps_of_stages_that_end_in_relu6_or_in_nothing():
    """MobileNetV1's blocks end in a ReLU6, MobileNetV2's in a BatchNorm, whose map is what others have before their ReLU."""
    model = build_model("timm/mobilenetv1_100", num_classes=3).eval()
    before = PreReLU(model, "teacher", "ofd")
    with torch.no_grad(), before.seen() as kept:
        maps = model.forward_intermediates(torch.rand(1, 3, 64, 64))
    assert len(kept) == len(maps) and min(m.min() for m in kept.values()) < 0
    for i, m in enumerate(maps):
        torch.testing.assert_close(kept[i].clamp(0, 6), m)

    model = build_network("mobilenetv2", 3, mean=(0.5,) * 3, std=(0.5,) * 3).eval()
    with pytest.raises(UserError, match="needs stages that end in a ReLU"):
        PreReLU(model, "teacher", "reviewkd")
    before = PreReLU(model, "student", "ofd", linear=True)
    with torch.no_grad(), before.seen() as kept:
        maps = model.forward_intermediates(torch.rand(1, 3, 32, 32))
    found = before.of(kept, maps)
    assert [m.shape[1] for m in found] == before.channels
    for i, m in enumerate(maps):
        assert found[i] is m if i not in kept else found[i].clamp(0, 6).allclose(m)
    assert not kept.keys() >= set(range(len(maps)))


def test_contrastive_loss_by_a_loop():
    positive, negative, n = torch.tensor([2.0, 0.5]), torch.tensor([[0.1, 0.7, 3.0], [1.0, 0.2, 0.4]]), 50
    total = 0.0
    for p, line in zip(positive.tolist(), negative.tolist(), strict=True):
        total -= math.log(p / (p + 3 / n)) + sum(math.log((3 / n) / (v + 3 / n)) for v in line)
    assert float(crd.contrastive(positive, negative, n)) == pytest.approx(total / 2, rel=1e-5)


def test_negatives_are_of_other_classes_and_all_of_them_come():
    labels = torch.tensor([0, 2, 0, 1, 2, 2, 1])
    others = crd.OtherClasses(labels)
    torch.manual_seed(0)
    for label in range(3):
        drawn = others(torch.full((5,), label), 400)
        free = [i for i, v in enumerate(labels.tolist()) if v != label]
        counts = drawn.flatten().bincount(minlength=len(labels)).tolist()
        assert sorted(set(drawn.flatten().tolist())) == free
        assert all(abs(counts[i] - 2000 / len(free)) < 150 for i in free)


def test_crd_similarities_memory_and_partition_by_hand():
    distiller = make("crd", crd_temperature=0.5, crd_momentum=0.25).train()
    memory = {s: getattr(distiller, f"memory_{s}").double().clone() for s in ("student", "teacher")}
    reference, data = make("crd").train(), batch(4)
    reference.load_trainable_state(distiller.trainable_state())
    with torch.no_grad():
        pooled = {
            "student": reference.student.forward_features(data["image"]).mean((2, 3)),
            "teacher": reference.teacher.forward_features(data["image"]).mean((2, 3)),
        }
        embedded = {s: getattr(reference, f"embed_{s}")(p).double() for s, p in pooled.items()}
    embedded = {s: e / e.norm(dim=1, keepdim=True) for s, e in embedded.items()}
    drawn = []
    draw = distiller.others.forward
    distiller.others.forward = lambda label, count: drawn.append(draw(label, count)) or drawn[0]
    result, expected = distiller(data), 0.0
    for side, other in (("student", "teacher"), ("teacher", "student")):
        ratios = []
        for i, e in enumerate(embedded[side]):
            chosen = [i, *drawn[0][i].tolist()]
            ratios.append([math.exp(float(e @ memory[other][j]) / 0.5) for j in chosen])
        flat = [v for line in ratios for v in line]
        z = sum(flat) / len(flat) * 12
        assert float(getattr(distiller, f"partition_{side}")) == pytest.approx(z, rel=1e-4)
        for line in ratios:
            chance = 7 / 12
            expected -= math.log(line[0] / z / (line[0] / z + chance)) / 4
            expected -= sum(math.log(chance / (v / z + chance)) for v in line[1:]) / 4
    assert float(result["crd"]) == pytest.approx(expected, rel=1e-4)
    moved = 0.25 * memory["student"][2] + 0.75 * embedded["student"][2]
    torch.testing.assert_close(
        distiller.memory_student[2].double(), moved / moved.norm(), rtol=1e-4, atol=1e-5
    )
    assert distiller.memory_student[4:].double().equal(memory["student"][4:])  # not of this batch
    result["loss"].backward()  # the memory that has changed since does not spoil it


def test_hierarchical_context_by_hand():
    """4×4 maps: weights 1, ½ (2×2), ¼ (1×1) over 1.75; the 4×4 pyramid level is the map itself."""
    student, teacher = rows(2, 3, 4, 4, seed=0), rows(2, 3, 4, 4, seed=1)
    d = (student - teacher).double()
    levels = []
    for side in (4, 2, 1):
        step = 4 // side
        cells = [
            float(d[n, c, i * step : (i + 1) * step, j * step : (j + 1) * step].mean()) ** 2
            for n in range(2)
            for c in range(3)
            for i in range(side)
            for j in range(side)
        ]
        levels.append(sum(cells) / len(cells))
    expected = (levels[0] + levels[1] / 2 + levels[2] / 4) / 1.75
    assert float(reviewkd.hierarchical(student, teacher)) == pytest.approx(expected, rel=1e-5)


def test_fusion_weighs_both_maps_by_its_attention():
    """Attention of zero weights is ½ for both: the fused map is half the sum, the deeper one enlarged."""
    fusion = reviewkd.Fusion(2, 2, 3, fuses=True).eval()
    nn.init.zeros_(fusion.attention.weight)
    nn.init.zeros_(fusion.attention.bias)
    nn.init.dirac_(fusion.reduce[0].weight)
    x, deeper = rows(1, 2, 4, 4, seed=0), rows(1, 2, 2, 2, seed=1)
    _, fused = fusion(x, deeper, (4, 4))
    enlarged = deeper.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(fused, (x + enlarged) / 2, rtol=1e-4, atol=1e-4)


def test_hint_is_the_mean_squared_difference_at_the_middle_stage():
    distiller = make("fitnet", fitnet_weight=3.0).train()
    data, reference = batch(), make("fitnet").train()
    with torch.no_grad():
        s = reference.student.stages[1](reference.student.stages[0](data["image"]))
        t = reference.teacher.model.stages[1](reference.teacher.model.stages[0](data["image"]))
        expected = float((reference.regressor(s).double() - t.double()).square().mean())
    result = distiller(data)
    assert float(result["hint"]) == pytest.approx(expected, rel=1e-5)
    assert float(result["loss"]) == pytest.approx(float(result["supervised"]) + 3 * expected, rel=1e-5)


def test_attention_is_compared_at_every_stage():
    distiller, data = make("at").eval(), batch()
    with torch.no_grad():
        s = distiller.student.forward_intermediates(data["image"])
        t = distiller.teacher.model.forward_intermediates(data["image"])
    each = [float(attention_transfer(a, b)) for a, b in zip(s, t, strict=True)]
    assert float(distiller(data)["at"]) == pytest.approx(sum(each), rel=1e-5) and min(each) > 0


def test_review_goes_from_the_pooled_features_up_through_every_stage():
    """By the modules themselves, written out: pooled, then stages 2, 1 and 0, each fused with what came before.

    The teacher's maps stand before each stage's ReLU, the pooled features behind it.
    """
    distiller, data = make("reviewkd").eval(), batch()
    with torch.no_grad():
        s = distiller.student.forward_intermediates(data["image"])
        t, x = [], data["image"]
        for conv, norm, relu in distiller.teacher.model.stages:
            t.append(norm(conv(x)))
            x = relu(t[-1])
        f, total = distiller.fusions, 0.0
        out, deeper = f[3](s[2].mean((2, 3), keepdim=True), None, (1, 1))
        total += float(reviewkd.hierarchical(out, x.mean((2, 3), keepdim=True)))
        for stage in (2, 1, 0):
            out, deeper = f[stage](s[stage], deeper, tuple(t[stage].shape[2:]))
            total += float(reviewkd.hierarchical(out, t[stage]))
    assert float(distiller(data)["review"]) == pytest.approx(total, rel=1e-5)
    assert f[3].attention is None and all(f[i].attention is not None for i in range(3))


def test_review_takes_the_maps_of_a_teacher_without_relus_as_they_come():
    teacher, data = Staged((6, 8, 9), act=nn.Hardswish, seed=2), batch()
    distiller = make("reviewkd", teacher=teacher).eval()
    with torch.no_grad():
        s = distiller.student.forward_intermediates(data["image"])
        t = teacher.eval().forward_intermediates(data["image"])
        f, deeper, total = distiller.fusions, None, 0.0
        s.append(s[2].mean((2, 3), keepdim=True))
        t.append(t[2].mean((2, 3), keepdim=True))
        for i in (3, 2, 1, 0):
            out, deeper = f[i](s[i], deeper, tuple(t[i].shape[2:]))
            total += float(reviewkd.hierarchical(out, t[i]))
    assert float(distiller(data)["review"]) == pytest.approx(total, rel=1e-5)


def test_margins_are_fixed_after_the_first_fifty_batches():
    distiller = make("ofd").train()
    for _ in range(50):
        distiller(batch())
    before = [distiller.margin(i).clone() for i in range(3)]
    distiller(batch(seed=9))
    assert all(distiller.margin(i).equal(m) for i, m in enumerate(before))


def test_hint_of_a_teacher_with_negative_maps_is_not_cut_by_a_relu():
    assert type(make("fitnet").regressor.activation) is nn.ReLU
    silu = make("fitnet", teacher=Staged((6, 8, 9), act=nn.SiLU))
    assert type(silu.regressor.activation) is nn.Identity
    with pytest.raises(UserError, match="share 3 stages, 0 to 2"):
        make("fitnet", fitnet_stage=3)
