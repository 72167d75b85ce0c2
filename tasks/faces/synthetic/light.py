"""Draws colours and light: skin, lips, eyes, make-up, clothes, and the lamps of the scene."""

from __future__ import annotations

import numpy as np
import warp as wp

from . import surface
from .landmarks import Brow
from .props import colour

# sRGB skin tones from light to dark.
_SKINS = np.array([
    [248, 222, 204], [238, 203, 178], [226, 184, 152], [208, 160, 125], [184, 133, 98], [154, 105, 74], [121, 80, 56],
    [90, 58, 42], [64, 42, 33],
])  # fmt: skip
_IRIS = np.array(
    [
        [0.030, 0.014, 0.007],
        [0.075, 0.035, 0.014],
        [0.11, 0.085, 0.04],
        [0.10, 0.14, 0.09],
        [0.12, 0.18, 0.24],
        [0.16, 0.19, 0.21],
    ]
)


def linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB 0-255 → linear 0-1 (gamma 2.2)."""
    return (np.asarray(srgb, np.float64) / 255.0) ** 2.2


def skin_tone(rng: np.random.Generator, ancestry: np.ndarray) -> tuple[np.ndarray, float]:
    """Linear RGB albedo of the skin and its darkness 0-1."""
    depth = ancestry @ [rng.uniform(0.5, 1.0), rng.uniform(0.08, 0.5), rng.uniform(0.0, 0.42)]
    at = depth * (len(_SKINS) - 1)
    tone = np.array([np.interp(at, np.arange(len(_SKINS)), _SKINS[:, c]) for c in range(3)])
    tone = linear(tone * rng.normal(1.0, 0.03, 3)) * np.array(
        [1.0 + rng.normal(0.0, 0.05), 1.0, 1.0 - rng.normal(0.0, 0.07)]
    )
    return np.clip(tone, 0.02, 0.95), float(depth)


def _direction(azimuth: float, height: float) -> wp.vec3:
    a, h = np.radians([azimuth, height])
    return wp.vec3(float(np.sin(a) * np.cos(h)), float(np.sin(h)), float(np.cos(a) * np.cos(h)))


def _tint(rng: np.random.Generator, spread: float) -> np.ndarray:
    """A lamp's colour along warm to cold."""
    warm = rng.normal(0.0, spread)
    return np.array([np.exp(warm), 1.0, np.exp(-warm)])


def _lamps(rng: np.random.Generator, look) -> bool:
    """Key, fill, rim and surroundings; returns whether the light is harsh."""
    kind = rng.random()
    sky = rng.uniform(0.35, 0.9)
    key, harsh = rng.uniform(0.4, 1.6), False
    azimuth, height = rng.normal(0.0, 45.0), rng.normal(32.0, 20.0)
    fill, rim = rng.uniform(0.0, 0.5), 0.0
    if kind < 0.13:  # hard light from one side
        azimuth, key, sky, fill, harsh = (
            rng.choice([-1, 1]) * rng.uniform(55, 105),
            rng.uniform(1.5, 3.5),
            rng.uniform(0.08, 0.3),
            rng.uniform(0, 0.15),
            True,
        )
    elif kind < 0.18:  # from above or below
        height, key, sky, harsh = (
            rng.choice([70.0, -35.0]),
            rng.uniform(1.2, 2.5),
            rng.uniform(0.1, 0.4),
            True,
        )
    elif kind < 0.25:  # light from behind
        azimuth, key, rim, sky, harsh = (
            180.0 + rng.normal(0, 30),
            rng.uniform(0.8, 2.0),
            rng.uniform(0.5, 2.0),
            rng.uniform(0.3, 0.6),
            True,
        )
    elif kind < 0.38:  # flash
        azimuth, height, key, sky = (
            rng.normal(0, 6),
            rng.normal(5, 6),
            rng.uniform(1.0, 2.2),
            rng.uniform(0.1, 0.4),
        )
    look.key_dir = _direction(azimuth, float(np.clip(height, -45, 80)))
    look.key = wp.vec3(*(key * _tint(rng, 0.10)).tolist())
    look.fill_dir = _direction(-azimuth + rng.normal(0, 30), rng.uniform(-20, 40))
    look.fill = wp.vec3(*(fill * _tint(rng, 0.15)).tolist())
    look.rim_dir = _direction(180.0 + rng.normal(0, 50), rng.uniform(0, 50))
    look.rim = wp.vec3(*((rim if rim else rng.choice([0.0, rng.uniform(0, 0.8)])) * _tint(rng, 0.2)).tolist())
    look.sky = wp.vec3(*(sky * _tint(rng, 0.10)).tolist())
    look.ground = wp.vec3(*(sky * rng.uniform(0.2, 0.75) * _tint(rng, 0.12)).tolist())
    look.shadow_strength = float(rng.uniform(0.55, 1.0))
    return harsh


def draw_look(rng: np.random.Generator, person, style, fields):
    """(Look for the kernels, info for the scene): paint of skin, lips, brows, eyes, and the lamps."""
    look = surface.Look()
    tone, dark = skin_tone(rng, person.ancestry)
    info = {"skin": tone, "dark": dark, "glasses": False, "dark_glasses": False, "harsh": _lamps(rng, look)}
    woman = 1.0 - person.gender
    make_up = woman > 0.5 and person.child < 0.5 and rng.random() < 0.4
    info["make_up"] = bool(make_up)
    red = np.array([rng.uniform(1.0, 1.18), rng.uniform(0.55, 0.78), rng.uniform(0.58, 0.82)])
    lip, strength = tone * red, rng.uniform(0.45, 1.0)
    if make_up and rng.random() < 0.8:
        lip = np.array([rng.uniform(0.18, 0.6), rng.uniform(0.01, 0.14), rng.uniform(0.03, 0.2)])
        strength = rng.uniform(0.6, 1.0)
    look.lip, look.lip_strength = wp.vec3(*np.clip(lip, 0, 1).tolist()), float(strength)
    look.lip_gloss = float(rng.uniform(0.1, 0.9) if make_up else rng.uniform(0.0, 0.4))
    look.gloss = float(rng.uniform(0.02, 0.32))
    look.mottle = float(rng.uniform(0.05, 0.30))
    look.wrinkle = float(max(0.0, person.old - 0.35) * rng.uniform(0.0, 0.45))
    look.offset = wp.vec2(float(rng.uniform(0, 256)), float(rng.uniform(0, 256)))
    shade = tone * rng.uniform(0.25, 0.6) if rng.random() < 0.85 else colour(rng, 1.0)
    look.liner = wp.vec3(*(shade if make_up else tone * [0.45, 0.33, 0.3]).tolist())
    look.liner_width = float(rng.uniform(0.010, 0.022))
    look.liner_strength = float(rng.uniform(0.6, 1.0) if make_up else rng.uniform(0.35, 0.8))
    look.shadow_eye = float(rng.uniform(0.2, 1.0) if make_up else rng.uniform(0.0, 0.25))
    info["lashes"] = float(rng.uniform(0.35, 0.85) if make_up or woman > 0.5 else rng.uniform(0.05, 0.4))
    _eyes(rng, look, person)
    info["brow"] = _brow(rng, look, person, style, tone)
    look.hair = wp.vec3(*np.clip(style.colour, 0, 1).tolist())
    look.beard = wp.vec3(*np.clip(style.beard_colour, 0, 1).tolist())
    info["roots"] = float(rng.uniform(0.6, 1.0))
    info["weave"] = float(rng.uniform(4.0, 60.0))
    return look, info


def _eyes(rng: np.random.Generator, look, person) -> None:
    brown = rng.random() > 0.55 * person.ancestry[2]
    iris = _IRIS[rng.integers(0, 2)] if brown else _IRIS[rng.integers(2, 6)]
    look.iris = wp.vec3(*(iris * rng.uniform(0.8, 1.6)).tolist())
    look.sclera = wp.vec3(*(np.array([0.72, 0.68, 0.65]) * rng.uniform(0.75, 1.05)).tolist())
    look.pupil = float(rng.uniform(0.12, 0.23))


def _brow(rng: np.random.Generator, look, person, style, tone: np.ndarray) -> Brow:
    man = person.gender
    brow = Brow(
        inner=float(rng.uniform(0.10, 0.20)),
        outer=float(rng.uniform(0.51, 0.595)),
        height=float(rng.normal(7.510, 0.016)),
        arch=float(np.clip(rng.normal(0.040, 0.02), 0.0, 0.085)),
        drop=float(np.clip(rng.normal(0.045, 0.022), 0.0, 0.1)),
        thick=float(np.clip(rng.normal(0.034 + 0.010 * man, 0.009), 0.018, 0.065)),
    )
    look.brow_inner, look.brow_outer, look.brow_height = brow.inner, brow.outer, brow.height
    look.brow_arch, look.brow_drop, look.brow_thick = brow.arch, brow.drop, brow.thick
    shade = np.minimum(style.colour * rng.uniform(0.4, 1.0), tone * 0.75)
    look.brow = wp.vec3(*np.clip(shade, 0.004, 0.6).tolist())
    look.brow_density = float(rng.uniform(0.45, 1.0))
    return brow


def wardrobe(generator, person, style, info: dict, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Vertex colours (V, 3) of the whole body and materials (T,): skin with its zones, eyes, mouth, lashes, clothes."""
    fields, tone = generator.fields, info["skin"]
    colours = np.tile(tone, (len(fields.shape), 1))
    flush = rng.uniform(0.0, 0.30)
    zones = np.clip(fields.blush + 0.8 * fields.nose, 0, 1)[:, None] * flush
    colours *= 1.0 + zones * np.array([0.10, -0.28, -0.22])
    if info["make_up"]:
        colours *= 1.0 + fields.blush[:, None] * rng.uniform(0.0, 0.5) * np.array([0.15, -0.35, -0.2])
    colours *= 1.0 - fields.socket[:, None] * rng.uniform(0.0, 0.35) * np.array([0.8, 1.0, 0.9])
    colours *= 1.0 + 0.06 * rng.normal() * np.clip(fields.shape[:, 1:2] - 7.0, -1, 1)
    inside = fields.cavity > 0.5
    colours[inside] = np.array([0.22, 0.045, 0.04]) * rng.uniform(0.5, 1.2)
    body, material = generator.body, generator.material.copy()
    teeth = np.array([0.72, 0.66, 0.54]) * rng.uniform(0.65, 1.1)
    for part, value in (
        (2, teeth),
        (3, np.array([0.42, 0.13, 0.12])),
        (4, np.clip(style.colour * 0.35, 0.003, 0.08)),
    ):
        colours[generator.inner[part]] = value
    info["cloth"] = _clothe(fields, body, material, rng)
    return np.clip(colours, 0.002, 1.0).astype(np.float32), material


def _clothe(fields, body: np.ndarray, material: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mark triangles as cloth (round or V neck, high collar, suit with shirt and tie); returns vertex colours (V, 3)."""
    x, y = np.abs(fields.shape[:, 0]), fields.shape[:, 1]
    kind = rng.choice(["round", "vee", "high", "suit", "bare"], p=[0.3, 0.16, 0.14, 0.34, 0.06])
    colours = np.tile(colour(rng, 0.4), (len(x), 1))
    if kind == "bare":
        return colours
    collar = {"round": 5.80, "vee": 5.25, "high": rng.uniform(6.0, 6.3), "suit": 5.95}[str(kind)]
    top = collar + (0.9 * np.minimum(x, 0.8) if kind == "vee" else 0.25 * np.minimum(x, 0.6))
    covered = y < top
    front = fields.shape[:, 2] > 0.2
    covered[fields.nod > 0.98] &= kind == "high"
    if kind == "suit":
        shirt = np.array([0.8, 0.8, 0.8]) * rng.uniform(0.6, 1.05) if rng.random() < 0.7 else colour(rng)
        opening = covered & front & (x < 0.12 + 0.55 * np.clip(y - 4.9, 0, 1.2)) | (covered & (y > 5.85))
        colours[opening] = shirt
        if rng.random() < 0.75:
            colours[covered & front & (x < 0.13) & (y < 5.9)] = colour(rng, 0.3)
    elif rng.random() < 0.3:
        colours[covered & (np.sin(y * rng.uniform(8, 40)) > 0)] = colour(rng, 0.2)
    material[covered[body].any(1) & (material == 0)] = surface.CLOTH
    return colours
