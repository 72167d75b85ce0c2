"""A growing triangle mesh with the attributes the renderer reads, and simple solids to add to it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .raster import Mesh


@dataclass
class Builder:
    """Collects parts; each has points (N, 3) in head space (dm) and a share of the head's rotation `nod` (N,)."""

    parts: list[dict[str, np.ndarray]] = field(default_factory=list)
    count: int = 0

    def add(
        self,
        points: np.ndarray,
        triangles: np.ndarray,
        material: int | np.ndarray,
        colours: np.ndarray,
        *,
        aux: np.ndarray | None = None,
        alpha: np.ndarray | None = None,
        template: np.ndarray | None = None,
        ao: np.ndarray | None = None,
        nod: float | np.ndarray = 1.0,
    ) -> None:
        """Add one part; `colours` is (3,) or (N, 3) linear albedo."""
        n = len(points)
        self.parts.append(
            {
                "points": np.asarray(points, np.float64),
                "triangles": np.asarray(triangles, np.int32) + np.int32(self.count),
                "material": np.broadcast_to(np.asarray(material, np.int32), (len(triangles),)),
                "colours": np.broadcast_to(np.asarray(colours, np.float32), (n, 3)),
                "aux": np.zeros((n, 4), np.float32) if aux is None else np.asarray(aux, np.float32),
                "alpha": np.ones((n, 3), np.float32) if alpha is None else np.asarray(alpha, np.float32),
                "template": np.asarray(points if template is None else template, np.float32),
                "ao": np.ones(n, np.float32) if ao is None else np.asarray(ao, np.float32),
                "nod": np.broadcast_to(np.asarray(nod, np.float64), (n,)),
            }
        )
        self.count += n

    def join(self, name: str) -> np.ndarray:
        """One attribute of all parts."""
        return np.ascontiguousarray(np.concatenate([part[name] for part in self.parts]))

    def mesh(self, points: np.ndarray) -> Mesh:
        """The renderer's mesh with final (posed) points."""
        return Mesh(
            points=np.ascontiguousarray(points, np.float32),
            **{
                k: self.join(k)
                for k in ("triangles", "material", "template", "colours", "aux", "alpha", "ao")
            },
        )


def compact(triangles: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertex numbers that `triangles` (T, 3) use, ascending, and the triangles counted in those; `count`: of all vertices.

    What np.unique gives, without sorting.
    """
    there = np.zeros(count, bool)
    there[triangles] = True
    return np.flatnonzero(there), (np.cumsum(there) - 1)[triangles]


def grid(rows: int, columns: int, closed: bool = False) -> np.ndarray:
    """Triangles of a rows × columns grid of vertices; `closed` joins the last column to the first."""
    wide = columns if closed else columns - 1
    r, c = np.meshgrid(np.arange(rows - 1), np.arange(wide), indexing="ij")
    a, b = r * columns + c, r * columns + (c + 1) % columns
    quads = np.stack([a, b, b + columns, a + columns], -1).reshape(-1, 4)
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]).astype(np.int32)


def tube(path: np.ndarray, radius: float | np.ndarray, sides: int = 6, closed: bool = False):
    """Points and triangles of a tube along a path (N, 3)."""
    path = np.asarray(path, np.float64)
    along = np.roll(path, -1, 0) - np.roll(path, 1, 0) if closed else np.gradient(path, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    helper = np.where(np.abs(along[:, 1:2]) > 0.9, [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])
    one = np.cross(along, helper)
    one /= np.linalg.norm(one, axis=1, keepdims=True)
    two = np.cross(along, one)
    angle = np.linspace(0.0, 2 * np.pi, sides, endpoint=False)
    ring = one[:, None] * np.cos(angle)[:, None] + two[:, None] * np.sin(angle)[:, None]
    points = path[:, None] + ring * np.broadcast_to(radius, (len(path),))[:, None, None]
    triangles = grid(len(path) + (1 if closed else 0), sides, closed=True)
    return points.reshape(-1, 3), triangles % (len(path) * sides)


def ellipsoid(radius: np.ndarray, rows: int = 12, columns: int = 16):
    """Points and triangles of an ellipsoid around the origin."""
    up, round_ = np.meshgrid(
        np.linspace(-np.pi / 2, np.pi / 2, rows),
        np.linspace(0, 2 * np.pi, columns, endpoint=False),
        indexing="ij",
    )
    points = np.stack([np.cos(up) * np.cos(round_), np.sin(up), np.cos(up) * np.sin(round_)], -1).reshape(
        -1, 3
    )
    return points * radius, grid(rows, columns, closed=True)


def box(size: np.ndarray):
    """Points and triangles of a box around the origin with the given edge lengths (flat-shaded corners)."""
    points, triangles = [], []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            u, v = (axis + 1) % 3, (axis + 2) % 3
            face = np.zeros((4, 3))
            face[:, axis] = sign
            face[:, u], face[:, v] = [-1, 1, 1, -1], [-1, -1, 1, 1]
            triangles += [[len(points) + k for k in (0, 1, 2)], [len(points) + k for k in (0, 2, 3)]]
            points += list(face * np.asarray(size) / 2.0)
    return np.array(points), np.array(triangles, np.int32)
