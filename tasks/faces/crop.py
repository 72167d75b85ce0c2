"""The square crop of one face: the map from image to crop, its inverse, and the resampling, owned by one object."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from srrl.errors import UserError

LANDMARK_SCALE = 1.25  # side of the crop / longer side of the landmark bounding box


@dataclass(frozen=True)
class Crop:
    """A square window of the source image, possibly turned and mirrored, resampled to `size` x `size` pixels.

    Pixel centres lie at integer coordinates on both sides, so an image of width W covers [-1/2, W - 1/2].
    For an upright crop whose first column is `left`, and s = size / side: x_crop = (x_src - left + 1/2) s - 1/2.

    center: (x, y) of the middle of the window, source pixels.
    side: length of the window's side, source pixels, > 0.
    size: output pixels per side, >= 1.
    angle: degrees by which the picture is turned counter-clockwise (as seen on a screen) about the centre.
    flip: mirror afterwards, x -> size - 1 - x. Swapping left and right landmarks is the caller's part.

    Raises UserError on a side that is not a positive finite number or a non-finite centre.
    """

    center: tuple[float, float]
    side: float
    size: int
    angle: float = 0.0
    flip: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.side) and self.side > 0 and all(map(math.isfinite, self.center))):
            raise UserError(
                f"a crop at {self.center} with side {self.side} has no area: expected a finite centre and a side "
                "above zero; check the landmarks or the rectangle of this face"
            )
        if self.size < 1:
            raise UserError(f"crop size {self.size}: expected at least 1 pixel; set a positive input size")

    @classmethod
    def around_points(cls, points: np.ndarray, size: int, scale: float = LANDMARK_SCALE) -> Crop:
        """The square around (K, 2) landmarks; NaN rows are left out.

        side = scale x longer side of the landmarks' bounding box, centred on the box.
        Raises UserError when no point is labelled or all labelled points coincide.
        """
        labelled = points[np.isfinite(points).all(axis=1)]
        if len(labelled) == 0:
            raise UserError("no landmark is labelled: expected at least two; drop this face or fix its file")
        return cls._around(labelled.min(axis=0), labelled.max(axis=0), size, scale)

    @classmethod
    def around_rect(cls, rect: tuple[float, float, float, float], size: int, scale: float = 1.0) -> Crop:
        """The square around (xmin, ymin, xmax, ymax), side = scale x longer side; UserError when it has no area."""
        xmin, ymin, xmax, ymax = rect
        return cls._around(np.array([xmin, ymin], float), np.array([xmax, ymax], float), size, scale)

    @classmethod
    def _around(cls, low: np.ndarray, high: np.ndarray, size: int, scale: float) -> Crop:
        center = (low + high) / 2
        return cls((float(center[0]), float(center[1])), float(scale * (high - low).max()), size)

    @property
    def matrix(self) -> np.ndarray:
        """(2, 3) float64, source pixels -> crop pixels."""
        s = self.size / self.side
        a = math.radians(self.angle)
        linear = s * np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])
        middle = (self.size - 1) / 2
        if self.flip:  # x -> size - 1 - x leaves the middle where it is and turns the x axis round
            linear[0] = -linear[0]
        return np.column_stack([linear, middle - linear @ np.array(self.center)])

    @property
    def inverse_matrix(self) -> np.ndarray:
        """(2, 3) float64, crop pixels -> source pixels."""
        linear = np.linalg.inv(self.matrix[:, :2])
        middle = (self.size - 1) / 2
        return np.column_stack([linear, np.array(self.center) - linear @ np.array([middle, middle])])

    def apply(self, points: np.ndarray) -> np.ndarray:
        """(..., 2) source pixels -> crop pixels, float64; points may fall outside the crop, NaN stays NaN."""
        return _transform(self.matrix, points)

    def invert(self, points: np.ndarray) -> np.ndarray:
        """(..., 2) crop pixels -> source pixels, float64; the inverse of `apply`."""
        return _transform(self.inverse_matrix, points)

    def warp(self, image: np.ndarray) -> np.ndarray:
        """Resample (H, W, C) uint8 to (size, size, C) uint8, bilinear.

        Where the crop shrinks by 2 or more, whole blocks of k x k source pixels are averaged first (k = the
        integer part of the shrink factor), so that fine texture does not alias. Outside the image the edge pixel
        is repeated: a black border would put a strong straight edge, unrelated to the face, beside the jaw line
        of every face that touches the picture's border.
        """
        matrix = self.matrix
        block = max(1, int(self.side / self.size))
        x0, y0, x1, y1 = self._source_window(image.shape, margin=2 * block)
        window = image[y0:y1, x0:x1]
        if block > 1:
            # Padding to whole blocks keeps every block's centre at (i + 1/2) block - 1/2 of the window.
            pad_y, pad_x = -window.shape[0] % block, -window.shape[1] % block
            window = cv2.copyMakeBorder(window, 0, pad_y, 0, pad_x, cv2.BORDER_REPLICATE)
            shape = (window.shape[1] // block, window.shape[0] // block)
            window = cv2.resize(window, shape, interpolation=cv2.INTER_AREA)
        # Window pixel u is source pixel block (u + 1/2) - 1/2 + (x0, y0); fold that into the matrix.
        offset = matrix[:, :2] @ (np.array([x0, y0]) + (block - 1) / 2) + matrix[:, 2]
        folded = np.column_stack([matrix[:, :2] * block, offset])
        out = cv2.warpAffine(
            window, folded, (self.size, self.size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        return out.reshape(self.size, self.size, image.shape[2])

    def _source_window(self, shape: tuple[int, ...], margin: int) -> tuple[int, int, int, int]:
        """(x0, y0, x1, y1) of the source pixels the crop can touch, inside the image, never empty."""
        a = math.radians(self.angle)
        reach = self.side / 2 * (abs(math.cos(a)) + abs(math.sin(a))) + margin
        # A crop wholly outside still needs the nearest edge pixel, which is what gets repeated.
        x0, x1 = _span(self.center[0], reach, shape[1])
        y0, y1 = _span(self.center[1], reach, shape[0])
        return x0, y0, x1, y1


def _span(middle: float, reach: float, length: int) -> tuple[int, int]:
    """Pixels [first, end) of 0 ... length - 1 within `reach` of `middle`, at least one."""
    first = min(max(math.floor(middle - reach), 0), length - 1)
    return first, max(min(math.ceil(middle + reach) + 1, length), first + 1)


def _transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.asarray(points, dtype=np.float64) @ matrix[:, :2].T + matrix[:, 2]
