"""Hair on the head: a layered shell over the scalp, hanging hair, and the painted roots and beard."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .mesh import Builder, compact, grid
from .paint import HEAD_CENTRE, Fields, step
from .surface import CLOTH, HAIR

# Linear albedo of natural hair, black to white, then red.
TONES = np.array([
    [0.010, 0.008, 0.007], [0.022, 0.014, 0.010], [0.050, 0.028, 0.016], [0.110, 0.062, 0.032], [0.230, 0.150, 0.075],
    [0.400, 0.300, 0.170], [0.160, 0.155, 0.150], [0.420, 0.410, 0.400], [0.680, 0.670, 0.650], [0.170, 0.050, 0.018],
])  # fmt: skip


@dataclass(frozen=True)
class Style:
    """Drawn hair: lengths in dm, `cover` 0-1 of the scalp (0 = bald)."""

    colour: np.ndarray
    beard_colour: np.ndarray
    cover: float
    top: float
    side: float
    fringe: float
    fringe_at: float
    recede: float
    bald_top: bool
    edge: float
    curl: float
    hang: float
    hang_front: float
    moustache: float
    chin: float
    cheek: float
    gloss: float
    phase: np.ndarray


def _tone(rng: np.random.Generator, old: float, ancestry: np.ndarray) -> np.ndarray:
    if rng.random() < 0.75 * old:
        tone = TONES[rng.integers(6, 9)]
    elif rng.random() < ancestry[2]:
        tone = TONES[int(rng.choice([0, 1, 2, 3, 4, 5, 9], p=[0.1, 0.2, 0.25, 0.2, 0.12, 0.07, 0.06]))]
    else:
        tone = TONES[int(rng.choice([0, 1, 2], p=[0.55, 0.35, 0.10]))]
    if rng.random() < 0.02:
        tone = rng.uniform(0.02, 0.5, 3)  # dyed
    return tone * rng.uniform(0.75, 1.3)


def draw_style(
    rng: np.random.Generator, gender: float, old: float, child: float, ancestry: np.ndarray
) -> Style:
    """One hair style; beards for adult men."""
    man = rng.random() < gender
    colour = _tone(rng, old, ancestry)
    afro = rng.random() < 0.55 * ancestry[0]
    bald = man and rng.random() < 0.10 + 0.2 * old
    long = rng.random() < (0.07 if man else 0.62)
    top = rng.uniform(0.08, 0.25) if man else rng.uniform(0.12, 0.36)
    if afro:
        top = rng.uniform(0.04, 0.45)
    side = top * rng.uniform(0.15, 0.9)
    beard = man and child < 0.3 and rng.random() < 0.55
    stubble = man and child < 0.3 and not beard and rng.random() < 0.7
    kind = rng.integers(4)
    level = rng.uniform(0.5, 1.0) if beard else rng.uniform(0.06, 0.32) if stubble else 0.0
    return Style(
        colour=colour,
        beard_colour=colour * rng.uniform(0.6, 1.1) if rng.random() < 0.8 else _tone(rng, old, ancestry),
        cover=0.0 if bald and rng.random() < 0.5 else 1.0,
        top=float(top),
        side=float(side),
        fringe=float(rng.uniform(0.15, 0.45)) if rng.random() < (0.25 if man else 0.4) else 0.0,
        fringe_at=float(rng.normal(0.0, 25.0)),
        recede=float(rng.uniform(0.05, 0.3))
        if man and rng.random() < 0.3 + 0.5 * old
        else float(rng.uniform(-0.06, 0.04)),
        bald_top=bool(bald),
        edge=float(rng.uniform(0.05, 0.22)),
        curl=float(rng.uniform(0.5, 1.0) if afro else rng.uniform(0.0, 0.5)),
        hang=float(rng.uniform(0.5, 2.6)) if long and not bald else 0.0,
        hang_front=float(rng.uniform(48.0, 95.0)),
        moustache=level if kind in (0, 1, 2) else 0.15 * level,
        chin=level if kind in (0, 2, 3) else 0.15 * level,
        cheek=level * (1.0 if kind in (0, 3) else rng.uniform(0.05, 0.3)),
        gloss=float(rng.uniform(0.02, 0.35)) * (0.3 if afro else 1.0),
        phase=rng.uniform(0.0, 256.0, 6),
    )


def root(fields: Fields, style: Style) -> np.ndarray:
    """(V,) how far (dm) inside the hair each vertex lies: hairline, fringe, receding corners, bald top."""
    angle = fields.azimuth
    depth = fields.scalp + style.fringe * np.exp(-(((angle - style.fringe_at) / 42.0) ** 2))
    depth = (
        depth
        - style.recede * np.exp(-(((np.abs(angle) - 34.0) / 22.0) ** 2))
        - 0.4 * style.recede * (np.abs(angle) < 60)
    )
    wobble = np.sin(angle * 0.21 + style.phase[0]) + np.sin(angle * 0.47 + style.phase[1])
    depth = depth + 0.02 * wobble
    if style.bald_top:
        crown = np.hypot(fields.shape[:, 0] / 0.62, (fields.shape[:, 2] - 0.35) / 1.0)
        bare = step(7.75, 7.95, fields.shape[:, 1]) * step(1.05, 0.85, crown)
        depth = np.where(bare > 0.2, -0.1 * bare, depth)
    return depth.astype(np.float64)


def strand_coordinates(shape: np.ndarray, azimuth: np.ndarray, style: Style) -> tuple[np.ndarray, np.ndarray]:
    """Noise-tile coordinates (across, along) of the strands."""
    across = azimuth * (256.0 / 360.0) * 3.0 + style.phase[2]
    top = step(7.9, 8.3, shape[:, 1])
    across = across * (1 - top) + (shape[:, 0] * 75.0 + style.phase[2]) * top
    along = shape[:, 1] * (3.0 + 30.0 * style.curl) + shape[:, 2] * (2.0 + 30.0 * style.curl) + style.phase[3]
    return across, along


def add_shell(builder: Builder, fields: Fields, vertices: np.ndarray, normals: np.ndarray, skin: np.ndarray,
              style: Style, squash: float = 1.0) -> None:  # fmt: skip
    """Three nested layers over the scalp, outermost first so that the depth test spares the inner ones; `squash` < 1 flattens the hair under a hat."""
    depth = root(fields, style)
    triangles = skin[(depth[skin] > -0.02).any(1) & (fields.shape[skin, 1].min(1) > 6.5)]
    if style.cover == 0.0 or not len(triangles):
        return
    used, local = compact(triangles, len(vertices))
    shape, here = fields.shape[used].astype(np.float64), vertices[used].astype(np.float64)
    radial = shape - HEAD_CENTRE
    radial /= np.linalg.norm(radial, axis=1, keepdims=True)
    direction = 0.45 * normals[used] + 0.55 * radial
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    up = step(7.6, 8.25, shape[:, 1])
    wave = np.sin(shape @ [9.0, 5.0, 7.0] + style.phase[4]) * np.sin(
        shape @ [4.0, 8.0, -6.0] + style.phase[5]
    )
    thick = (style.side + (style.top - style.side) * up) * (1.0 + 0.25 * wave) * squash
    thick = thick * step(-0.03, 0.30, depth[used]) + 0.015
    cover = np.clip((depth[used] + 0.02) / style.edge, 0.0, 1.0)
    across, along = strand_coordinates(shape, fields.azimuth[used], style)
    for share, dense in ((1.0, 0.85), (0.75, 1.15), (0.45, 1.5)):
        builder.add(
            here + direction * (thick * share)[:, None],
            local,
            HAIR,
            style.colour,
            alpha=np.column_stack([cover * dense, across, along * 0.4]),
            aux=np.column_stack([across, along * 0.5, np.full(len(used), style.gloss), np.zeros(len(used))]),
            template=shape,
            ao=0.45 + 0.55 * share * np.clip(fields.ao[used] + 0.2, 0, 1),
        )


def add_curtain(builder: Builder, fields: Fields, vertices: np.ndarray, style: Style, material: int = HAIR,
                colour: np.ndarray | None = None, wrap: bool = False) -> None:  # fmt: skip
    """Hair hanging past the ears (or, with `wrap`, the cloth of a headscarf closed under the chin)."""
    front = 40.0 if wrap else style.hang_front
    length = 2.2 if wrap else style.hang
    head = np.abs(vertices[(fields.shape[:, 1] > 7.55) & (fields.shape[:, 1] < 7.8), 0]).max()
    scale = head / 0.72
    rows, columns = 16, 44
    angle = np.linspace(front, 360.0 - front, columns)
    fall = np.linspace(0.0, 1.0, rows)[:, None]
    start = np.interp(np.minimum(angle, 360.0 - angle), [40.0, 80.0, 110.0, 180.0], [7.95, 7.95, 8.0, 7.95])[
        None
    ]
    y = start - fall * (start - (7.2 - length))
    thick = 0.14 if wrap else 0.4 * style.side + 0.05
    narrow = step(7.1, 6.3, y) * (1.0 - step(6.2, 5.6, y))
    a = np.radians(angle)[None]
    wave = 0.02 * np.sin(np.degrees(a) * 0.35 + style.phase[0]) + 0.015 * np.sin(y * 9.0 + style.phase[1])
    rx = (
        (0.80 + thick - 0.12 * narrow * (0.4 + 0.6 * np.abs(np.sin(a)))) * scale
        + 0.35 * step(6.1, 5.4, y)
        + wave
    )
    rz = (1.22 + thick - 0.25 * narrow) * scale + 0.2 * step(6.1, 5.4, y) + wave
    over = np.sqrt(np.clip(1.0 - ((np.maximum(y, 7.6) - 7.6) / 0.95) ** 2, 0.05, 1.0))
    forward = np.where(
        np.cos(a) > 0, 0.62, 1.0
    )  # the sides do not reach as far forward as the back reaches back
    if wrap:
        forward = np.where(np.cos(a) > 0, 0.80, 1.0) * np.ones_like(y)
        under = step(6.5, 6.1, y) * (np.cos(a) > 0)
        rx = rx * (1.0 - 0.45 * under)
    points = np.stack([rx * over * np.sin(a), y + 0 * a, 0.22 + rz * over * np.cos(a) * forward], -1)
    shift = np.median(vertices[fields.scalp > 0.4] - fields.shape[fields.scalp > 0.4], axis=0)
    points = points.reshape(-1, 3) + [0.0, float(shift[1]), float(shift[2])]
    flat = np.column_stack([points[:, 0], y.ravel(), points[:, 2]])
    across, along = strand_coordinates(flat, np.tile(angle, rows), style)
    rim = np.minimum(np.arange(columns), np.arange(columns)[::-1]) / 3.0
    end = np.minimum(1.0, (rows - 1 - np.arange(rows)) / 2.0)
    cover = np.minimum(np.tile(rim, rows) + 0.25, np.repeat(end, columns) + 0.35)
    builder.add(
        points,
        grid(rows, columns),
        material,
        style.colour if colour is None else colour,
        alpha=np.column_stack([np.where(wrap, 2.0, np.clip(cover, 0, 1.25)), across, along * 0.3]),
        aux=np.column_stack([across, along * 0.4, np.full(len(points), style.gloss), np.zeros(len(points))]),
        template=flat,
        ao=np.clip(0.55 + 0.35 * step(6.0, 7.5, y).ravel(), 0, 1),
        nod=step(5.5, 6.6, y).ravel(),
    )
    if material == CLOTH:
        builder.parts[-1]["aux"][:, 2] = 0.02
