"""The field's networks: parameters as published, and the two hand-written blocks against the usual way to write them."""

import argparse
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from srrl_tasks.classification.networks import build_network

from srrl.errors import UserError
from srrl.inspection import count_parameters
from srrl.train import resolve_settings

UNIT = {"mean": (0.0,) * 3, "std": (1.0,) * 3}

# millions of parameters: He et al. 2016 Table 6 (10 classes), Zagoruyko and Komodakis 2016, RepDistiller's table and
# the SRRL paper's (100 classes)
PUBLISHED = [
    ("resnet20", None, 10, 0.27),
    ("resnet32", None, 10, 0.46),
    ("resnet44", None, 10, 0.66),
    ("resnet56", None, 10, 0.85),
    ("resnet110", None, 10, 1.7),
    ("wrn-40-1", None, 10, 0.56),
    ("wrn-40-2", None, 100, 2.26),
    ("wrn-40-4", None, 10, 8.9),
    ("wrn-16-2", None, 100, 0.70),
    ("resnet8x4", None, 100, 1.23),
    ("resnet32x4", None, 100, 7.43),
    ("vgg8", None, 100, 3.96),
    ("vgg13", None, 100, 9.46),
    ("resnet10", 64, 100, 4.95),
    ("resnet34", 64, 100, 21.33),
    ("shufflenetv1", None, 100, 0.95),
    ("shufflenetv2", None, 100, 1.36),
    ("mobilenetv2", 0.5, 100, 0.81),
]


@pytest.mark.parametrize(("name", "width", "classes", "millions"), PUBLISHED)
def test_parameters_are_the_published_ones(name, width, classes, millions):
    model = build_network(name, classes, width=width, **UNIT)
    digits = len(str(millions).partition(".")[2])
    assert count_parameters(model) / 1e6 == pytest.approx(millions, abs=1.05 * 10**-digits)


@pytest.mark.parametrize(
    "name", ["resnet8", "resnet18", "resnet50", "wrn-16-1", "vgg11", "mobilenetv1", "shufflenetv1"]
)
def test_maps_end_in_the_features_and_the_head_is_the_rest(name):
    model = build_network(name, 7, **UNIT).eval()
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        maps, whole = model.forward_intermediates(x), model(x)
        assert maps[-1].shape[1] == model.feature_channels and len(maps) == len(model.stage_modules())
        torch.testing.assert_close(model.forward_head(maps[-1]), whole)
    assert whole.shape == (2, 7) and maps[0].shape[-1] >= 16 and maps[-1].shape[-1] in (4, 8)


def test_normalisation_is_inside():
    plain = build_network("resnet8", 5, **UNIT).eval()
    inside = build_network("resnet8", 5, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0)).eval()
    inside.load_state_dict(plain.state_dict())
    x = torch.rand(1, 3, 32, 32)
    by_hand = (x - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 0.25, 2.0]).view(3, 1, 1)
    torch.testing.assert_close(inside(x), plain(by_hand))


def usual_wrn(model, x):
    """WRN-16-k the way its authors' code writes it: BatchNorm and ReLU open every block, one pair closes the network."""

    def bn_relu(x, bn):
        return F.relu(F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, False, 0, bn.eps))

    # the BatchNorm that opens each block: our stages close with the one that opens the next stage's first block
    opening = []
    for stage in model.stages:
        *blocks, bn, _ = stage
        opening += [b.activate[0] if len(list(b.activate.children())) else None for b in blocks] + [bn]
    opening = [bn for bn in opening if bn is not None]
    x = F.conv2d(x, model.stem.weight, padding=1)
    place = 0
    for level, stage in enumerate(model.stages):
        for i, block in enumerate(list(stage)[:-2]):
            stride = 2 if level and not i else 1
            y = bn_relu(x, opening[place])
            place += 1
            conv1, bn2, _, conv2 = block.residual
            z = F.conv2d(
                bn_relu(F.conv2d(y, conv1.weight, stride=stride, padding=1), bn2), conv2.weight, padding=1
            )
            changes = stride != 1 or conv1.in_channels != conv1.out_channels
            x = z + (F.conv2d(y, block.shortcut.weight, stride=stride) if changes else x)
    x = bn_relu(x, opening[place])
    return F.linear(x.mean((2, 3)), model.classifier.weight, model.classifier.bias)


@pytest.mark.parametrize("name", ["wrn-16-1", "wrn-16-2"])
def test_wrn_is_the_usual_pre_activation_network(name):
    model = build_network(name, 4, **UNIT)
    torch.manual_seed(0)
    for m in model.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.2)
            m.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(m.weight, 0.5, 1.5)
            torch.nn.init.normal_(m.bias, 0, 0.2)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), usual_wrn(model, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "width", "message"),
    [
        ("resnet21", None, "did you mean 'resnet"),
        ("wrn-17-2", None, "did you mean 'wrn-1"),
        ("mobilenet", None, "did you mean 'mobilenetv"),
        ("zebra", None, "expected one of resnet8"),
        ("vgg8", 2, "width=2 is not for vgg8"),
        ("timm/test_resnet", 2, "library networks have their own"),
    ],
)
def test_what_there_is_not_is_said(name, width, message):
    with pytest.raises(UserError, match=message):
        build_network(name, 4, width=width, **UNIT)


def test_pretrained_is_for_library_networks():
    with pytest.raises(UserError, match="pretrained=true needs"):
        build_network("resnet8", 4, pretrained=True, **UNIT)
    assert build_network("timm/test_resnet", 4, **UNIT)(torch.rand(1, 3, 64, 64)).shape == (1, 4)


@pytest.mark.parametrize(("name", "width"), [("resnet8", 0.5), ("resnet18", 1.9)])
def test_widths_are_whole_channels(name, width):
    with pytest.raises(UserError, match="expected a whole number of channels"):
        build_network(name, 4, width=width, **UNIT)


CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))
# of the students in millions, from the published tables (100 classes); CIFAR-10's rows have 10 classes
STUDENTS = {
    "resnet8": 0.078,
    "resnet14": 0.175,
    "wrn16-1": 0.175,
    "wrn16-2": 0.70,
    "wrn16-4": 2.77,
    "mobilenetv2": 0.82,
}


@pytest.mark.parametrize("config", [c for c in CONFIGS if "faces" not in c.name], ids=lambda c: c.stem)
def test_every_recipe_builds_the_pair_that_it_names(config):
    args = argparse.Namespace(config=str(config), overrides=[], task=None, quick=False)
    task, cfg = resolve_settings(args)
    cfg.data.n_classes = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}[cfg.data.format]
    cfg.teacher.pretrained = False
    teacher, student = task.build_teacher(cfg), task.build_student(cfg)
    if task.name == "binary":  # of the same form, one bit a weight
        assert count_parameters(student) == pytest.approx(count_parameters(teacher), rel=0.01)
    else:
        assert count_parameters(teacher) > 1.2 * count_parameters(student)
    pair, short = config.stem.removesuffix("-short"), config.stem.endswith("-short")
    named = next((v for k, v in STUDENTS.items() if pair.endswith(k)), None)
    if named is not None:
        assert count_parameters(student) / 1e6 == pytest.approx(named, rel=0.03)
    assert cfg.optim.nesterov is False and cfg.method == "srrl" and (cfg.alpha, cfg.beta) == (1, 1)
    if short:  # for a CPU: not the paper's schedule
        assert cfg.optim.schedule == "cosine" and cfg.epochs == 30
    elif task.name != "binary" or cfg.optim.schedule == "step":
        assert cfg.optim.milestones and max(cfg.optim.milestones) < cfg.epochs


@pytest.mark.parametrize("section", ["student", "data", "teacher", "optim"])
def test_a_number_where_a_section_belongs_is_the_users_error(section):
    args = argparse.Namespace(config=None, overrides=[f"{section}=3"], task="classification", quick=False)
    with pytest.raises(UserError, match=section):
        resolve_settings(args)


def test_the_narrow_student_is_for_the_digits_alone():
    def width(*overrides):
        args = argparse.Namespace(config=None, overrides=list(overrides), task="classification", quick=False)
        return resolve_settings(args)[1].student.width

    assert width() == 4 and width("epochs=3") == 4
    assert width("student.arch=wrn-16-1") is None and width("student.width=8") == 8
