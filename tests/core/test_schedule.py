"""Learning rates at positions worked out by hand, and what each optimiser decays."""

import math

import pytest
from torch import nn

from srrl.config import OptimSettings
from srrl.schedule import build_optimizer, rate


def settings(**values):
    return OptimSettings(**{"lr": 0.2, "warmup": 0.0, **values})


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0.5, 0.02), (1, 0.04), (2.5, 0.1), (4, 0.16), (5, 0.2), (7, 0.2)]
)
def test_warm_up_is_linear_and_ends_at_the_rate(epoch, expected):
    assert rate(settings(schedule="constant", warmup=5.0), epoch, 10) == pytest.approx(expected, rel=1e-9)


def test_the_first_step_of_a_warm_up_is_small_but_not_zero():
    assert 0 < rate(settings(warmup=1.0), 0.0, 10) < 0.2 * 0.01


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (2, 0.2),  # right after the warm-up
        (4, 0.1 * (1 + math.cos(math.pi / 4))),
        (6, 0.1),  # half way through what is left
        (10, 0.0),
        (11, 0.0),
    ],
)
def test_cosine_runs_from_the_rate_to_zero_after_the_warm_up(epoch, expected):
    assert rate(settings(schedule="cosine", warmup=2.0), epoch, 10) == pytest.approx(expected, abs=1e-12)


def test_cosine_without_warm_up_starts_at_the_rate():
    assert rate(settings(schedule="cosine"), 0.0, 10) == 0.2
    assert rate(settings(schedule="cosine"), 5.0, 10) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0, 0.2),
        (29.99, 0.2),
        (30, 0.02),
        (59.99, 0.02),
        (60, 0.002),
        (89.99, 0.002),
        (90, 0.0002),
        (99.99, 0.0002),
    ],
)
def test_the_papers_steps(epoch, expected):
    recipe = settings(schedule="step", milestones=[30, 60, 90])
    assert rate(recipe, epoch, 100) == pytest.approx(expected, rel=1e-9)


def test_step_with_warm_up_and_gamma():
    recipe = settings(schedule="step", milestones=[4], gamma=0.5, warmup=2.0)
    assert [rate(recipe, e, 10) for e in (1, 3, 4)] == pytest.approx([0.1, 0.2, 0.1])


def test_sgd_decays_everything_and_adamw_matrices_only():
    modules = [nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), nn.Linear(2, 2)]
    modules[1].bias.requires_grad_(False)
    sgd = build_optimizer(settings(name="sgd", weight_decay=1e-4, momentum=0.8, nesterov=True), modules)
    (group,) = sgd.param_groups
    assert len(group["params"]) == 5
    assert (group["lr"], group["weight_decay"], group["momentum"], group["nesterov"]) == (
        0.2,
        1e-4,
        0.8,
        True,
    )
    adamw = build_optimizer(settings(name="adamw", weight_decay=0.05), modules)
    decayed, free = adamw.param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0.0)
    assert {tuple(p.shape) for p in decayed["params"]} == {(4, 3, 3, 3), (2, 2)}
    assert all(p.shape == (4,) for p in free["params"])
    assert len(free["params"]) == 3
