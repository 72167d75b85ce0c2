"""Things on and before the face: glasses, hats, microphones, phones, hands."""

from __future__ import annotations

import numpy as np

from .assets import HeadAssets
from .hair import Style, add_curtain
from .mesh import Builder, box, ellipsoid, grid, tube
from .paint import HEAD_CENTRE, Fields, step
from .surface import CLOTH, FRAME, HAND, HAT, LENS, THING


def colour(rng: np.random.Generator, dark: float = 0.0) -> np.ndarray:
    """A random linear RGB albedo: mostly greys and muted tones; `dark` 0-1 prefers dark ones."""
    value = rng.beta(0.9, 1.6 + 2.0 * dark) * 0.85 + 0.01
    tint = (
        rng.dirichlet([14.0, 14.0, 14.0] if rng.random() < 0.8 else [2.0, 2.0, 2.0]) * 3.0
        if rng.random() < 0.7
        else np.ones(3)
    )
    return np.clip(value * tint, 0.004, 0.9)


def add_glasses(builder: Builder, fields: Fields, vertices: np.ndarray, rng: np.random.Generator) -> dict:
    """Rims, bridge, temples and lenses fitted to this head; returns the lens tint and glare, and whether they hide eyes."""
    eyes = [
        vertices[(fields.lid < 0.05) & (np.sign(fields.shape[:, 0]) == side)].mean(0) for side in (-1.0, 1.0)
    ]
    half = np.array([rng.uniform(0.215, 0.275), rng.uniform(0.13, 0.215)])
    power = rng.uniform(2.0, 4.5)
    thick = rng.uniform(0.010, 0.034)
    sun = rng.random() < 0.28
    angle = np.linspace(0.0, 2 * np.pi, 28, endpoint=False)
    edge = np.stack([np.cos(angle), np.sin(angle)], 1)
    edge = np.sign(edge) * np.abs(edge) ** (2.0 / power) * half
    edge[:, 1] += 0.05 * np.abs(edge[:, 0]) * rng.uniform(-0.6, 1.0)
    brow = (fields.shape[:, 1] > 7.30) & (fields.shape[:, 1] < 7.50) & (np.abs(fields.shape[:, 0]) < 0.35)
    front = vertices[brow, 2].max() + rng.uniform(0.02, 0.09)
    frame = colour(rng, 1.0)
    drop = rng.uniform(-0.05, 0.01)
    apart = 0.5 * (eyes[1][0] - eyes[0][0])
    centre = 0.5 * (eyes[0] + eyes[1])
    gap = max(apart, half[0] + 0.03)
    rimless = rng.random() < 0.12
    for side in (-1.0, 1.0):
        x = centre[0] + side * gap + edge[:, 0] * side
        y = centre[1] + drop + edge[:, 1]
        ring = np.stack([x, y, front - 0.35 * (x - centre[0]) ** 2], 1)
        if not rimless:
            builder.add(*tube(ring, thick, 5, closed=True), FRAME, frame)
        lens = np.concatenate([ring.mean(0, keepdims=True) + [0, 0, 0.015], ring])
        k = np.arange(28)
        fan = np.stack([np.zeros(28, int), 1 + k, 1 + (k + 1) % 28], 1)
        cover = rng.uniform(0.8, 1.2) if sun else rng.uniform(0.0, 0.3)
        builder.add(lens, fan, LENS, frame, alpha=np.tile([cover, 0.0, 0.0], (29, 1)))
        hinge = np.array([centre[0] + side * (gap + half[0]), centre[1] + drop + 0.3 * half[1], 0.0])
        hinge[2] = front - 0.35 * (hinge[0] - centre[0]) ** 2
        wide = np.abs(
            vertices[
                (fields.shape[:, 1] > 7.30) & (fields.shape[:, 1] < 7.42) & (fields.shape[:, 2] > 0.1), 0
            ]
        )
        ear = np.array([side * (min(wide.max(), 0.80) + 0.01), centre[1] + 0.06, 0.15])
        bend = np.array(
            [
                0.5 * hinge[0] + 0.5 * ear[0] + side * 0.08,
                0.5 * (hinge[1] + ear[1]),
                0.5 * (hinge[2] + ear[2]),
            ]
        )
        builder.add(*tube(np.stack([hinge, bend, ear]), max(thick * 0.8, 0.012), 5), FRAME, frame)
    bridge = np.array([[-1.0, 0.0], [-0.5, 0.03], [0.0, 0.04], [0.5, 0.03], [1.0, 0.0]])
    path = np.stack(
        [
            centre[0] + bridge[:, 0] * (gap - half[0]),
            centre[1] + drop + 0.2 * half[1] + bridge[:, 1],
            np.full(5, front + 0.01),
        ],
        1,
    )
    builder.add(*tube(path, max(thick, 0.014), 5), FRAME, frame)
    tint = colour(rng, 1.5) * (0.25 if sun else 1.0)
    return {"tint": tint, "glare": float(rng.uniform(0.0, 0.6)), "dark": sun}


def add_hat(builder: Builder, fields: Fields, vertices: np.ndarray, normals: np.ndarray, skin: np.ndarray,
            style: Style, rng: np.random.Generator) -> str:  # fmt: skip
    """Cap, brimmed hat, beanie, band or headscarf; returns its kind."""
    kind = str(rng.choice(["cap", "brim", "beanie", "band", "scarf"], p=[0.3, 0.2, 0.2, 0.1, 0.2]))
    low = rng.uniform(7.72, 7.98) if kind != "scarf" else rng.uniform(7.82, 7.98)
    tilt = rng.uniform(0.02, 0.25) if kind != "scarf" else 0.15
    high = rng.uniform(0.12, 0.3) if kind == "band" else 9.0
    shape = fields.shape
    level = shape[:, 1] - (low + tilt * (shape[:, 2] - 1.2))  # dm above the hat's rim
    triangles = skin[
        (level[skin] > -0.10).any(1) & (level[skin] < high).all(1) & (shape[skin, 1] > 7.0).all(1)
    ]
    ears = np.abs(shape[:, 0]) > 0.74
    triangles = triangles[~(ears[triangles] & (shape[triangles, 1] < 7.5)).any(1)]
    used, local = np.unique(triangles, return_inverse=True)
    radial = shape[used] - HEAD_CENTRE
    radial = radial / np.linalg.norm(radial, axis=1, keepdims=True)
    loose = (
        0.06
        + style.top * 0.35
        + (rng.uniform(0.0, 0.25) * step(0.1, 0.8, level[used]) if kind in ("beanie", "brim") else 0.02)
    )
    points = vertices[used] + radial * np.broadcast_to(loose, (len(used),))[:, None]
    points[:, 1] -= np.clip(level[used], None, 0.0)  # a straight rim
    tone = colour(rng, 0.3)
    texture = rng.uniform(4.0, 60.0, 2)
    aux = np.zeros((len(used), 4))
    aux[:, 0], aux[:, 1], aux[:, 2] = (
        fields.azimuth[used] * texture[0] / 20.0,
        shape[used, 1] * texture[1],
        0.03,
    )
    builder.add(points, local.reshape(-1, 3), HAT, tone, aux=aux, ao=np.full(len(used), 0.9))
    if kind in ("cap", "brim"):
        reach = rng.uniform(0.35, 0.75)
        turn = 0.0 if rng.random() < 0.85 else np.pi
        angle = (
            np.linspace(-1.1, 1.1, 25) + turn
            if kind == "cap"
            else np.linspace(0, 2 * np.pi, 40, endpoint=False)
        )
        width = np.abs(points[:, 0]).max() * 0.98
        ahead, behind = points[:, 2].max(), points[:, 2].min()
        middle, deep = 0.5 * (ahead + behind), 0.5 * (ahead - behind) * 0.98
        shrink = np.array([0.97, 1.0, 1.0])[:, None]
        out = (
            np.array([0.0, 0.5, 1.0])[:, None]
            * reach
            * (np.cos(angle - turn) ** 0.5 if kind == "cap" else np.ones(40))
        )
        x = np.sin(angle) * (width * shrink + out)
        z = middle + np.cos(angle) * (deep * shrink + out)
        shift = float(np.median(vertices[used, 1] - shape[used, 1]))
        y = (
            low
            + shift
            + tilt * (z - 1.2)
            - rng.uniform(0.1, 0.45) * out
            + 0.15 * out * (1 - np.sin(angle) ** 2)
        )
        ring = np.stack([x, y, z], -1).reshape(-1, 3)
        builder.add(ring, grid(3, x.shape[1], closed=kind == "brim"), HAT, tone * rng.uniform(0.5, 1.2))
    if kind == "scarf":
        add_curtain(builder, fields, vertices, style, CLOTH, tone, wrap=True)
    return kind


def add_object(
    builder: Builder, assets: HeadAssets, target: np.ndarray, skin_tone: np.ndarray, rng: np.random.Generator
) -> str:
    """A hand, microphone, phone, cup or ball before `target` (camera axes, already posed); returns its kind."""
    kind = str(rng.choice(["hand", "microphone", "slab", "cup", "ball"], p=[0.45, 0.25, 0.13, 0.09, 0.08]))
    centre = target + [0.0, 0.0, rng.uniform(0.25, 0.8)]
    side = float(rng.choice([-1.0, 1.0]))
    spin = _rotation(rng.normal(0.0, 0.5), rng.normal(0.0, 0.5), rng.normal(0.0, 0.7))
    if kind == "hand":
        tone = skin_tone * rng.uniform(0.9, 1.1) if rng.random() < 0.9 else colour(rng)
        _add_hand(builder, assets, centre, side, tone, rng)
    elif kind == "microphone":
        points, triangles = ellipsoid(np.array([1.0, 1.15, 1.0]) * rng.uniform(0.13, 0.26))
        head = centre + [side * 0.15, -0.1, 0.0]
        builder.add(points + head, triangles, THING, colour(rng, 1.0), aux=_texture(points, 60.0))
        foot = head + np.array([side * rng.uniform(0.0, 1.2), -2.5, 0.4])
        points, triangles = tube(np.linspace(head, foot, 6), rng.uniform(0.05, 0.14), 8)
        builder.add(points, triangles, THING, colour(rng, 1.0))
    elif kind == "slab":
        points, triangles = box(np.array([rng.uniform(0.6, 1.6), rng.uniform(0.6, 1.8), 0.08]))
        placed = points @ spin.T + centre + [side * rng.uniform(0.3, 0.9), -0.3, 0.0]
        builder.add(placed, triangles, THING, colour(rng), aux=_texture(points, rng.uniform(2.0, 40.0)))
    elif kind == "cup":
        path = np.linspace(centre + [0, 0.2, 0], centre - [0, 0.9, 0], 6)
        points, triangles = tube(path, rng.uniform(0.28, 0.42), 14)
        builder.add(points, triangles, THING, colour(rng))
    else:
        points, triangles = ellipsoid(rng.uniform(0.2, 0.6, 3))
        placed = points @ spin.T + centre + [side * 0.3, -0.3, 0.0]
        builder.add(placed, triangles, THING, colour(rng), aux=_texture(points, 20.0))
    return kind


def _texture(points: np.ndarray, cells: float) -> np.ndarray:
    """(N, 4) noise coordinates with `cells` a dm and a faint gloss."""
    return np.column_stack([points[:, :2] * cells, np.full(len(points), 0.05), np.zeros(len(points))])


def _add_hand(
    builder: Builder,
    assets: HeadAssets,
    centre: np.ndarray,
    side: float,
    tone: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """The model's left hand (mirrored when `side` is −1), fingers up and a little curled, its palm at `centre`."""
    used, local = np.unique(assets.triangles[assets.part == 5], return_inverse=True)
    shape = assets.vertices[used].astype(np.float64)
    middle = shape.mean(0)
    axis = np.linalg.svd(shape - middle, full_matrices=False)[2]
    if axis[0] @ (shape[shape[:, 1].argmin()] - middle) < 0:
        axis[0] = -axis[0]  # first axis: from the wrist to the finger tips
    flat = (shape - middle) @ axis.T  # thickness along the last axis
    flat[:, 2] += rng.uniform(0.0, 0.5) * np.maximum(flat[:, 0], 0.0) ** 2
    turn = _rotation(rng.normal(0, 0.4), rng.normal(0, 0.4), rng.normal(0.0, 0.9))
    points = np.column_stack([flat[:, 1] * side, flat[:, 0], flat[:, 2]]) @ turn.T * rng.uniform(0.9, 1.25)
    points += centre - points[points[:, 1].argmax()] * rng.uniform(0.3, 0.8) + [0.0, 0.0, 0.15]
    builder.add(points, local.reshape(-1, 3), HAND, tone, ao=np.full(len(used), 0.9), template=shape)


def _rotation(x: float, y: float, z: float) -> np.ndarray:
    cx, sx, cy, sy, cz, sz = np.cos(x), np.sin(x), np.cos(y), np.sin(y), np.cos(z), np.sin(z)
    rx = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    ry = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rz = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return rz @ ry @ rx
