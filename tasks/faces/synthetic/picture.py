"""What surrounds a rendered face: background, exposure, and the camera's blur, noise and compression."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


def noise_tile() -> np.ndarray:
    """(256, 256) float32 repeating noise in 0-1 with some short-range structure, the same for every face."""
    rng = np.random.default_rng(20240)
    tile = np.zeros((256, 256))
    for cells, share in ((256, 1.0), (128, 0.8)):
        coarse = rng.random((cells, cells))
        tile += share * np.kron(coarse, np.ones((256 // cells,) * 2))
    rank = tile.ravel().argsort().argsort().reshape(256, 256) / (256 * 256 - 1)
    return rank.astype(np.float32)


_MUTED, _VIVID = np.full(3, 16.0), np.full(3, 2.5)


def _tone(rng: np.random.Generator) -> np.ndarray:
    """A background colour: mostly muted, sometimes vivid."""
    value = rng.beta(0.8, 1.3)
    tint = rng.dirichlet(_MUTED if rng.random() < 0.8 else _VIVID) * 3.0
    return np.minimum(value * tint, 1.0)


def _clouds(size: int, rng: np.random.Generator, first: int = 2) -> np.ndarray:
    """(size, size) 0-1 noise over octaves, doubled up from the coarsest."""
    out = rng.random((first, first), dtype=np.float32)
    share = 0.55
    while out.shape[0] < size // 2:
        side = out.shape[0] * 2
        out = cv2.resize(out, (side, side), interpolation=cv2.INTER_CUBIC)
        out += share * rng.random((side, side), dtype=np.float32)
        share *= 0.55
    out = cv2.resize(out, (size, size), interpolation=cv2.INTER_CUBIC)
    return cv2.normalize(out, None, 0.0, 1.0, cv2.NORM_MINMAX)


def background(size: int, rng: np.random.Generator) -> np.ndarray:
    """(size, size, 3) float32 linear RGB: wall, gradient, foliage, room, shelves, bokeh, poster."""
    kind = rng.integers(7)
    a, b = _tone(rng), _tone(rng)
    image = np.empty((size, size, 3), np.float32)
    if kind == 0:
        image[:] = a
    elif kind == 1:
        ramp = (
            np.linspace(0, 1, size, dtype=np.float32)[:, None] * rng.choice([-1, 1])
            + np.linspace(0, 1, size, dtype=np.float32) * rng.normal()
        )
        image[:] = a + (b - a) * ((ramp - ramp.min()) / np.ptp(ramp))[..., None]
    else:
        image[:] = a + (b - a) * _clouds(size, rng, int(rng.integers(2, 9)))[..., None]
    if kind in (3, 4, 6):
        _boxes(image, rng, int(rng.integers(4, 26)), grid=kind == 4)
    if kind == 5:
        for _ in range(int(rng.integers(6, 30))):
            spot = tuple(int(v) for v in rng.integers(0, size, 2))
            cv2.circle(
                image,
                spot,
                int(rng.integers(2, size // 7)),
                tuple(float(v) for v in _tone(rng) * 1.4),
                -1,
                cv2.LINE_AA,
            )
    if kind == 6:
        for _ in range(int(rng.integers(1, 5))):
            text = "".join(rng.choice(list("ABCDEFGHIKLMNOPRSTUVWXYZ0123456789"), int(rng.integers(2, 9))))
            at = (int(rng.integers(-size // 4, size)), int(rng.integers(0, size)))
            cv2.putText(image, text, at, int(rng.integers(0, 5)), float(rng.uniform(0.5, 2.5)), tuple(float(v) for v in _tone(rng)), int(rng.integers(1, 6)), cv2.LINE_AA)  # fmt: skip
    sigma = float(rng.choice([0.0, 0.8, 2.0, 5.0]))
    if sigma:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    image *= 0.75 + 0.5 * _clouds(size, rng, 2)[..., None]
    return np.clip(image, 0.0, 2.0)


def _boxes(image: np.ndarray, rng: np.random.Generator, count: int, grid: bool) -> None:
    size = image.shape[0]
    for k in range(count):
        x, y = rng.integers(-size // 4, size, 2)
        w, h = rng.integers(4, size // 2, 2)
        if grid:
            x, y, w, h = (
                int(k * size / count),
                0 if k % 3 else size // 2,
                max(2, int(size / count * 0.8)),
                size,
            )
        cv2.rectangle(
            image,
            (int(x), int(y)),
            (int(x + w), int(y + h)),
            tuple(float(v) for v in _tone(rng)),
            -1 if rng.random() < 0.8 else 2,
        )


@dataclass(frozen=True)
class Sensor:
    """Drawn camera: exposure target, contrast, colour and damage; sigma and motion in pixels, quality of the JPEG."""

    target: float
    gamma: float
    contrast: float
    saturation: float
    cast: np.ndarray
    grey: bool
    sigma: float
    motion: float
    motion_angle: float
    shrink: float
    noise: float
    quality: int


def draw_sensor(rng: np.random.Generator) -> Sensor:
    """Mostly good photographs, a tail of bad ones."""
    blur = rng.random()
    return Sensor(
        target=float(np.exp(rng.normal(np.log(0.20), 0.38))),
        gamma=float(rng.uniform(0.90, 1.12)),
        contrast=float(rng.uniform(0.75, 1.35)),
        saturation=float(np.clip(rng.normal(1.08, 0.24), 0.3, 1.8)),
        cast=np.exp(rng.normal(0.0, 0.05, 3)),
        grey=bool(rng.random() < 0.05),
        sigma=float(rng.uniform(0.0, 0.8) if blur < 0.7 else rng.uniform(0.8, 1.9)),
        motion=float(rng.uniform(3.0, 9.0) if rng.random() < 0.08 else 0.0),
        motion_angle=float(rng.uniform(0.0, 180.0)),
        shrink=float(rng.uniform(1.5, 3.2) if rng.random() < 0.22 else 1.0),
        noise=float(abs(rng.normal(0.0, 0.012)) if rng.random() < 0.85 else rng.uniform(0.015, 0.05)),
        quality=int(rng.integers(55, 97) if rng.random() < 0.75 else rng.integers(22, 55)),
    )


def develop(linear: np.ndarray, face: np.ndarray, sensor: Sensor, rng: np.random.Generator) -> np.ndarray:
    """Linear RGB (S, S, 3) → uint8 RGB; `face` (S, S) bool says where to measure the light."""
    light = linear[face].mean() if face.any() else linear.mean()
    image = linear * (sensor.target / max(float(light), 1e-4)) * sensor.cast.astype(np.float32)
    image = image / (1.0 + 0.35 * image)  # soft shoulder
    image = cv2.pow(np.clip(image * np.float32(1.12), 0.0, 1.0), 1.0 / (2.2 * sensor.gamma))
    # saturation about the grey of each pixel and contrast about 0.45 are one affine map of its colour
    grey = np.tile([0.299, 0.587, 0.114], (3, 1))
    keep = 0.0 if sensor.grey else sensor.saturation
    mix = sensor.contrast * (keep * np.eye(3) + (1.0 - keep) * grey)
    image = cv2.transform(image, np.column_stack([mix, np.full(3, 0.45 * (1.0 - sensor.contrast))]))
    size = image.shape[0]
    if sensor.sigma > 0.25:
        image = cv2.GaussianBlur(image, (0, 0), sensor.sigma)
    if sensor.motion:
        n = int(sensor.motion) | 1
        kernel = np.zeros((n, n), np.float32)
        kernel[n // 2] = 1.0
        turn = cv2.getRotationMatrix2D((n / 2 - 0.5, n / 2 - 0.5), sensor.motion_angle, 1.0)
        kernel = cv2.warpAffine(kernel, turn, (n, n))
        image = cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)
    small = image
    if sensor.shrink > 1.0:
        side = int(size / sensor.shrink)
        small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    small = small + sensor.noise * rng.standard_normal(small.shape, dtype=np.float32)
    out = np.clip(small * 255.0 + 0.5, 0, 255).astype(np.uint8)
    if sensor.shrink > 1.0:
        out = cv2.resize(out, (size, size), interpolation=cv2.INTER_LINEAR)
    return out
