"""Contact sheets: numbered landmarks large enough to read, and random samples."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np

from ..schemes import scheme_for
from . import face, picture
from .settings import SPLITS, SyntheticSettings, cache_root

_SHOWN, _HIDDEN, _TEXT = (60, 220, 60), (50, 50, 255), (255, 255, 255)


def clean(sensor: picture.Sensor) -> picture.Sensor:
    """The sensor of a good picture: sharp, without noise, in colour and well lit."""
    return dataclasses.replace(
        sensor,
        sigma=0.0,
        motion=0.0,
        shrink=1.0,
        noise=0.0,
        grey=False,
        target=0.2,
        contrast=1.05,
        saturation=1.1,
    )


def draw_points(
    image: np.ndarray, points: np.ndarray, visible: np.ndarray, numbers: bool, scale: int = 1
) -> np.ndarray:
    """BGR picture enlarged `scale` times with dots (green visible, red hidden) and, if asked, their numbers."""
    out = cv2.resize(image[..., ::-1], None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    places = (points + 0.5) * scale - 0.5
    radius = max(1.0, 0.0028 * out.shape[0])
    for place, seen in zip(places, visible):
        centre = tuple(int(round(v * 16)) for v in place)
        cv2.circle(out, centre, int(radius * 16), _SHOWN if seen else _HIDDEN, -1, cv2.LINE_AA, 4)
    for number, (place, way) in enumerate(zip(places, _away(places)) if numbers else []):
        at = place + way * 0.014 * out.shape[0]
        size = 0.00048 * out.shape[0]
        corner = (int(at[0] - 11 * size * len(str(number))), int(at[1] + 9 * size))
        cv2.putText(out, str(number), corner, cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), 2, cv2.LINE_AA)
        cv2.putText(out, str(number), corner, cv2.FONT_HERSHEY_SIMPLEX, size, _TEXT, 1, cv2.LINE_AA)
    return out


def _away(places: np.ndarray) -> np.ndarray:
    """(K, 2) unit directions in which the numbers stand off their points: out of the eye or mouth they belong to, off the
    ridge of the nose, into the mouth for its inner rim, elsewhere away from the middle of the face."""
    regions = {name: np.array(part) for name, part in scheme_for(len(places)).regions.items()}
    way = places - places.mean(0)
    eyes, mouth, nose = regions["eyes"], regions["mouth"], regions["nose"]
    half = len(eyes) // 2 if len(places) == 68 else 8  # the pupils of 98 come after both eyes
    for part in (eyes[:half], eyes[half : 2 * half], mouth):
        way[part] = places[part] - places[part].mean(0)
    way[mouth[12:]] *= -1.0  # both schemes list the twelve outer points first
    way[nose[:4]] = [1.0, 0.0]
    return way / np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-6)


def numbered(
    cache_dir: Path | None = None, size: int = 900, seed: int = 0, yaw: float = 0.0
) -> dict[int, np.ndarray]:
    """{68: BGR picture, 98: BGR picture} of one clean rendered face with every point numbered."""
    generator = face.Generator(size, Path(cache_dir or cache_root()))
    pose = face.Pose(yaw=yaw, pitch=2.0, distance=14.0, fill=0.74)
    made = generator.make((seed, 0, 0), pose=pose, sensor=clean)
    return {n: draw_points(made.image, made.points[n], made.visible[n], True) for n in (68, 98)}


def poster(
    cache_dir: Path | None = None, first: int = 316, second: int = 308, width: int = 1240
) -> np.ndarray:
    """BGR picture for a README: 68 and 98 numbered points beside each other above three rows of samples."""
    half, generator = width // 2, face.Generator(width // 2, Path(cache_dir or cache_root()))
    top = []
    for number, points, yaw in ((first, 68, 0.0), (second, 98, 28.0)):
        pose = face.Pose(yaw=yaw, pitch=2.0, distance=14.0, fill=0.74)
        made = generator.make((0, 0, number), pose=pose, sensor=clean)
        top.append(draw_points(made.image, made.points[points], made.visible[points], True))
    columns = 10
    grid = samples(SyntheticSettings(size=176), "train", 3, columns, cache_dir, first=16)
    grid = cv2.resize(grid, (2 * half, 3 * 2 * half // columns), interpolation=cv2.INTER_AREA)
    return np.vstack([np.hstack(top), grid])


def definitions(
    cache_dir: Path | None = None, number: int = 206, size: int = 620, turns: tuple[float, ...] = (0, 25, 45)
) -> np.ndarray:
    """BGR picture of one clean face, turned further from view to view: the 98 points, which are the anatomy's (white), and the
    68 where people put them (numbered, green; red where they are hidden)."""
    generator = face.Generator(size, Path(cache_dir or cache_root()))
    views = []
    for yaw in turns:
        pose = face.Pose(yaw=float(yaw), pitch=2.0, distance=14.0, fill=0.70)
        made = generator.make((0, 0, number), pose=pose, sensor=clean)
        view = draw_points(made.image, made.points[68], made.visible[68], True)
        for place in made.points[98]:
            cv2.circle(view, tuple(int(round(v * 16)) for v in place), 20, _TEXT, -1, cv2.LINE_AA, 4)
        views.append(view)
    return np.hstack(views)


def samples(settings: SyntheticSettings, split: str, rows: int, columns: int, cache_dir: Path | None = None,
            points: int = 0, first: int = 0) -> np.ndarray:  # fmt: skip
    """BGR grid of rows × columns faces of a split, with 68 or 98 unnumbered points when asked."""
    generator = face.Generator(settings.size, Path(cache_dir or cache_root()))
    tiles = []
    for number in range(first, first + rows * columns):
        made = generator.make((settings.seed, SPLITS.index(split), number))
        plain = made.image[..., ::-1]
        tiles.append(
            draw_points(made.image, made.points[points], made.visible[points], False) if points else plain
        )
    return np.vstack([np.hstack(tiles[r * columns : (r + 1) * columns]) for r in range(rows)])
