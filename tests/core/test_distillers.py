"""Distillers: totals recomputed by hand, where gradients go, a teacher that nothing changes, and unlike pairs."""

import copy

import pytest
import torch
from torch import nn
from toys import Colours, HeatmapL2, connector_by_hand, cross_entropy, softmax, spatial, tiny

from srrl.adapters import adapt
from srrl.api import CrossEntropyCriterion
from srrl.distillers import METHODS, build_distiller
from srrl.distillers.base import MethodSettings
from srrl.errors import UserError
from srrl.model import Split

CE = CrossEntropyCriterion()


def batch(n=4, seed=0, size=8):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(n, 3, size, size, generator=generator)
    return {"image": image, "label": torch.arange(n) % 3, "index": torch.arange(n)}


def make(method="srrl", student=None, teacher=None, criterion=CE, **settings):
    student = student or tiny(4, seed=1)
    teacher = teacher or tiny(7, depth=2, stride=1, seed=2)
    torch.manual_seed(3)
    distiller = build_distiller(method, student, teacher, criterion, MethodSettings(**settings))
    distiller.meet(Colours(12))
    return distiller


def srrl_by_hand(distiller, data):
    """FM and SR of a pooled pair from weights and the two maps, in float64."""
    student, teacher = copy.deepcopy(distiller.student), distiller.teacher.model
    with torch.no_grad():
        f_s, f_t = student.features(data["image"]), teacher.features(data["image"])
    h_s, h_t = connector_by_hand(distiller.connector, f_s).mean((2, 3)), f_t.double().mean((2, 3))
    linear = teacher.head[-1]
    weight, bias = linear.weight.double(), linear.bias.double()
    z_s, z_t = h_s @ weight.T + bias, h_t @ weight.T + bias
    student_logits = f_s.double().mean((2, 3)) @ student.head[-1].weight.double().T
    student_logits = student_logits + student.head[-1].bias.double()
    return student_logits, z_s, z_t, float(((h_s - h_t) ** 2).sum() / h_s.numel())


def test_total_is_supervised_plus_alpha_fm_plus_beta_sr():
    data, method = batch(), make(alpha=2.0, beta=5.0).train()
    logits, z_s, z_t, fm = srrl_by_hand(method, data)
    supervised = cross_entropy(logits, data["label"])
    sr = float(((z_s - z_t) ** 2).sum() / z_s.numel())
    result = method(data)
    assert float(result["supervised"]) == pytest.approx(supervised, rel=1e-5)
    assert float(result["fm"]) == pytest.approx(fm, rel=1e-5)
    assert float(result["sr"]) == pytest.approx(sr, rel=1e-5)
    assert result["loss"].item() == pytest.approx(supervised + 2 * fm + 5 * sr, rel=1e-5)
    torch.testing.assert_close(result["output"].double(), logits, rtol=1e-5, atol=1e-5)


def test_defaults_are_the_papers():
    settings = MethodSettings()
    assert (settings.alpha, settings.beta, settings.sr_form, settings.added_kd) == (1.0, 1.0, "l2", 0.0)


def test_forms_of_softmax_regression_are_four_different_numbers():
    data, found = batch(), {}
    for form in ("l2", "ce", "kl", "labels"):
        found[form] = float(make(sr_form=form).train()(data)["sr"])
    _, z_s, z_t, _ = srrl_by_hand(make().train(), data)
    ce = -sum(
        sum(
            p * torch.tensor(q, dtype=torch.float64).log().item()
            for p, q in zip(softmax(t), softmax(s), strict=True)
        )
        for s, t in zip(z_s.tolist(), z_t.tolist(), strict=True)
    ) / len(z_s)
    assert found["ce"] == pytest.approx(ce, rel=1e-5)
    assert found["labels"] == pytest.approx(cross_entropy(z_s, data["label"]), rel=1e-5)  # ground truth
    assert found["kl"] < found["ce"]
    assert len({round(v, 4) for v in found.values()}) == 4


def test_kd_adds_its_weighted_term():
    data, method = batch(), make("kd", kd_weight=0.5, kd_temperature=2.0).train()
    with torch.no_grad():
        target = method.teacher.model(data["image"]).double()
        output = copy.deepcopy(method.student)(data["image"]).double()
    p, q = (target / 2).softmax(1), (output / 2).softmax(1)
    term = 4 * float((p * (p.log() - q.log())).sum()) / len(p)
    result = method(data)
    assert float(result["kd"]) == pytest.approx(term, rel=1e-5)
    assert result["loss"].item() == pytest.approx(cross_entropy(output, data["label"]) + 0.5 * term, rel=1e-5)


def test_added_kd_is_off_by_default_and_weighted_when_on():
    data = batch()
    plain, with_kd = make().train()(data), make(added_kd=0.3).train()(data)
    alone = float(make("kd").train()(data)["kd"])
    assert float(plain["kd"]) == 0.0
    assert with_kd["loss"].item() == pytest.approx(plain["loss"].item() + 0.3 * alone, rel=1e-5)


def test_no_teacher_is_the_supervised_loss_and_keeps_no_teacher():
    data, method = batch(), make("none").train()
    assert method.teacher is None
    with torch.no_grad():
        logits = copy.deepcopy(method.student)(data["image"])
    assert method(data)["loss"].item() == pytest.approx(cross_entropy(logits, data["label"]), rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_reach_everything_but_the_teacher(method):
    teacher = tiny(7, seed=2)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    distiller = make(method, teacher=teacher)
    optimizer = torch.optim.SGD([p for p in distiller.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        distiller.train()
        result = distiller(batch())
        assert not any(v.requires_grad for k, v in result.items() if k not in ("loss", "output"))
        result["loss"].backward()
        optimizer.step()
    for name, parameter in distiller.named_parameters():
        # what simkd ships holds a copy of the teacher's head
        if not name.startswith(
            ("teacher.", "student.head.head." if method in ("simkd", "srrl_head") else "teacher.")
        ):
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
    if method != "none":
        assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    for key, value in teacher.state_dict().items():  # BatchNorm's running statistics included
        assert torch.equal(value, before[key]), key
    if method == "srrl":
        assert {n.split(".")[0] for n, _ in distiller.named_parameters()} == {
            "student",
            "teacher",
            "connector",
        }


def test_softmax_regression_alone_trains_the_connector_through_the_frozen_head():
    distiller = make(alpha=0.0, beta=1.0).train()
    result = distiller(batch())
    (result["loss"] - distiller.criterion.supervised(result["output"], batch())).backward()
    assert distiller.connector.conv.weight.grad.abs().sum() > 0
    assert distiller.student.features[0].weight.grad.abs().sum() > 0


def test_teacher_stays_in_eval_whatever_is_called():
    distiller = make()
    modules = list(distiller.teacher.modules())
    for call in (
        lambda: distiller.train(),
        lambda: distiller.train(True),
        lambda: distiller.teacher.train(),
        lambda: nn.Sequential(distiller).train(),
    ):
        call()
        assert not any(m.training for m in modules)
    assert distiller.student.training
    assert distiller.connector.training
    distiller.teacher.model.train()  # behind its back; the trainer's next train() puts it right
    distiller.train()
    assert not any(m.training for m in modules)


def test_dropout_and_batchnorm_of_the_teacher_do_not_disturb_its_target():
    distiller = make(teacher=tiny(7, dropout=0.5, seed=2)).train()
    x = batch()["image"]
    first, second = distiller.teach(x), distiller.teach(x)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def library_teacher(name):
    import timm
    import torchvision

    torch.manual_seed(0)
    if name == "torchvision-resnet":
        return torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=3)
    return timm.create_model(name, num_classes=3)


@pytest.mark.parametrize(
    ("teacher", "activation"),
    [
        ("torchvision-resnet", nn.ReLU),
        ("resnet10t", nn.ReLU),
        ("test_efficientnet", nn.Identity),  # SiLU
        ("test_convnext", nn.Identity),
        ("test_vit", nn.Identity),  # class token
        ("test_vit2", nn.Identity),  # pooled tokens
    ],
)
def test_activation_of_the_connector_follows_the_teacher(teacher, activation):
    distiller = make(teacher=adapt(library_teacher(teacher)))
    assert type(distiller.connector.activation) is activation


def test_activation_can_be_forced():
    assert type(make(connector_activation="identity").connector.activation) is nn.Identity
    silu = tiny(5, act=nn.SiLU)
    assert type(make(teacher=silu).connector.activation) is nn.Identity
    assert type(make(teacher=silu, connector_activation="relu").connector.activation) is nn.ReLU


def test_a_teacher_of_one_image_size_is_probed_at_that_size():
    class Rigid(nn.Module):
        def forward(self, x):
            assert x.shape[2:] == (16, 16), "one size only"
            return x.relu()

    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    teacher = Split(Rigid(), head, probe=(3, 16, 16))
    assert type(make(teacher=teacher).connector.activation) is nn.ReLU


def test_unequal_numbers_of_classes_are_refused():
    with pytest.raises(UserError, match="the teacher predicts 5 classes, the student 3: both need the same"):
        make("kd", teacher=tiny(5, classes=5))


class OneSize(nn.Module):
    """A bare module under the protocol that takes pictures of one size and says so nowhere."""

    feature_channels = 3

    def __init__(self, side):
        super().__init__()
        self.side, self.linear = side, nn.Linear(3, 3)

    def forward_features(self, x):
        assert x.shape[2:] == (self.side, self.side), "one size only"
        return x - 2

    def forward_head(self, features):
        return self.linear(features.mean((2, 3)))

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


def test_a_teacher_that_names_no_size_is_probed_at_the_usual_ones():
    assert type(make(teacher=OneSize(224)).connector.activation) is nn.Identity
    with pytest.raises(UserError, match="one size only.*probe_size"):
        make(teacher=OneSize(100))
    assert type(make(teacher=OneSize(100), connector_activation="relu").connector.activation) is nn.ReLU


def test_pair_unlike_in_width_depth_and_map_size_needs_no_resizing_for_logits():
    student, teacher = tiny(3, stride=4, seed=1), tiny(9, depth=3, stride=1, seed=2)
    distiller, data = make(student=student, teacher=teacher).train(), batch()
    x = data["image"]
    assert student.forward_features(x).shape == (4, 3, 2, 2)
    assert teacher.forward_features(x).shape == (4, 9, 8, 8)
    _, z_s, z_t, fm = srrl_by_hand(distiller, data)
    result = distiller(data)
    assert float(result["fm"]) == pytest.approx(fm, rel=1e-5)
    assert float(result["sr"]) == pytest.approx(float(((z_s - z_t) ** 2).mean()), rel=1e-5)
    assert distiller.connect(student.forward_features(x), teacher.forward_features(x)).shape == (4, 9, 2, 2)


def heatmap_pair(**settings):
    student, teacher = spatial(3, stride=4, seed=1), spatial(5, stride=2, seed=2)
    distiller = make(student=student, teacher=teacher, criterion=HeatmapL2(), **settings).train()
    data = batch() | {"target": torch.rand(4, 2, 2, 2, generator=torch.Generator().manual_seed(9))}
    return distiller, data


def bilinear_by_hand(maps, size):
    """Pixel centres at half-integers of the unit grid, edges repeated; one output pixel at a time."""
    n, c, h, w = maps.shape
    out = torch.zeros(n, c, *size, dtype=torch.float64)
    for y in range(size[0]):
        for x in range(size[1]):
            v = min(max((y + 0.5) * h / size[0] - 0.5, 0), h - 1)
            u = min(max((x + 0.5) * w / size[1] - 0.5, 0), w - 1)
            y0, x0 = int(v), int(u)
            y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
            a, b = v - y0, u - x0
            top = (1 - b) * maps[:, :, y0, x0] + b * maps[:, :, y0, x1]
            low = (1 - b) * maps[:, :, y1, x0] + b * maps[:, :, y1, x1]
            out[:, :, y, x] = (1 - a) * top + a * low
    return out


def test_heatmaps_are_resized_bilinearly_after_the_connector_and_compared_per_pixel():
    distiller, data = heatmap_pair(alpha=3.0, beta=2.0)
    student, teacher = copy.deepcopy(distiller.student), distiller.teacher.model
    with torch.no_grad():
        f_s, f_t = student.features(data["image"]), teacher.features(data["image"])
        target, output = teacher.head(f_t).double(), student.head(f_s).double()
    connected = bilinear_by_hand(connector_by_hand(distiller.connector, f_s), (4, 4))
    weight = (1 + 2 * target.clamp(0, 1)).amax(1, keepdim=True)  # one weight a pixel, same size here
    squared = (connected - f_t.double()).square().mean(1, keepdim=True)
    fm = float((weight * squared).sum() / weight.sum())
    conv = teacher.head
    transferred = torch.einsum("kc,nchw->nkhw", conv.weight.double()[:, :, 0, 0], connected)
    transferred = transferred + conv.bias.double().view(1, -1, 1, 1)
    sr = float(((1 + 2 * target.clamp(0, 1)) * (transferred - target).square()).sum((2, 3)).mean())
    supervised = float((output - data["target"].double()).square().mean())
    result = distiller(data)
    assert float(result["fm"]) == pytest.approx(fm, rel=1e-5)
    assert float(result["sr"]) == pytest.approx(sr, rel=1e-5)
    assert result["loss"].item() == pytest.approx(supervised + 3 * fm + 2 * sr, rel=1e-5)


@pytest.mark.parametrize("form", ["ce", "kl"])
def test_probability_forms_are_refused_for_heatmaps(form):
    with pytest.raises(UserError, match=f"sr_form={form}.*heatmaps take sr_form=l2 or labels"):
        heatmap_pair(sr_form=form)


def test_each_model_sees_its_own_normalisation():
    student = tiny(4, norm=False, seed=1, mean=(0.1, 0.2, 0.3), std=(2.0, 3.0, 4.0))
    teacher = tiny(7, norm=False, seed=2, mean=(0.5, 0.4, 0.6), std=(0.25, 0.2, 0.1))
    distiller, data = make(student=student, teacher=teacher), batch()
    x = data["image"]

    def alone(model, mean, std):
        return model.head(
            model.features((x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1))
        )

    with torch.no_grad():
        torch.testing.assert_close(distiller.teach(x)[1], alone(teacher, (0.5, 0.4, 0.6), (0.25, 0.2, 0.1)))
        found = distiller.train()(data)["output"]
        torch.testing.assert_close(found, alone(student, (0.1, 0.2, 0.3), (2.0, 3.0, 4.0)))


def test_bytes_and_floats_are_the_same_picture():
    image = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(4) % 3
    as_bytes = make().train()({"image": image, "label": labels})
    as_floats = make().train()({"image": image.double().div(255).float(), "label": labels})
    assert as_bytes["loss"].item() == pytest.approx(as_floats["loss"].item(), rel=1e-6)


def test_trainable_state_leaves_the_teacher_out_and_loads_strictly():
    distiller, other = make(), make(student=tiny(4, seed=8))
    state = distiller.trainable_state()
    assert {k.split(".")[0] for k in state} == {"student", "connector"}
    other.load_trainable_state(state)
    assert all(torch.equal(v, state[k]) for k, v in other.trainable_state().items())
    with pytest.raises(ValueError, match=r"connector\.conv\.weight"):
        other.load_trainable_state({k: v for k, v in state.items() if not k.startswith("connector")})
    with pytest.raises(ValueError, match="unexpected"):
        other.load_trainable_state(state | {"nonsense": torch.zeros(1)})


@pytest.mark.parametrize(("name", "hint"), [("srll", "did you mean 'srrl'"), ("xyz", "none, kd, srrl")])
def test_unknown_method_offers_the_nearest(name, hint):
    with pytest.raises(UserError, match=hint):
        make(name)


@pytest.mark.parametrize("method", ["srrl", "kd"])
def test_methods_that_need_a_teacher_say_so(method):
    with pytest.raises(UserError, match="needs a teacher"):
        build_distiller(method, tiny(), None, CE, MethodSettings())


def test_negative_weights_and_misspelt_settings_are_refused():
    for bad in ({"alpha": -1.0}, {"sr_form": "l1"}, {"kd_temperature": 0.0}, {"alhpa": 1.0}):
        with pytest.raises(ValueError, match="validation error"):
            MethodSettings(**bad)


@pytest.mark.parametrize("method", ["kd", "srrl"])
def test_a_head_that_writes_into_its_map_is_refused_where_the_map_is_needed(method):
    def writing(seed):
        model = tiny(6, seed=seed)
        return Split(model.features, nn.Sequential(nn.ReLU(inplace=True), model.head))

    batch = {"image": torch.rand(4, 3, 8, 8), "label": torch.tensor([0, 1, 2, 0])}
    if method == "kd":  # it throws the map away
        build_distiller(method, tiny(6), writing(1), CrossEntropyCriterion(), MethodSettings())(batch)
        return
    pairs = {"teacher": (tiny(6), writing(1)), "student": (writing(2), tiny(6))}
    for name, (student, teacher) in pairs.items():
        distiller = build_distiller(method, student, teacher, CrossEntropyCriterion(), MethodSettings())
        with pytest.raises(UserError, match=f"the {name}'s head writes into the map"):
            distiller(batch)


def test_a_teacher_under_inference_mode_teaches():
    class Shy(Split):
        @torch.inference_mode()
        def forward_features(self, x):
            return super().forward_features(x)

    model = tiny(6, seed=1)
    teacher = Shy(model.features, model.head, channels=6)
    batch = {"image": torch.rand(4, 3, 8, 8), "label": torch.tensor([0, 1, 2, 0])}
    distiller = build_distiller("srrl", tiny(5), teacher, CrossEntropyCriterion(), MethodSettings())
    distiller(batch)["loss"].backward()
    assert distiller.connector.conv.weight.grad.abs().sum() > 0
