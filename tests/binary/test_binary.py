"""Binary layers against loops, operation counts against published ones, and the two stages of training."""

import argparse
import json

import numpy as np
import pytest
import torch
from forked import forked
from safetensors.torch import load_file
from srrl_tasks.binary.layers import BinaryConv2d, BinaryLinear, binarize_activation, binarize_weight, sign
from srrl_tasks.binary.networks import binary_resnet, count_operations, packed_size
from srrl_tasks.binary.settings import BinarySettings
from srrl_tasks.binary.task import BinaryTask

from srrl.checkpoint import load_state
from srrl.errors import UserError
from srrl.pipeline import Pipeline
from srrl.runs import RunFolder
from srrl.train import resolve_settings

UNIT = {"mean": (0.0,) * 3, "std": (1.0,) * 3}


def test_sign_has_no_zero():
    assert sign(torch.tensor([-0.0, 0.0, 1e-30, -1e-30, 5.0, -5.0])).tolist() == [1, 1, 1, -1, 1, -1]


@pytest.mark.parametrize(
    ("function", "slope"),
    [
        (binarize_weight, lambda x: 1.0 if abs(x) <= 1 else 0.0),
        (binarize_activation, lambda x: 2 + 2 * x if -1 <= x < 0 else 2 - 2 * x if 0 <= x < 1 else 0.0),
    ],
)
def test_gradients_of_the_estimators(function, slope):
    """Bi-Real Net writes ApproxSign's derivative as 2 + 2x left and 2 − 2x right of 0."""
    x = torch.tensor([-3.0, -1.0, -0.75, -0.1, 0.0, 0.4, 0.99, 1.5], requires_grad=True)
    incoming = torch.arange(1.0, 9.0)
    function(x).backward(incoming)
    expected = [g * slope(v) for g, v in zip(incoming.tolist(), x.tolist(), strict=True)]
    assert x.grad.tolist() == pytest.approx(expected, rel=1e-5)
    assert function(x).tolist() == sign(x).tolist()


def test_convolution_by_a_loop_pads_with_zeros_and_scales_afterwards():
    torch.manual_seed(0)
    layer = BinaryConv2d(2, 3, 3, stride=2, padding=1)
    with torch.no_grad():
        layer.alpha.copy_(torch.tensor([0.5, 2.0, 3.0]))
        x = torch.randn(2, 2, 5, 4)
        x[0, 0, 1, 1] = 0.0
        found = layer(x)
    assert found.shape == (2, 3, 3, 2)
    for n, k, i, j in np.ndindex(2, 3, 3, 2):
        total = 0
        for c, a, b in np.ndindex(2, 3, 3):
            y, z = 2 * i + a - 1, 2 * j + b - 1
            if 0 <= y < 5 and 0 <= z < 4:  # outside there is nothing, neither +1 nor −1
                s = 1 if float(x[n, c, y, z]) >= 0 else -1
                w = 1 if float(layer.weight[k, c, a, b]) >= 0 else -1
                total += s * w
        assert float(found[n, k, i, j]) == pytest.approx(total * float(layer.alpha[k]), rel=1e-6)


def test_linear_by_hand():
    layer = BinaryLinear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.2, -0.7, 0.0], [-1.0, -1.0, 3.0]]))
        layer.alpha.copy_(torch.tensor([2.0, 0.5]))
        layer.bias.copy_(torch.tensor([1.0, -1.0]))
    # signs of the input + − +, of the weights + − + and − − +: products 3 and 1
    assert layer(torch.tensor([[4.0, -0.1, 0.0]])).tolist() == [[7.0, -0.5]]


def test_scale_begins_at_the_mean_of_the_weights():
    layer = BinaryConv2d(4, 5, 3)
    expected = [float(w.abs().sum() / w.numel()) for w in layer.weight]
    assert layer.alpha.tolist() == pytest.approx(expected, rel=1e-6)
    assert BinaryConv2d(4, 5, 3, precision="activations").alpha.tolist() == [1.0] * 5


@pytest.mark.parametrize("precision", ["real", "activations", "binary"])
def test_precision_says_what_is_rounded_to_signs(precision):
    torch.manual_seed(0)
    layer, x = BinaryConv2d(2, 3, 3, precision=precision), torch.randn(1, 2, 4, 4)
    weight = layer.weight.sign() if precision == "binary" else layer.weight
    expected = torch.nn.functional.conv2d(x if precision == "real" else x.sign(), weight)
    torch.testing.assert_close(layer(x), expected * layer.alpha.view(1, -1, 1, 1))


def test_autocast_keeps_the_signs_exact():
    """Sums of ±1 up to 256 are exact in bf16; the scale is rounded afterwards only."""
    torch.manual_seed(0)
    layer, x = BinaryConv2d(16, 4, 3), torch.randn(1, 16, 6, 6)
    with torch.no_grad():
        layer.alpha.fill_(0.5)
        with torch.autocast("cpu", torch.bfloat16):
            half = layer(x)
        torch.testing.assert_close(half.float(), layer(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("image_size", "classes", "ops", "mebibytes"), [(224, 1000, 1.64e8, 4.0), (32, 10, 1.67e7, 2.1)]
)
def test_resnet18_has_the_published_operations_and_size(image_size, classes, ops, mebibytes):
    """1.64e8 OPs and 4.0 MiB on ImageNet as Real-to-Binary and ReActNet count; 1.67e7 for the CIFAR form."""
    model = binary_resnet("resnet18", classes, precision="binary", image_size=image_size, **UNIT)
    assert count_operations(model, image_size)["ops"] == pytest.approx(ops, rel=0.01)
    assert packed_size(model) / 2**20 == pytest.approx(mebibytes, rel=0.02)
    real = binary_resnet("resnet18", classes, precision="activations", image_size=image_size, **UNIT)
    assert count_operations(real, image_size)["bops"] == 0 and packed_size(real) > 10 * packed_size(model)


def test_second_stage_goes_on_from_the_first_with_scaled_signs():
    task, cfg = BinaryTask(), BinarySettings(image_size=16)
    cfg.data.n_classes, cfg.data.format = 10, "digits"
    (suffix, first), (last, second) = task.stages(cfg)
    assert (suffix, last) == ("-stage1", "") and first.optim.weight_decay == 1e-5
    assert second.optim.weight_decay == 0 and cfg.precision_of_weights == "binary"
    one, two = task.build_student(first), task.build_student(second)
    two.load_state_dict(one.state_dict())
    before = [m.alpha.clone() for m in two.modules() if isinstance(m, BinaryConv2d)]
    task.begin_stage(two)
    for old, m in zip(before, (m for m in two.modules() if isinstance(m, BinaryConv2d)), strict=True):
        size = torch.stack([w.abs().mean() for w in m.weight])
        torch.testing.assert_close(m.alpha, old * size)
        assert m.precision == "binary"
    cfg.stage1_epochs = 0
    assert [s for s, _ in task.stages(cfg)] == [""]


def test_a_dry_run_has_one_epoch_of_each_stage():
    task, cfg = BinaryTask(), BinarySettings()
    cfg.teacher.memory = "maps"
    brief = task.brief(cfg)
    assert (brief.epochs, brief.stage1_epochs) == (1, 1) and brief.teacher.epochs is None
    assert brief.teacher.memory is None and cfg.stage1_epochs > 1 and cfg.teacher.memory == "maps"
    cfg.stage1_epochs = cfg.teacher.epochs = 0
    brief = task.brief(cfg)
    assert (brief.stage1_epochs, brief.teacher.epochs) == (0, 0)


def test_networks_without_a_binary_form_are_refused():
    with pytest.raises(UserError, match="'resnet50' has no binary form: expected one of resnet8"):
        binary_resnet("resnet50", 10, precision="binary", image_size=32, **UNIT)


def test_run_trains_both_stages_and_reports_operations(trained, tmp_path):
    folder, out = trained
    phases = ("teacher", "baseline-stage1", "baseline", "student-stage1", "student")
    assert [p for p in phases if f"\n{p}" in out] == list(phases)
    results = json.loads((folder / "results.json").read_text())
    student = results["student"]
    assert student["ops"] == pytest.approx(student["bops"] / 64 + student["flops"]) and student["bops"] > 0
    assert results["teacher"]["bops"] == 0 and student["packed_bytes"] < student["size_bytes"]
    weights = load_file(folder / "weights/student.safetensors")
    latent = [v for k, v in weights.items() if k.endswith("conv.weight")]
    assert len(latent) == 6 and all(v.abs().max() <= 1 for v in latent)  # clipped after each update
    status, out, error = forked("evaluate", folder, "--model", "student", "--json", tmp_path / "again.json")
    assert status == 0, error
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["student"]["top1"] == pytest.approx(student["top1"])


def test_the_connector_goes_on_into_the_second_stage(tiny, tmp_path):
    args = argparse.Namespace(
        config=None, overrides=[*tiny, "baseline=false", "epochs=1"], task="binary", quick=False
    )
    task, cfg = resolve_settings(args)

    def with_idle_second(cfg):  # what the second stage ends with is then what it began with
        first, (suffix, second) = BinaryTask.stages(task, cfg)
        second = second.model_copy(deep=True)
        second.optim.lr = 1e-12
        return [first, (suffix, second)]

    task.stages = with_idle_second
    run = RunFolder(tmp_path / "run")
    Pipeline(task, cfg, run, say=lambda _: None).run()
    first, second = (load_state(run.checkpoint(name))["model"] for name in ("student-stage1", "student"))
    connector = [k for k in first if k.startswith("connector.") and k.endswith("weight")]
    assert connector and any(k.startswith("student.") for k in first)
    for key in [k for k in first if k.endswith("weight")]:
        torch.testing.assert_close(second[key], first[key], rtol=1e-4, atol=1e-6)


def test_methods_that_keep_a_head_are_for_one_stage(tiny, tmp_path):
    status, _, error = forked(
        "train", "--task", "binary", *tiny, "method=simkd", "--run-dir", tmp_path / "run"
    )
    assert status == 2 and "trains in one stage" in error.splitlines()[-1]
