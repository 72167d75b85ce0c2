"""The Python API in the ten lines a user writes, and imports that stay light."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.data import TensorDataset
from toys import Colours, tiny

import srrl
from srrl.api import accuracy
from srrl.checkpoint import load_weights
from srrl.data import KeyedDataset
from srrl.speed import latency

ROOT = Path(__file__).resolve().parents[2]
QUIET = {"say": lambda _: None}


@pytest.fixture(scope="module")
def teacher():
    return srrl.distill(
        tiny(8, seed=2), tiny(8, seed=2), Colours(60), method="none", epochs=6, lr=0.02, **QUIET
    )


def test_a_pair_of_splits_in_ten_lines(teacher):
    data = Colours(60)
    images = torch.stack([image for image, _ in data])
    labels = torch.tensor([label for _, label in data])
    train, val = TensorDataset(images[:48], labels[:48]), TensorDataset(images[48:], labels[48:])
    torch.manual_seed(0)
    student = srrl.Split(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    )
    lines = []
    found = srrl.distill(
        teacher, student, train, val, epochs=6, lr=0.02, batch_size=12, alpha=1, beta=5, say=lines.append
    )
    assert found is student
    assert not any(m.training for m in found.modules())
    with torch.no_grad():
        right = (found(images[48:]).argmax(1) == labels[48:]).float().mean()
    assert right > 0.8
    assert len(lines) == 6
    assert all("loss" in line and "val top1" in line for line in lines)


def test_a_torchvision_student_is_trained_in_place(teacher):
    torch.manual_seed(0)
    resnet = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=3)
    before = resnet.fc.weight.detach().clone()
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    data = TensorDataset(images, torch.arange(8) % 3)
    found = srrl.distill(teacher, resnet, data, epochs=1, batch_size=4, **QUIET)
    assert found.model is resnet
    assert not torch.equal(resnet.fc.weight, before)
    assert found(torch.rand(2, 3, 32, 32)).shape == (2, 3)


def test_the_result_has_the_best_weights_and_they_lie_beside_the_checkpoint(teacher, tmp_path):
    figures, seen = iter([1.0, 9.0, 5.0]), []

    def validate(model):
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return {"score": next(figures)}

    student = srrl.distill(
        teacher,
        tiny(4),
        Colours(24),
        validate=validate,
        metric="score",
        epochs=3,
        checkpoint=tmp_path / "run.pt",
        **QUIET,
    )
    assert all(torch.equal(v, seen[1][k]) for k, v in student.state_dict().items())
    other = tiny(4, seed=9)
    load_weights(other, tmp_path / "run.safetensors")
    assert all(torch.equal(v, seen[1][k]) for k, v in other.state_dict().items())
    lines = []
    again = srrl.distill(
        teacher, tiny(4), Colours(24), epochs=3, checkpoint=tmp_path / "run.pt", say=lines.append
    )
    assert lines == []  # it was finished
    assert all(torch.equal(v, seen[1][k]) for k, v in again.state_dict().items())


def test_equal_seeds_give_equal_students(teacher):
    def once(seed):
        torch.manual_seed(4)
        return srrl.distill(
            teacher, tiny(4), Colours(24, noise=0.1), epochs=1, seed=seed, **QUIET
        ).state_dict()

    first, second, other = once(1), once(1), once(2)
    assert all(torch.equal(v, second[k]) for k, v in first.items())
    assert not torch.equal(first["features.0.weight"], other["features.0.weight"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "srll"}, "unknown method 'srll': did you mean 'srrl'"),
        ({"alhpa": 2.0}, "settings .*alhpa.*expected alpha, beta"),
        ({"alpha": -2.0}, "settings .*alpha.* do not fit"),
        ({"sr_form": "l1"}, "settings .*sr_form.* do not fit"),
        ({"student": nn.Linear(2, 2)}, r"Linear has no forward_features.*srrl\.Split"),
        ({"train": []}, "training set is empty"),
        ({"val": []}, "val is empty"),
        (
            {"student": tiny(4, classes=2), "method": "none"},
            "label 2 in a batch, but the model has 2 classes: expected labels 0 … 1",
        ),
        ({"student": tiny(4, classes=2)}, "the teacher predicts 3 classes, the student 2"),
        ({"train": [("a.jpg", 1)]}, "sample 0 holds an image of type str"),
        ({"checkpoint": "x.safetensors"}, r"give a name in \.pt"),
    ],
)
def test_mistakes_are_user_errors_of_one_line(teacher, change, said):
    options = {"student": tiny(4), "train": Colours(12), "epochs": 1} | change
    with pytest.raises(srrl.UserError, match=said) as error:
        srrl.distill(teacher, **options, **QUIET)
    assert "\n" not in str(error.value)


def test_accuracy_by_hand_and_the_models_mode():
    class FirstPixel(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return self.scale * x[:, :, 0, 0]

    images = torch.zeros(4, 3, 2, 2)
    images[range(4), [0, 1, 2, 0]] = 1.0  # predicted class of each
    data = KeyedDataset(TensorDataset(images, torch.tensor([0, 1, 2, 1])))
    model = FirstPixel()
    assert accuracy(model, data) == {"top1": 75.0}
    assert model.training


def test_latency_puts_threads_back_and_orders_a_small_and_a_large_network():
    before = torch.get_num_threads()
    small, large = tiny(4), tiny(96, depth=4, stride=1)
    found = latency({"small": small, "large": large}, 32, rounds=5, warmup=1)
    assert torch.get_num_threads() == before
    assert 0 < found["small"]["p50"] <= found["small"]["p95"]
    assert found["small"]["p50"] < found["large"]["p50"]


def test_names_of_the_package():
    assert set(dir(srrl)) >= {"__version__"}
    for name in srrl.__all__:
        assert getattr(srrl, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        _ = srrl.distil


LIGHT = """
import contextlib, io, runpy, sys, time
start = time.process_time()
import srrl
after_import = time.process_time() - start
sys.argv = ["train", "--help"]
out = io.StringIO()
with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
    runpy.run_module("srrl.train", run_name="__main__")
heavy = [m for m in ("torch", "torchvision", "timm", "accelerate", "albumentations", "cv2", "matplotlib") if m in sys.modules]
assert not heavy, heavy
assert "--task" in out.getvalue() and "--resume" in out.getvalue(), out.getvalue()
print(after_import, time.process_time() - start)
"""


def test_import_and_help_are_light():
    done = subprocess.run(
        [sys.executable, "-c", LIGHT], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    imported, helped = map(float, done.stdout.split())  # processor time: a busy machine does not count
    assert imported < 0.5
    assert helped < 1.0
