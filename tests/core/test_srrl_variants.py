"""SRRL's variants and SimKD, which keeps the teacher's head: losses by hand, and what ships."""

import copy

import pytest
import torch
from staged import Staged, batch, make, rows
from toys import HeatmapL2

from srrl.errors import UserError
from srrl.losses import softmax_regression_pearson


def test_simkd_ships_trunk_projector_and_the_teachers_head():
    student, teacher = Staged((4, 5, 6), seed=1), Staged((6, 8, 9), seed=2)
    distiller = make("simkd", student=student, teacher=teacher, simkd_weight=3.0).train()
    shipped = distiller.student
    n = lambda *modules: sum(p.numel() for m in modules for p in m.parameters())  # noqa: E731
    projector = 6 * 4 + 4 * 4 * 9 + 4 * 9 + 2 * (4 + 4 + 9)  # convolutions and BatchNorms
    assert n(shipped) == n(student.stages) + projector + n(teacher.head)
    data = batch()
    with torch.no_grad():
        reference = copy.deepcopy(shipped)
        projected = reference.projector(reference.trunk.forward_features(data["image"]))
        taught = distiller.teacher.forward_features(data["image"])
        expected = float((projected.double() - taught.double()).square().mean())
        logits = projected.mean((2, 3)) @ teacher.head.weight.T + teacher.head.bias
    result = distiller(data)
    assert float(result["loss"]) == pytest.approx(3 * expected, rel=1e-5)
    torch.testing.assert_close(result["output"], logits, rtol=1e-4, atol=1e-4)
    result["loss"].backward()
    trained = {k for k, p in shipped.named_parameters() if p.grad is not None}
    assert {k.partition(".")[0] for k in trained} == {"trunk", "projector"}
    assert len(trained) == sum(1 for k, _ in shipped.named_parameters() if not k.startswith("head."))


def test_simkd_serves_heatmaps_and_maps_of_another_size():
    student = Staged((4, 5, 6), head="spatial", seed=1)
    teacher = Staged((6, 8, 9), head="spatial", strides=(2, 1, 1), seed=2)
    distiller = make("simkd", student=student, teacher=teacher, criterion=HeatmapL2())
    data = {**batch(), "target": torch.zeros(6, 2, 8, 8)}
    assert distiller.train()(data)["output"].shape == (6, 2, 8, 8)
    assert distiller.student.head.training is False


def test_relational_form_of_sr_by_numpy_and_its_invariance():
    import numpy as np

    a, b = rows(4, 5, seed=0), rows(4, 5, seed=1)
    corr = lambda x, y: np.mean([np.corrcoef(u, v)[0, 1] for u, v in zip(x.double(), y.double())])  # noqa: E731
    assert float(softmax_regression_pearson(a, b)) == pytest.approx(2 - corr(a, b) - corr(a.T, b.T), rel=1e-5)
    assert float(softmax_regression_pearson(a, 5 * a + 2)) == pytest.approx(0, abs=1e-5)
    assert float(make("srrl", sr_form="pearson")(batch())["sr"]) > 0


def test_pooled_variant_is_not_the_papers_method():
    """Its connector sees one pixel a picture: BatchNorm over the batch alone."""
    distiller, data = make("srrl_pooled").train(), batch()
    with torch.no_grad():
        pooled = distiller.student.forward_features(data["image"]).double().mean((2, 3))
        z = pooled @ distiller.connector.conv.weight[:, :, 0, 0].double().T
        z = (z - z.mean(0)) / (z.var(0, unbiased=False) + distiller.connector.bn.eps).sqrt()
        taught = distiller.teacher.forward_features(data["image"]).double().mean((2, 3))
        expected = float((z.relu() - taught).square().mean())
    assert float(distiller(data)["fm"]) == pytest.approx(expected, rel=1e-4)
    assert float(make("srrl").train()(data)["fm"]) != pytest.approx(expected, rel=1e-2)


def test_losses_at_stages_send_each_map_through_the_rest_of_the_teacher():
    distiller, data = make("srrl_stages", srrl_stages=[0, 2], alpha=2.0, beta=3.0).train(), batch()
    reference = copy.deepcopy(distiller)
    with torch.no_grad():
        teacher, x = reference.teacher.model, data["image"]
        maps_s, maps_t = reference.student.forward_intermediates(x), teacher.forward_intermediates(x)
        target = teacher(x)
        fm = sr = 0.0
        for stage, connector in zip((0, 2), reference.connectors, strict=True):
            m = connector(maps_s[stage])
            fm += float((m.mean((2, 3)) - maps_t[stage].mean((2, 3))).square().mean())
            for later in range(stage + 1, 3):
                m = teacher.stages[later](m)
            sr += float((teacher.head(m.mean((2, 3))) - target).square().mean())
    result = distiller(data)
    assert [float(result["fm"]), float(result["sr"])] == pytest.approx([fm, sr], rel=1e-4)
    assert float(result["loss"]) == pytest.approx(float(result["supervised"]) + 2 * fm + 3 * sr, rel=1e-4)


def test_losses_at_the_last_stage_alone_are_srrl():
    data, plain = batch(), make("srrl").train()
    stages = make("srrl_stages", srrl_stages=[2]).train()
    stages.connectors[0].load_state_dict(plain.connector.state_dict())
    one, other = plain(data), stages(data)
    for part in ("supervised", "fm", "sr", "loss"):
        assert float(other[part]) == pytest.approx(float(one[part]), rel=1e-5)
    with pytest.raises(UserError, match="share stages 0 to 2"):
        make("srrl_stages", srrl_stages=[3])


def test_head_variant_is_used_through_the_teachers_head():
    distiller, data = make("srrl_head").train(), batch()
    teacher = distiller.teacher.model
    reference = copy.deepcopy(distiller.student)
    with torch.no_grad():
        connected = reference.projector(reference.trunk.forward_features(data["image"]))
        logits = connected.mean((2, 3)) @ teacher.head.weight.T + teacher.head.bias
        sr = float((logits - teacher(data["image"])).square().mean())
    result = distiller(data)
    torch.testing.assert_close(result["output"], logits, rtol=1e-4, atol=1e-4)
    assert float(result["sr"]) == pytest.approx(sr, rel=1e-4)
    own_head = {k for k, _ in distiller.student.named_parameters() if k.startswith("trunk.head")}
    assert not own_head


def test_trunk_keeps_what_its_owner_froze():
    student = Staged((4, 5, 6), seed=1)
    student.stages[0].requires_grad_(False)
    trunk = make("simkd", student=student).student.trunk
    assert not any(p.requires_grad for p in trunk.stages[0].parameters())
    assert all(p.requires_grad for p in trunk.stages[1].parameters())


def test_simkd_averages_a_larger_map_before_its_projector():
    distiller = make("simkd", student=Staged((4, 5, 6), strides=(1, 1, 2)), teacher=Staged((6, 8, 9)))
    assert distiller.student.forward_features(torch.rand(2, 3, 16, 16)).shape == (2, 9, 4, 4)
