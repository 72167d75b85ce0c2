"""Drive the warp kernels: numpy meshes in, linear RGB image, depth and triangle buffers out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import warp as wp

from . import kernels

DEVICE = "cpu"
SUPER = 2  # samples a pixel side
SHADOW = 192  # side of the shadow map


@dataclass
class Mesh:
    """Everything the renderer needs about the scene, as float32/int32 arrays.

    points (V, 3) dm in camera axes (x right, y up, z to the viewer); triangles (T, 3); material (T,) as in surface;
    template (V, 3) painting coordinates; colours (V, 3) linear albedo; aux (V, 4) and alpha (V, 3) by material;
    ao (V,) openness in 0-1.
    """

    points: np.ndarray
    triangles: np.ndarray
    material: np.ndarray
    template: np.ndarray
    colours: np.ndarray
    aux: np.ndarray
    alpha: np.ndarray
    ao: np.ndarray


@dataclass(frozen=True)
class Camera:
    """Perspective camera on the z axis at height `distance`; x = cx + focal·X/(distance − Z), y downwards.

    focal in pixels, distance in dm, centre in pixels (pixel centres at integers).
    """

    focal: float
    distance: float
    cx: float
    cy: float
    size: int

    def project(self, points: np.ndarray) -> np.ndarray:
        """(..., 3) dm → (..., 3): x, y in pixels and nearness 1/(distance − Z); float64."""
        points = np.asarray(points, np.float64)
        near = 1.0 / (self.distance - points[..., 2])
        return np.stack(
            [
                self.cx + self.focal * points[..., 0] * near,
                self.cy - self.focal * points[..., 1] * near,
                near,
            ],
            axis=-1,
        )


def _array(values: np.ndarray, dtype) -> wp.array:
    return wp.array(np.ascontiguousarray(values), dtype=dtype, device=DEVICE, copy=False)


def normals_of(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """(V, 3) float32 area-weighted unit normals."""
    return _normals(_array(points.astype(np.float32), wp.vec3), _array(triangles, wp.int32))


def _normals(points: wp.array, triangles: wp.array) -> np.ndarray:
    total = np.zeros((len(points), 3), np.float32)
    wp.launch(
        kernels.vertex_normals,
        dim=len(triangles),
        inputs=[points, triangles, _array(total, wp.vec3)],
        device=DEVICE,
    )
    length = np.sqrt(np.einsum("ij,ij->i", total, total))
    total /= np.maximum(length, 1e-12)[:, None]
    return total


@dataclass(frozen=True)
class _Shared:
    """The mesh arrays that several kernels read, wrapped for warp once a face: a wrapper takes as long as a small kernel."""

    triangles: wp.array
    material: wp.array
    alpha: wp.array
    tile: wp.array

    @classmethod
    def of(cls, mesh: Mesh, tile: np.ndarray) -> _Shared:
        return cls(
            _array(mesh.triangles, wp.int32),
            _array(mesh.material, wp.int32),
            _array(mesh.alpha, wp.vec3),
            _array(tile, wp.float32),
        )


def rasterise(screen: np.ndarray, mesh: Mesh, side: int, tile: np.ndarray, casts_only: bool = False):
    """(depth, ids) of shape (side, side): nearness (0 = nothing) and triangle number (−1 = nothing).

    screen: (V, 3) sample x, sample y, nearness.
    """
    return _rasterise(_array(screen.astype(np.float32), wp.vec3), _Shared.of(mesh, tile), side, casts_only)


def _rasterise(screen: wp.array, shared: _Shared, side: int, casts_only: bool):
    depth = np.zeros((side, side), np.float32)
    ids = np.full((side, side), -1, np.int32)
    wp.launch(
        kernels.rasterise,
        dim=len(shared.triangles),
        inputs=[
            screen,
            shared.triangles,
            shared.material,
            shared.alpha,
            shared.tile,
            int(casts_only),
            _array(depth, wp.float32),
            _array(ids, wp.int32),
        ],
        device=DEVICE,
    )
    return depth, ids


def from_the_light(points: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(V, 3) float32 shadow-map column, row and nearness of points (V, 3) for light from `direction`; the (4, 4) matrix."""
    forward = direction / np.linalg.norm(direction)
    side = np.cross([0.0, 1.0, 0.05], forward)
    side /= np.linalg.norm(side)
    axes = np.stack([side, np.cross(forward, side), forward])
    local = points @ axes.T.astype(np.float32)
    low, high = ([float(f(local[:, d])) for d in range(3)] for f in (np.min, np.max))
    scale = (SHADOW - 3) / max(high[0] - low[0], high[1] - low[1])
    matrix = np.zeros((4, 4))
    matrix[0, :3], matrix[0, 3] = axes[0] * scale, 1.0 - low[0] * scale
    matrix[1, :3], matrix[1, 3] = -axes[1] * scale, 1.0 + high[1] * scale
    matrix[2, :3], matrix[2, 3] = axes[2], 1.0 - low[2]
    matrix[3, 3] = 1.0
    local *= np.array([scale, -scale, 1.0], np.float32)
    local += matrix[:3, 3].astype(np.float32)
    return local, matrix


def render(mesh: Mesh, camera: Camera, look, tile: np.ndarray, background: np.ndarray):
    """Linear RGB (S, S, 3) float32 over `background`, nearness (2S, 2S), triangle numbers (2S, 2S)."""
    samples = camera.project(mesh.points)
    samples[:, :2] = (samples[:, :2] + 0.5) * SUPER - 0.5
    screen = _array(samples.astype(np.float32), wp.vec3)
    shared, points = _Shared.of(mesh, tile), _array(mesh.points, wp.vec3)
    depth, ids = _rasterise(screen, shared, camera.size * SUPER, casts_only=False)
    in_light, matrix = from_the_light(mesh.points, np.array(look.key_dir))
    shadow, _ = _rasterise(_array(in_light, wp.vec3), shared, SHADOW, casts_only=True)
    image = np.empty((camera.size, camera.size, 3), np.float32)
    wp.launch(
        kernels.shade,
        dim=(camera.size, camera.size),
        inputs=[
            _array(ids, wp.int32),
            _array(depth, wp.float32),
            screen,
            points,
            _array(_normals(points, shared.triangles), wp.vec3),
            _array(mesh.template, wp.vec3),
            _array(mesh.colours, wp.vec3),
            _array(mesh.aux, wp.vec4),
            _array(mesh.ao, wp.float32),
            shared.triangles,
            shared.material,
            shared.tile,
            look,
            wp.vec3(0.0, 0.0, camera.distance),
            wp.mat44(*matrix.astype(np.float32).ravel().tolist()),
            _array(shadow, wp.float32),
            _array(background.astype(np.float32, copy=False), wp.vec3),
            _array(image, wp.vec3),
        ],
        device=DEVICE,
    )
    return image, depth, ids
