"""Labels derived from a rendered scene: visibility, face rectangle and the six WFLW attributes."""

from __future__ import annotations

import cv2
import numpy as np

from . import raster
from .pose import Pose
from .settings import ATTRIBUTES


def visible_at(projected: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """(K,) bool for projected points (K, 3): no surface of the depth buffer around them is nearer by over 5 mm.

    The farthest surface of 3×3 samples counts (5×5 for the contour), as a point on an outline may fall beside it.
    """
    narrow, wide = (cv2.erode(depth, np.ones((n, n), np.uint8)) for n in (3, 5))
    side = depth.shape[0]
    column, row = (np.round((projected[:, d] + 0.5) * raster.SUPER - 0.5).astype(int) for d in (0, 1))
    inside = (column >= 0) & (row >= 0) & (column < side) & (row < side)
    gap = 0.05 * projected[:, 2] ** 2  # nearness lost over 5 mm
    at = np.clip(row, 0, side - 1), np.clip(column, 0, side - 1)
    contour = np.arange(len(projected)) < (33 if len(projected) == 98 else 17)
    there = np.where(contour, wide[at], narrow[at])
    return inside & (there <= projected[:, 2] + gap)


def hide_eyes(visible: dict[int, np.ndarray]) -> None:
    """Mark the eyes' points as hidden (sunglasses)."""
    visible[98][60:76] = visible[98][96:98] = False
    visible[68][36:48] = False


def attribute_bits(pose: Pose, expression, info: dict, sensor, seen: np.ndarray) -> dict[str, int]:
    """The six WFLW bits from what was drawn; `seen` (98,) are the visible points."""
    hidden = np.delete(~seen, np.r_[0:33]).mean() if abs(pose.yaw) > 30 else (~seen).mean()
    values = (
        abs(pose.yaw) > 35 or abs(pose.pitch) > 22 or abs(pose.roll) > 25,
        expression.strong,
        info["harsh"] or not 0.09 < sensor.target < 0.42,
        info["make_up"],
        "object" in info or info["dark_glasses"] or hidden > 0.15,
        sensor.sigma > 1.4 or sensor.motion > 5.0 or sensor.shrink > 2.3,
    )
    return {name: int(value) for name, value in zip(ATTRIBUTES, values)}


def rect_of(points: np.ndarray) -> tuple[float, float, float, float]:
    """Tight box of the landmarks grown by a tenth, as face rectangles of photographs are."""
    low, high = points.min(0), points.max(0)
    grow = 0.1 * (high - low)
    return (*(low - grow).tolist(), *(high + grow).tolist())
