"""Fields over the vertices of the mean head that say where lips, lids, beard, scalp, blush and clothes are."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from . import landmarks
from .assets import HeadAssets
from .raster import SHADOW, Mesh, from_the_light, normals_of, rasterise

HEAD_CENTRE = np.array([0.0, 7.45, 0.30])  # dm; azimuth and hairline are measured around it
# Hairline height (dm) over the azimuth from the middle of the forehead (degrees).
HAIRLINE = ((0, 8.00), (18, 7.99), (32, 7.93), (45, 7.82), (58, 7.62), (70, 7.34), (80, 7.22), (88, 7.30), (98, 7.47),
            (112, 7.44), (124, 7.25), (140, 6.98), (160, 6.80), (180, 6.74))  # fmt: skip
NECK = (5.75, 6.25)  # template heights between which the head's rotation fades into the shoulders


@dataclass(frozen=True)
class Fields:
    """Arrays over the V vertices, float32; lengths in dm on the mean head.

    shape (V, 3); lip: signed distance inside the painted lips; lid: distance to the lid margin; azimuth: degrees from
    the front, with sign; scalp: height above the hairline; ao: openness 0-1; moustache, chin, cheek, shaft: beard
    regions 0-1; blush, socket: cheek and eye-socket weights 0-1; nod: share of the head's rotation 0-1.
    """

    shape: np.ndarray
    lip: np.ndarray
    lid: np.ndarray
    azimuth: np.ndarray
    scalp: np.ndarray
    ao: np.ndarray
    moustache: np.ndarray
    chin: np.ndarray
    cheek: np.ndarray
    blush: np.ndarray
    nose: np.ndarray
    socket: np.ndarray
    cavity: np.ndarray
    nod: np.ndarray


def step(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """Smooth step from 0 at `low` to 1 at `high`."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _blob(shape: np.ndarray, centre: tuple[float, float], size: tuple[float, float]) -> np.ndarray:
    d = (np.abs(shape[:, 0]) - centre[0]) ** 2 / size[0] ** 2 + (shape[:, 1] - centre[1]) ** 2 / size[1] ** 2
    return np.exp(-d) * step(0.2, 0.7, shape[:, 2])


def build(assets: HeadAssets) -> Fields:
    """All fields (about half a second)."""
    shape = landmarks.mean_head(assets)
    x, y, z = shape.T
    ax = np.abs(x)
    front = step(0.9, 1.15, z)
    lip = np.where((ax < 0.32) & (z > 1.18) & (np.abs(y - 6.68) < 0.3), _lip_distance(shape), -1.0)
    azimuth = np.degrees(np.arctan2(x, z - HEAD_CENTRE[2]))
    line = np.interp(np.abs(azimuth), *np.array(HAIRLINE).T)
    mouth = lip > 0.004
    openness = _openness(assets, shape)
    under = step(-0.16, 0.0, -(y - np.interp(ax, [0.2, 0.62], [6.70, 7.12])))
    jawline = step(5.95, 6.25, y) * step(0.0, 0.35, z) * (ax < 0.68)
    values = {
        "shape": shape,
        "lip": lip,
        "lid": _lid_distance(shape, landmarks.Caster(shape, assets.triangles[assets.part == 0])),
        "azimuth": azimuth,
        "scalp": y - line,
        "ao": openness,
        "moustache": (step(0.26, 0.18, ax) * step(6.74, 6.80, y) * step(6.93, 6.86, y) + _droop(ax, y))
        * front
        * ~mouth,
        "chin": step(0.28, 0.16, ax) * step(6.60, 6.52, y) * step(6.0, 6.2, y) * step(0.6, 0.9, z) * ~mouth,
        "cheek": under * jawline * ~mouth * step(0.16, 0.30, ax + step(6.62, 6.5, y)),
        "blush": _blob(shape, (0.36, 7.03), (0.17, 0.14)),
        "nose": _blob(shape, (0.05, 6.99), (0.12, 0.12)),
        "socket": _blob(shape, (0.28, 7.30), (0.17, 0.10)),
        "cavity": (openness < 0.15) & (ax < 0.36) & (y > 6.2) & (y < 6.9) & (z > 0.4),
        "nod": step(*NECK, y),
    }
    return Fields(**{name: np.ascontiguousarray(value, np.float32) for name, value in values.items()})


def _droop(ax: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The ends of a moustache beside the mouth."""
    return step(0.07, 0.02, np.abs(ax - 0.27)) * step(6.52, 6.62, y) * step(6.86, 6.78, y) * 0.8


def _polygon_distance(points: np.ndarray, outline: np.ndarray) -> np.ndarray:
    """Signed distance (positive inside) of points (N, 2) to a closed outline (M, 2)."""
    outline = np.ascontiguousarray(outline, np.float32)
    return np.array([cv2.pointPolygonTest(outline, (float(px), float(py)), True) for px, py in points])


def _lip_distance(shape: np.ndarray) -> np.ndarray:
    upper, lower = np.array(landmarks.UPPER_LIP), np.array(landmarks.LOWER_LIP)
    half = np.concatenate([upper, lower[-2::-1]])
    outline = np.concatenate([half, half[-2:0:-1] * [-1.0, 1.0]])
    distance = np.full(len(shape), -1.0)
    near = (np.abs(shape[:, 0]) < 0.4) & (np.abs(shape[:, 1] - 6.68) < 0.4)
    distance[near] = _polygon_distance(shape[near, :2], outline)
    return distance


def _lid_distance(shape: np.ndarray, caster: landmarks.Caster) -> np.ndarray:
    curve = np.concatenate(
        [landmarks.resample(landmarks.UPPER_LID, 40), landmarks.resample(landmarks.LOWER_LID, 40)]
    )
    margin = []
    for x, y in curve:
        index, weight = caster.cast(x, y)
        margin.append(weight @ shape[index])
    folded = np.column_stack([np.abs(shape[:, 0]), shape[:, 1:]])
    distance = np.full(len(shape), 9.0)
    near = np.linalg.norm(folded - [0.29, 7.345, 1.3], axis=1) < 0.5
    gap = np.linalg.norm(folded[near, None] - np.array(margin)[None], axis=2)
    distance[near] = gap.min(1)
    return distance


def _openness(assets: HeadAssets, shape: np.ndarray, count: int = 64) -> np.ndarray:
    """(V,) share of the sky each vertex of the closed-mouth mean head sees, cosine weighted, in 0-1."""
    solid = np.isin(assets.part, (0, 1, 2, 3))
    triangles = np.ascontiguousarray(assets.triangles[solid])
    empty = np.zeros((len(shape), 4), np.float32)
    mesh = Mesh(
        points=shape.astype(np.float32),
        triangles=triangles,
        material=np.zeros(len(triangles), np.int32),
        template=empty[:, :3].copy(),
        colours=empty[:, :3].copy(),
        aux=empty,
        alpha=np.ones((len(shape), 3), np.float32),
        ao=empty[:, 0].copy(),
    )
    normal = normals_of(mesh.points, triangles)
    tile = np.zeros((256, 256), np.float32)
    seen, total = np.zeros(len(shape)), np.full(len(shape), 1e-6)
    golden = np.pi * (3.0 - np.sqrt(5.0))
    head = np.zeros(len(shape), bool)
    head[np.unique(triangles)] = True
    for k in range(count):
        height = 1.0 - 2.0 * (k + 0.5) / count
        radius = np.sqrt(1.0 - height * height)
        direction = np.array([radius * np.cos(golden * k), height, radius * np.sin(golden * k)])
        cosine = np.maximum(0.0, normal @ direction)
        _, matrix = from_the_light(mesh.points[head], direction)
        local = (shape + 0.03 * normal) @ matrix[:3, :3].T + matrix[:3, 3]
        depth, _ = rasterise(shape @ matrix[:3, :3].T + matrix[:3, 3], mesh, SHADOW, tile, casts_only=True)
        column, row = (np.clip(np.round(local[:, d]).astype(int), 0, SHADOW - 1) for d in (0, 1))
        free = depth[row, column] < local[:, 2] + 0.03
        seen += cosine * free
        total += cosine
    return np.clip(seen / total, 0.0, 1.0) ** 0.8
