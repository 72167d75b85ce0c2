"""What the tests of the readers share: the published layouts in `formats/`, small files written by hand."""

from pathlib import Path

import cv2
import numpy as np

FILES = Path(__file__).parent / "formats"
PATHS = {"cofw": FILES / "COFW_test_color.mat"}


def path_of(name):
    return PATHS.get(name, FILES / name)


def write_image(path, width=100, height=80):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((height, width, 3), 128, np.uint8))


def write_pts(path, points, head="version: 1\nn_points: {n}\n{{\n", end="\n"):
    """A .pts file by hand; `points` are written as they are, so they count from 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = head.format(n=len(points)) + "".join(f"{x} {y}\n" for x, y in points) + "}\n"
    path.write_bytes(text.replace("\n", end).encode())


def some_points(k=68):
    """Points on a spiral: all different, inside of 100 x 80, no two faces of a test need more."""
    t = np.arange(k)
    return np.round(np.stack([50 + 0.4 * t * np.cos(t), 40 + 0.4 * t * np.sin(t)], 1), 3).tolist()
