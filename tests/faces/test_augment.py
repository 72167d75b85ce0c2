"""Augmentation: ranges, repeatability, and painted dots that must stay where the points say."""

import hashlib
import inspect
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError
from srrl_tasks.faces.augment import Augment, AugmentConfig, jitter
from srrl_tasks.faces.crop import Crop

from srrl.errors import UserError

POINTS = np.array([[30.3, 40.2], [90.7, 35.1], [64.2, 95.6], [97.4, 88.9]])
PHOTOMETRIC = ("light", "colour", "grey", "blur", "noise", "jpeg", "occlusion")


def only(*names, **settings):
    """A configuration in which the named photometric groups always act and the others never do."""
    return AugmentConfig(**{name: float(name in names) for name in PHOTOMETRIC}, **settings)


def bright_dots():
    """(128, 128, 3) dark grey with a bright Gaussian dot at each of POINTS."""
    rows, columns = np.mgrid[:128, :128]
    image = np.full((128, 128), 50.0)
    for x, y in POINTS:
        image += 170 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 3.0**2))
    return np.repeat(np.round(image).astype(np.uint8)[:, :, None], 3, axis=2)


def dot_centres(image, radius=12):
    """Centroid of what stands out of the surroundings within `radius` pixels of each of POINTS."""
    grey = image.astype(np.float64).sum(axis=2)
    centres = []
    for column, row in np.round(POINTS).astype(int):
        part = grey[row - radius : row + radius + 1, column - radius : column + radius + 1]
        rim = np.median(np.concatenate([part[0], part[-1], part[:, 0], part[:, -1]]))
        weight = np.clip(part - rim - 0.15 * (part.max() - rim), 0, None)
        rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
        centres.append(
            [column + (weight * columns).sum() / weight.sum(), row + (weight * rows).sum() / weight.sum()]
        )
    return np.array(centres)


@pytest.mark.parametrize(
    "group, worst, strength",
    [
        ("light", 0.2, 1),
        ("colour", 0.05, 1),
        ("grey", 0.05, 1),
        ("blur", 0.1, 1),
        ("blur", 0.2, 2),
        ("jpeg", 0.2, 1),
    ],
)
def test_photometric_changes_move_nothing(group, worst, strength):
    augment, image = Augment(only(group, strength=strength)), bright_dots()
    errors, changed = [], 0
    for seed in range(60):
        out = augment.photometric(image, np.random.default_rng(seed))
        assert out.shape == image.shape and out.dtype == np.uint8
        changed += group == "grey" or bool((out != image).any())
        errors.append(dot_centres(out) - POINTS)
    assert changed > 50
    assert np.abs(errors).max() < worst
    assert np.abs(np.mean(errors, axis=0)).max() < 0.05


def test_noise_averages_out_and_moves_nothing():
    augment, image = Augment(only("noise")), bright_dots()
    outs = np.stack([augment.photometric(image, np.random.default_rng(seed)) for seed in range(60)])
    assert np.abs(dot_centres(outs.mean(axis=0)) - POINTS).max() < 0.05
    assert outs.std(axis=0).mean() > 2


def test_occlusion_covers_a_part_and_leaves_the_rest():
    augment, image = Augment(only("occlusion")), bright_dots()
    parts = []
    for seed in range(40):
        out = augment.photometric(image, np.random.default_rng(seed))
        parts.append((out != image).any(axis=2).mean())
    assert np.min(parts) > 0.005 and np.max(parts) < 0.3


def test_all_groups_together_keep_the_dots_in_place():
    augment, image = Augment(AugmentConfig(occlusion=0)), bright_dots()
    errors = [
        dot_centres(augment.photometric(image, np.random.default_rng(seed))) - POINTS for seed in range(100)
    ]
    assert np.abs(np.mean(errors, axis=0)).max() < 0.05
    assert np.percentile(np.abs(errors), 95) < 0.3


def test_jitter_stays_in_its_ranges_and_fills_them():
    base = Crop((100.0, 80.0), 50.0, 128, angle=5.0)
    cfg = AugmentConfig(rotation=20, scale=0.25, shift=0.1, flip=0.25)
    rng = np.random.default_rng(0)
    crops = [jitter(base, rng, cfg) for _ in range(2000)]
    angle = np.array([crop.angle for crop in crops]) - 5
    side = np.array([crop.side for crop in crops]) / 50
    move = (np.array([crop.center for crop in crops]) - base.center) / 50
    assert -20 <= angle.min() < -19.5 and 19.5 < angle.max() <= 20
    assert 0.8 <= side.min() < 0.805 and 1.245 < side.max() <= 1.25  # 1 / 1.25 ... 1.25
    assert -0.1 <= move.min() < -0.099 and 0.099 < move.max() <= 0.1
    assert abs(np.corrcoef(move.T)[0, 1]) < 0.1
    assert abs(np.mean([crop.flip for crop in crops]) - 0.25) < 0.04


def test_switching_one_part_off_leaves_the_other_draws_alone():
    base = Crop((100.0, 80.0), 50.0, 128)
    full = jitter(base, np.random.default_rng(3), AugmentConfig(flip=1))
    bare = jitter(base, np.random.default_rng(3), AugmentConfig(flip=0, rotation=0))
    assert (full.center, full.side) == (bare.center, bare.side)
    assert full.flip and not bare.flip and full.angle != 0 and bare.angle == 0


@pytest.mark.parametrize("config", [AugmentConfig(enabled=False), AugmentConfig(strength=0, flip=0)])
def test_switched_off_nothing_changes(config):
    augment, image, crop = Augment(config), bright_dots(), Crop((60.0, 60.0), 90.0, 128)
    for seed in range(10):
        assert augment.jitter(crop, np.random.default_rng(seed)) == crop
        assert (augment.photometric(image, np.random.default_rng(seed)) == image).all()


def digest(augment, seeds):
    image = (np.arange(128 * 128 * 3) // 7 % 251).astype(np.uint8).reshape(128, 128, 3)
    outs = [augment.photometric(image, np.random.default_rng(seed)) for seed in seeds]
    return [hashlib.sha256(out.tobytes()).hexdigest() for out in outs]


def test_the_generator_alone_decides():
    augment = Augment(AugmentConfig(strength=1.3))
    first = digest(augment, range(12))
    assert len(set(first)) > 8
    assert digest(augment, reversed(range(12)))[::-1] == first  # whatever came before
    assert digest(pickle.loads(pickle.dumps(augment)), range(12)) == first


def test_a_fresh_process_imports_late_asks_no_network_and_draws_the_same():
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = f"""
import hashlib, os, sys
import numpy as np
sys.path.insert(0, {root!r})
from srrl.task import ensure_tasks_importable
ensure_tasks_importable()
import srrl_tasks.faces.augment as module
module.Augment(module.AugmentConfig(enabled=False))
assert 'albumentations' not in sys.modules
augment = module.Augment()
assert os.environ['NO_ALBUMENTATIONS_UPDATE'] == '1'
{inspect.getsource(digest)}
print(*digest(augment, range(12)))
"""
    env = {name: value for name, value in os.environ.items() if name != "NO_ALBUMENTATIONS_UPDATE"}
    result = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, env=env
    )
    assert result.stdout.split() == digest(Augment(), range(12)), result.stderr


def test_missing_albumentations_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "albumentations", None)
    with pytest.raises(UserError, match="pip install"):
        Augment()


@pytest.mark.parametrize("wrong", [{"rotatoin": 3}, {"flip": 1.5}, {"scale": 1.0}, {"strength": -1}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        AugmentConfig(**wrong)
