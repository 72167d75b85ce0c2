"""Landmarks on a picture: contours as thin smooth lines, points in the colour of their facial region."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from .schemes import Scheme, scheme_for

# RGB, apart in hue and lightness also for colour-blind readers
REGION_COLOURS = {
    "jaw": (86, 180, 233),
    "chin": (86, 180, 233),
    "brows": (240, 190, 40),
    "nose": (0, 200, 140),
    "eyes": (255, 255, 255),
    "mouth": (255, 105, 120),
}
LONGER = 5  # what draw_moves makes of a distance; the app's heading says it in words
INK = (15, 20, 30)  # under lines and points, so that they stand out on bright skin as well


def _run(first: int, last: int) -> tuple[int, ...]:
    return tuple(range(first, last + 1))


def _ring(*indices: int) -> tuple[int, ...]:
    return (*indices, indices[0])


# The lines that join the points of each scheme; a closed one ends where it starts.
CONTOURS: dict[int, tuple[tuple[int, ...], ...]] = {
    68: (
        _run(0, 16),
        _run(17, 21),
        _run(22, 26),
        _run(27, 30),
        _run(31, 35),
        _ring(*_run(36, 41)),
        _ring(*_run(42, 47)),
        _ring(*_run(48, 59)),
        _ring(*_run(60, 67)),
    ),
    98: (
        _run(0, 32),
        _ring(*_run(33, 41)),
        _ring(*_run(42, 50)),
        _run(51, 54),
        _run(55, 59),
        _ring(*_run(60, 67)),
        _ring(*_run(68, 75)),
        _ring(*_run(76, 87)),
        _ring(*_run(88, 95)),
    ),
    29: (
        _ring(0, 4, 2, 5),
        _ring(1, 6, 3, 7),
        _ring(8, 12, 10, 13),
        _ring(9, 14, 11, 15),
        (18, 21, 19),
        _ring(22, 24, 23, 27),
        _ring(22, 25, 23, 26),
    ),
    19: ((0, 1, 2), (3, 4, 5), (6, 7, 8), (9, 10, 11), (12, 13, 14), (15, 16, 17)),
}


def point_colours(scheme: Scheme) -> np.ndarray:
    """(K, 3) uint8 RGB, the colour of each point's region."""
    colours = np.zeros((scheme.n_points, 3), np.uint8)
    for region, indices in scheme.regions.items():
        if region in REGION_COLOURS:
            colours[list(indices)] = REGION_COLOURS[region]
    return colours


def draw_points(
    image: np.ndarray,
    points: np.ndarray,
    *,
    weight: float = 1.0,
    colour: tuple[int, int, int] | None = None,
    dots: bool = True,
) -> np.ndarray:
    """A copy of ``image`` (H, W, 3) uint8 RGB with the landmarks (K, 2), image pixels, of one face; NaN rows are left out.

    Sizes follow the face: about 1 % of its longer side for a dot's radius, never under 0.9 pixels, times ``weight``. ``colour``
    replaces the regions' colours. Everything is drawn on an enlarged copy of the face's surroundings and reduced again,
    so that places and widths are exact to a part of a pixel at any size.
    """
    out = image.copy()
    known = np.isfinite(points).all(axis=1)
    if not known.any():
        return out
    low, high = points[known].min(axis=0), points[known].max(axis=0)
    radius = max(0.9, 0.0105 * float((high - low).max())) * weight
    x0, y0 = np.maximum(0, np.floor(low - 4 * radius)).astype(int)
    x1, y1 = np.minimum(image.shape[1::-1], np.ceil(high + 4 * radius) + 1).astype(int)
    if x1 <= x0 or y1 <= y0:  # the face lies outside of the picture
        return out
    zoom = int(min(8, max(1, math.ceil(600 / max(x1 - x0, y1 - y0)))))
    layer = _Layer(x1 - x0, y1 - y0, zoom, np.array([x0, y0]))
    colours = (
        np.tile(np.uint8(colour), (len(points), 1))
        if colour is not None
        else point_colours(scheme_for(len(points)))
    )
    for ink in (True, False):
        layer.lines(points, known, colours, radius * (1.1 if ink else 0.5), ink)
    if dots:
        layer.dots(points, known, colours, radius)
    out[y0:y1, x0:x1] = layer.over(out[y0:y1, x0:x1])
    return out


def draw_moves(image: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """A copy of ``image`` with a dot at each of ``start`` (K, 2), image pixels, and a line from there towards ``end``.

    It is ``LONGER`` times as long as the way there, which is often shorter than a dot is wide.
    """
    out, width = image.copy(), max(1, round(float(np.ptp(start, axis=0).max()) / 220))
    colours = point_colours(scheme_for(len(start))).tolist()
    for a, b, colour in zip(start, start + LONGER * (end - start), colours, strict=True):
        cv2.line(out, _shifted(*a), _shifted(*b), colour, width, cv2.LINE_AA, 4)
        cv2.circle(out, _shifted(*a), round(16 * 1.2 * width), (255, 255, 255), -1, cv2.LINE_AA, 4)
    return out


class _Layer:
    """What is drawn over a window of the picture, ``zoom`` times as large as it: colour times coverage, and coverage.

    Multiplied already, four channels are drawn and reduced at once, and edges stay clean.
    """

    def __init__(self, width: int, height: int, zoom: int, origin: np.ndarray):
        self.zoom, self.origin = zoom, origin
        self.ink = np.zeros((height * zoom, width * zoom, 4), np.uint8)

    def place(self, points: np.ndarray) -> np.ndarray:
        """Picture pixels -> the layer's, with four binary places, as OpenCV's ``shift`` takes them."""
        return (
            np.round(((points - self.origin + 0.5) * self.zoom - 0.5) * 16)
            .astype(np.int64)
            .clip(-(1 << 28), 1 << 28)
        )

    def lines(
        self, points: np.ndarray, known: np.ndarray, colours: np.ndarray, width: float, ink: bool
    ) -> None:
        thickness = max(1, round(width * self.zoom))
        at = np.zeros(points.shape, np.int64)
        at[known] = self.place(points[known])
        places = [tuple(p) for p in at.tolist()]
        shades = [_shade(INK, 110)] * len(points) if ink else [_shade(c, 215) for c in colours.tolist()]
        for contour in CONTOURS[len(points)]:
            for a, b in zip(contour, contour[1:], strict=False):
                if known[a] and known[b]:
                    cv2.line(self.ink, places[a], places[b], shades[b], thickness, cv2.LINE_AA, 4)

    def dots(self, points: np.ndarray, known: np.ndarray, colours: np.ndarray, radius: float) -> None:
        unit = 16 * self.zoom
        for at, colour in zip(self.place(points[known]).tolist(), colours[known].tolist(), strict=True):
            for size, shade in ((1.3 * radius, _shade(INK, 170)), (radius, _shade(colour, 255))):
                cv2.circle(self.ink, tuple(at), round(size * unit), shade, -1, cv2.LINE_AA, 4)

    def over(self, window: np.ndarray) -> np.ndarray:
        """The window with the layer laid over it."""
        ink = cv2.resize(self.ink, window.shape[1::-1], interpolation=cv2.INTER_AREA)
        under = cv2.multiply(window, cv2.cvtColor(255 - ink[..., 3], cv2.COLOR_GRAY2RGB), scale=1 / 255)
        return cv2.add(under, ink[..., :3])


def _shade(colour: Sequence[int], cover: int) -> tuple[int, int, int, int]:
    """An RGB colour of which ``cover`` of 255 parts hide what is below it, as the layer has it."""
    return (*(round(c * cover / 255) for c in colour), cover)


def draw_rect(
    image: np.ndarray, rect: Sequence[float], colour: tuple[int, int, int] = (255, 255, 255)
) -> None:
    """The corners of (xmin, ymin, xmax, ymax), in place: enough to see which face is meant, without hiding it."""
    xmin, ymin, xmax, ymax = rect
    side = max(xmax - xmin, ymax - ymin)
    thickness, arm = max(1, round(side / 160)), 0.12 * side
    for x, sx in ((xmin, 1), (xmax, -1)):
        for y, sy in ((ymin, 1), (ymax, -1)):
            corner = _shifted(x, y)
            for end in (_shifted(x + sx * arm, y), _shifted(x, y + sy * arm)):
                cv2.line(image, corner, end, INK, thickness + (2 if side > 100 else 1), cv2.LINE_AA, 4)
                cv2.line(image, corner, end, colour, thickness, cv2.LINE_AA, 4)


def draw_number(image: np.ndarray, number: int, rect: Sequence[float]) -> None:
    """A face's number on a plate above the upper left corner of its rectangle, within the picture, in place."""
    xmin, ymin, xmax, ymax = rect
    size = max(0.5, max(xmax - xmin, ymax - ymin) / 260)
    width, font = max(1, round(2 * size)), cv2.FONT_HERSHEY_SIMPLEX
    (across, up), _ = cv2.getTextSize(str(number), font, size, width)
    margin = max(2, round(6 * size))
    right, down = across + 2 * margin, up + 2 * margin
    x = min(max(round(xmin), 0), max(image.shape[1] - right, 0))
    y = min(max(round(ymin) - down - margin, 0), max(image.shape[0] - down, 0))
    cv2.rectangle(image, (x, y), (x + right, y + down), INK, -1)
    cv2.putText(
        image, str(number), (x + margin, y + margin + up), font, size, (255, 255, 255), width, cv2.LINE_AA
    )


def _shifted(x: float, y: float) -> tuple[int, int]:
    return round(16 * x), round(16 * y)
