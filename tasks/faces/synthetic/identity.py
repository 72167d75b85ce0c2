"""Draws who a face is and what it does: weights over the head model's targets."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

ANCESTRIES = ("african", "asian", "caucasian")  # as the head model names its targets
_OPPOSITES = {
    "decr": "incr", "down": "up", "in": "out", "backward": "forward", "concave": "convex",
    "compress": "uncompress", "square": "round", "pointed": "triangle",
}  # fmt: skip
_SKIP = ("head-trans", "neck-trans", "head-age", "head-angle", "mouth-trans-backward", "measure-neck-height")
_SPREAD = {"neck": 0.20, "chin": 0.30, "forehead": 0.30, "head": 0.28, "mouth": 0.34, "nose": 0.31, "eyes": 0.38,
           "ears": 0.35, "eyebrows": 0.40, "cheek": 0.35}  # fmt: skip
# Facial actions of each expression with their full strength; "…" stands for both sides.
EXPRESSIONS: dict[str, dict[str, float]] = {
    "neutral": {},
    "smile": {"mouthSmile…": 0.8, "cheekSquint…": 0.5, "eyeSquint…": 0.3, "mouthDimple…": 0.2},
    "grin": {
        "mouthSmile…": 0.9,
        "mouthUpperUp…": 0.7,
        "mouthLowerDown…": 0.5,
        "cheekSquint…": 0.7,
        "eyeSquint…": 0.4,
    },
    "laugh": {
        "jawOpen": 0.55,
        "mouthSmile…": 0.9,
        "mouthUpperUp…": 0.7,
        "cheekSquint…": 0.8,
        "eyeSquint…": 0.6,
    },
    "talk": {"jawOpen": 0.4, "mouthUpperUp…": 0.4, "mouthLowerDown…": 0.5},
    "vowel": {"jawOpen": 0.35, "mouthFunnel": 0.8},
    "shout": {"jawOpen": 1.0, "mouthStretch…": 0.5, "mouthUpperUp…": 0.5, "browDown…": 0.5},
    "surprise": {"jawOpen": 0.6, "browInnerUp": 0.9, "browOuterUp…": 0.9, "eyeWide…": 0.9},
    "anger": {"browDown…": 1.0, "noseSneer…": 0.6, "mouthPress…": 0.7, "eyeSquint…": 0.5, "mouthFrown…": 0.4},
    "sad": {"browInnerUp": 0.9, "mouthFrown…": 0.9, "mouthShrugLower": 0.5},
    "disgust": {"noseSneer…": 1.0, "mouthUpperUp…": 0.6, "browDown…": 0.6, "eyeSquint…": 0.6},
    "pucker": {"mouthPucker": 0.9},
    "roll": {"mouthRollLower": 0.7, "mouthRollUpper": 0.6, "mouthPress…": 0.4},
    "smirk": {"mouthSmileLeft": 0.9, "mouthLeft": 0.4},
    "smirk-right": {"mouthSmileRight": 0.9, "mouthRight": 0.4},
    "puff": {"cheekPuff": 0.9, "mouthPress…": 0.3},
}
_OFTEN = np.array(
    [0.24, 0.12, 0.10, 0.09, 0.15, 0.05, 0.035, 0.035, 0.04, 0.03, 0.025, 0.025, 0.02, 0.015, 0.015, 0.01]
)
_STRONG = ("laugh", "shout", "surprise", "anger", "disgust", "puff", "pucker", "vowel")


@dataclass(frozen=True)
class Person:
    """Drawn identity: `weights` over the targets, gender 0 female to 1 male, old 0-1, child 0-1, ancestry (3,) shares of
    african, asian, caucasian."""

    weights: np.ndarray
    gender: float
    old: float
    child: float
    ancestry: np.ndarray


@dataclass(frozen=True)
class Expression:
    """Weights over the targets, the name of the expression, and whether it is a strong one (WFLW's bit)."""

    weights: np.ndarray
    name: str
    strong: bool


@lru_cache(maxsize=2)
def _rows(names: tuple[str, ...]) -> dict[str, int]:
    return {name: row for row, name in enumerate(names)}


@lru_cache(maxsize=2)
def _crooked(names: tuple[str, ...]) -> list[int]:
    """Rows of the asymmetries."""
    return [row for row, name in enumerate(names) if name.startswith("asym/")]


@lru_cache(maxsize=2)
def _axes(names: tuple[str, ...]) -> dict[str, list[tuple[int, int]]]:
    """Shape axes: name → [(row of the negative target, row of the positive one) for each side]; −1 = none."""
    rows = {name: row for row, name in enumerate(names)}
    axes: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for name, row in rows.items():
        folder, _, rest = name.partition("/")
        if (
            not rest
            or folder == "asym"
            or rest.split("l-", 1)[-1].startswith(_SKIP)
            or rest.startswith(_SKIP)
        ):
            continue
        stem, _, end = rest.rpartition("-")
        plain = f"{folder}/{stem.removeprefix('l-').removeprefix('r-')}"
        if end in _OPPOSITES:
            axes[plain].append((row, rows.get(f"{folder}/{stem}-{_OPPOSITES[end]}", -1)))
        elif end not in _OPPOSITES.values():
            axes[f"{folder}/{rest}"].append((-1, row))
    return dict(sorted(axes.items()))


class _AxisTable(NamedTuple):
    """`_axes` as arrays: the spread of each axis, and for each side of each axis its number, side and two rows."""

    spread: np.ndarray
    axis: np.ndarray
    side: np.ndarray
    paired: np.ndarray
    negative: np.ndarray
    positive: np.ndarray


@lru_cache(maxsize=2)
def _axis_table(names: tuple[str, ...]) -> _AxisTable:
    axes = _axes(names)
    spread = np.array([_SPREAD.get(name.partition("/")[0], 0.3) for name in axes])
    sides = [
        (number, k % 2, len(pairs) > 1, *pair)
        for number, pairs in enumerate(axes.values())
        for k, pair in enumerate(pairs)
    ]
    return _AxisTable(spread, *np.array(sides).T)


def _tent(value: float, anchors: int) -> np.ndarray:
    """Linear interpolation weights of a 0-1 value over equally spaced anchors."""
    at = np.clip(value, 0.0, 1.0) * (anchors - 1)
    return np.maximum(0.0, 1.0 - np.abs(np.arange(anchors) - at))


def _age(rng: np.random.Generator) -> np.ndarray:
    """Weights of baby, child, young, old."""
    kind = rng.random()
    if kind < 0.04:
        share = rng.uniform(0.3, 1.0)
        return np.array([1.0 - share, share, 0.0, 0.0])
    if kind < 0.16:
        share = rng.uniform(0.1, 1.0)
        return np.array([0.0, 1.0 - share, share, 0.0])
    share = rng.uniform(0.0, 0.45) if kind < 0.70 else rng.uniform(0.4, 1.0)
    return np.array([0.0, 0.0, 1.0 - share, share])


def _draw_kind(rng: np.random.Generator) -> tuple[np.ndarray, float, np.ndarray]:
    """Ancestry (3,), gender and age (4,), the first that is drawn of a person."""
    ancestry = rng.dirichlet([0.35, 0.35, 0.45])
    gender = float(np.clip(rng.beta(0.35, 0.35), 0.0, 1.0))
    return ancestry, gender, _age(rng)


def groups(key: tuple[int, ...]) -> tuple[str, str]:
    """Ancestry and age group that the person of a face's key (seed, split, number) belongs to most; nothing is rendered.

    One of ``ANCESTRIES``, and child, adult or old.
    """
    ancestry, _, age = _draw_kind(person_stream(key))
    old = "child" if age[0] + age[1] > 0.5 else "old" if age[3] > 0.5 else "adult"
    return ANCESTRIES[int(ancestry.argmax())], old


def person_stream(key: tuple[int, ...]) -> np.random.Generator:
    """The random numbers that the person of a face's key is drawn from."""
    return np.random.default_rng([*key, 0])


def draw_person(rng: np.random.Generator, names: tuple[str, ...]) -> Person:
    """One identity over ancestries, genders, ages, build and face shape."""
    rows = _rows(names)
    weights = np.zeros(len(names))
    ancestry, gender, age = _draw_kind(rng)
    muscle = _tent(rng.normal(0.5, 0.2), 3)
    weight = _tent(rng.normal(0.52, 0.24), 3)
    for g, gender_name in ((1.0 - gender, "female"), (gender, "male")):
        for a, age_name in zip(age, ("baby", "child", "young", "old")):
            for share, race in zip(ancestry, ANCESTRIES):
                weights[rows[f"{race}-{gender_name}-{age_name}"]] += g * a * share
            for m, muscle_name in zip(muscle, ("min", "average", "max")):
                for w, weight_name in zip(weight, ("min", "average", "max")):
                    key = f"universal-{gender_name}-{age_name}-{muscle_name}muscle-{weight_name}weight"
                    if key in rows:  # the all-average young adult is the base mesh itself
                        weights[rows[key]] += g * a * m * w
    axes = _axis_table(names)
    values = rng.normal(size=len(axes.spread))
    tilts = rng.normal(0.0, 0.06, size=(len(axes.spread), 2))
    young = 0.6 if age[0] + age[1] > 0.5 else 1.0
    values = np.clip(values * axes.spread * young, -0.9, 0.9)
    lean = values[axes.axis] + axes.paired * tilts[axes.axis, axes.side]
    row = np.where(lean > 0, axes.positive, axes.negative)
    np.add.at(weights, row[row >= 0], np.abs(lean[row >= 0]))
    crooked = _crooked(names)
    weights[crooked] = np.maximum(0.0, rng.normal(0.0, 0.16, size=len(crooked)))
    return Person(weights, gender, float(age[3]), float(age[0] + age[1]), ancestry)


def _put(
    weights: np.ndarray, rows: dict[str, int], action: str, value: float, rng: np.random.Generator
) -> None:
    if action.endswith("…"):
        lean = rng.normal(0.0, 0.08)
        for side, sign in (("Left", 1.0), ("Right", -1.0)):
            weights[rows[action[:-1] + side]] += max(0.0, value * (1.0 + sign * lean))
    else:
        weights[rows[action]] += value


def draw_expression(rng: np.random.Generator, names: tuple[str, ...]) -> Expression:
    """Expression, lid opening and gaze."""
    rows = _rows(names)
    weights = np.zeros(len(names))
    name = str(rng.choice(list(EXPRESSIONS), p=_OFTEN / _OFTEN.sum()))
    strength = float(np.clip(rng.beta(2.6, 1.6), 0.15, 1.0))
    for action, value in EXPRESSIONS[name].items():
        _put(weights, rows, action, value * strength, rng)
    for action in ("browInnerUp", "browOuterUp…", "browDown…", "mouthFrown…", "mouthUpperUp…", "mouthLowerDown…",
                   "mouthShrugUpper", "mouthStretch…", "mouthLeft", "mouthRight", "jawLeft", "jawRight",
                   "mouthRollLower", "mouthPucker", "eyeSquint…", "cheekPuff"):  # fmt: skip
        value = rng.normal(0.0, 0.22)
        if value > 0.1:
            _put(weights, rows, action, min(value - 0.1, 0.5), rng)
    if name in ("neutral", "smile", "sad", "anger") and rng.random() < 0.35:
        weights[rows["jawOpen"]] += rng.uniform(0.02, 0.18)  # lips apart
    lid = rng.random()
    closed = lid < 0.05
    blink = (
        rng.uniform(0.9, 1.0)
        if closed
        else max(0.0, rng.normal(0.06, 0.16))
        if lid < 0.9
        else rng.uniform(0.3, 0.7)
    )
    _put(
        weights,
        rows,
        "eyeBlink…",
        min(blink, 1.0) if closed else blink * (1.0 - 0.6 * weights[rows["eyeSquintLeft"]]),
        rng,
    )
    side, up = np.clip(rng.normal(0.0, [0.40, 0.28]), -1.0, 1.0)
    for action, value in (
        ("eyeLookOutLeft", side), ("eyeLookInRight", side), ("eyeLookInLeft", -side), ("eyeLookOutRight", -side),
        ("eyeLookUp…", up), ("eyeLookDown…", -up),
    ):  # fmt: skip
        if value > 0.0:
            _put(weights, rows, action, float(value) * (0.5 if closed else 1.0), rng)
    return Expression(np.minimum(weights, 1.0), name, bool(name in _STRONG and strength > 0.45))


def blend(vertices: np.ndarray, basis: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(V, 3) float32: template plus weighted targets, summed in a fixed order."""
    out = vertices.astype(np.float32).reshape(-1).copy()
    flat = basis.reshape(len(basis), -1)
    scratch = np.empty_like(out)
    for row in np.flatnonzero(np.abs(weights) > 1e-3):
        np.multiply(flat[row], np.float32(weights[row]), out=scratch)
        out += scratch
    return out.reshape(-1, 3)
