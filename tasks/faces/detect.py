"""Finding faces without annotations: OpenCV's Haar cascades, and the rectangle that the networks expect around a face."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np

from srrl.errors import UserError

from .records import FaceRecord, Records

Rect = tuple[float, float, float, float]

# From a Haar window of side w, centred at c, to the bounding box of the 68 landmarks (brows to chin, ear to ear):
# centre c + (0, DOWN) w, width WIDTH w, height HEIGHT w. How they were measured: see FaceDetector.
DOWN, WIDTH, HEIGHT = 0.147, 0.875, 0.83
# The same for windows of the profile cascade that looks to the left of the picture; x is mirrored for the other.
PROFILE_SIDE, PROFILE_DOWN, PROFILE_SIZE = -0.045, 0.14, 0.77

WORKING_SIZE = 800  # pixels; longer pictures are shrunk for the search
SMALLEST = 24  # pixels, side of the smallest window that is looked for
SURE, POSSIBLE = 5, 3  # overlapping windows that have to agree on a face
MATCH = 0.3  # IoU from which a detection counts as the face of a record


class FaceDetector:
    """Faces in a picture, by Viola and Jones's cascades (CVPR 2001) as they come with OpenCV 4.

    ``haarcascade_frontalface_default`` looks for faces. Around each one ``haarcascade_profileface`` and its mirror image
    are asked as well: on a face that is turned, the frontal window lags behind the turn and the profile window runs
    ahead, so the horizontal middle is taken half-way. Where there is no frontal face, those in profile are given.

    The windows are mapped to the bounding box of the 68 landmarks with constants that were measured on 800 photographs
    of YouTube Faces with 68 annotated points (of the part for training; 797 found): medians of the offset of the box's
    centre and of its width and height, in sides of the window. On 400 other photographs of that part 396 faces are found,
    with a median IoU of 0.82, and what remains is, in parts of the box's longer side, median (90th percentile): 0.049
    (0.126) of horizontal and 0.025 (0.064) of vertical offset, 0.050 (0.143) of size.

    Upright faces of about 1/30 of the picture's longer side and more are found. One instance may be used from several
    threads, one at a time gets through. Raises UserError where OpenCV has no cascades (version 5).
    """

    def __init__(self) -> None:
        self._frontal = _cascade("haarcascade_frontalface_default.xml")
        self._profile = _cascade("haarcascade_profileface.xml")
        self._lock = threading.Lock()

    def detect(self, image: np.ndarray) -> list[Rect]:
        """(H, W, 3) uint8 RGB -> (xmin, ymin, xmax, ymax) of each face in pixels (centres at integers), largest first.

        The rectangles estimate the bounding boxes of the landmarks, so they may reach a little out of the picture.
        """
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        shrink = max(1.0, max(grey.shape) / WORKING_SIZE)
        if shrink > 1:
            size = (max(1, round(grey.shape[1] / shrink)), max(1, round(grey.shape[0] / shrink)))
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        grey = cv2.equalizeHist(grey)
        with self._lock:
            rects = self._faces(grey)
        step = np.array([image.shape[1] / grey.shape[1], image.shape[0] / grey.shape[0]] * 2)
        rects = (np.reshape(rects, (-1, 4)) + 0.5) * step - 0.5
        return [
            tuple(map(float, r))
            for r in sorted(rects.tolist(), key=lambda r: ((r[0] - r[2]) * (r[3] - r[1]), r))
        ]

    def _faces(self, grey: np.ndarray) -> list[Rect]:
        """Merged landmark boxes in the picture that is searched: sure frontal faces, else any, else faces in profile."""
        for votes in (SURE, POSSIBLE):
            if found := self._frontal_faces(grey, votes):
                return merge(found)
        return merge(self._profile_faces(grey))

    def _frontal_faces(self, grey: np.ndarray, least: int) -> list[tuple[int, Rect]]:
        found = []
        for x, y, side, votes in _windows(self._frontal, grey, least):
            middle = self._turned(grey, x, y, side)
            found.append((votes, _box(middle, y + DOWN * side, WIDTH * side, HEIGHT * side)))
        return found

    def _profile_faces(self, grey: np.ndarray) -> list[tuple[int, Rect]]:
        found = []
        for mirrored in (False, True):
            for x, y, side, votes in _windows(self._profile, _mirrored(grey, mirrored), SURE):
                x += PROFILE_SIDE * side
                x = grey.shape[1] - 1 - x if mirrored else x
                found.append(
                    (votes, _box(x, y + PROFILE_DOWN * side, PROFILE_SIZE * side, PROFILE_SIZE * side))
                )
        return found

    def _turned(self, grey: np.ndarray, x: float, y: float, side: float) -> float:
        """The horizontal middle of a frontal window at (x, y), half-way to where the profile cascades see the face."""
        reach = 0.75 * side
        x0, y0 = (max(0, round(v - reach)) for v in (x, y))
        window = grey[y0 : round(y + reach) + 1, x0 : round(x + reach) + 1]
        middles = []
        for mirrored in (False, True):
            near = _windows(self._profile, _mirrored(window, mirrored), POSSIBLE, (0.75 * side, 1.45 * side))
            if near:
                u = max(near, key=lambda w: w[3])[0]
                middles.append(x0 + (window.shape[1] - 1 - u if mirrored else u))
        return (x + float(np.mean(middles))) / 2 if middles else x


def merge(found: list[tuple[float, Rect]]) -> list[Rect]:
    """Of (votes, rectangle) pairs that overlap, the one with most votes; overlap = common area / smaller area > 0.4."""
    kept: list[Rect] = []
    for _, rect in sorted(found, key=lambda f: (-f[0], f[1])):
        if all(_common(rect, other) <= 0.4 * min(_area(rect), _area(other)) for other in kept):
            kept.append(rect)
    return kept


def iou(a: Rect, b: Rect) -> float:
    """Intersection over union of two rectangles, 0 to 1."""
    common = _common(a, b)
    union = _area(a) + _area(b) - common
    return common / union if union > 0 else 0.0


def detected_records(records: Sequence[FaceRecord], detector: FaceDetector | None = None) -> Records:
    """The records with ``rect`` replaced by what the detector found, for the evaluation protocol *detector*.

    A picture is decoded and searched once, however many records share it. Each detection goes to one record at most,
    pairs with the highest IoU (with the bounding box of the labelled landmarks) first, from 0.3. Records without one
    get ``undetected=True`` and keep their landmark box, so that the network can run; metrics ignore what it says there.
    """
    detector = detector or FaceDetector()
    records = records if isinstance(records, Records) else Records(records)
    result: list[FaceRecord | None] = [None] * len(records)
    key = lambda i: str(records[i].image or f"\0{i:09d}")  # noqa: E731 - used twice, here only
    for _, group in groupby(sorted(range(len(records)), key=key), key=key):
        members = list(group)
        truth = [_landmark_box(records[i]) for i in members]
        rects = detector.detect(records[members[0]].load())
        chosen = match(truth, rects)
        for place, i in enumerate(members):
            at = chosen.get(place)
            rect = truth[place] if at is None else rects[at]
            result[i] = replace(records[i], crop_rect=rect, undetected=at is None)
    return Records(result, records.format, records.split, records.skipped, records.notes)


def match(truth: list[Rect], rects: list[Rect]) -> dict[int, int]:
    """Place in ``truth`` -> place in ``rects``, one to one, highest IoU first, none below 0.3."""
    pairs = sorted(
        ((iou(t, r), i, j) for i, t in enumerate(truth) for j, r in enumerate(rects)), reverse=True
    )
    chosen: dict[int, int] = {}
    for overlap, i, j in pairs:
        if overlap >= MATCH and i not in chosen and j not in chosen.values():
            chosen[i] = j
    return chosen


def _cascade(file: str) -> cv2.CascadeClassifier:
    if not hasattr(cv2, "CascadeClassifier"):
        raise UserError(
            f"OpenCV {cv2.__version__} has no Haar cascades: install opencv-python-headless>=4.10,<5"
        )
    cascade = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades) / file))
    if cascade.empty():
        raise UserError(f"OpenCV's {file} is missing: install opencv-python-headless>=4.10,<5 again")
    return cascade


def _windows(
    cascade: cv2.CascadeClassifier,
    grey: np.ndarray,
    neighbours: int,
    sides: tuple[float, float] = (SMALLEST, 1e6),
) -> list[tuple[float, float, float, int]]:
    """(middle x, middle y, side, votes) of the windows that the cascade accepts, with sides within ``sides``."""
    low = max(SMALLEST, int(sides[0]))
    if min(grey.shape) < low:
        return []
    high = min(int(sides[1]), max(grey.shape))
    rects, votes = cascade.detectMultiScale2(
        np.ascontiguousarray(grey),
        scaleFactor=1.1,
        minNeighbors=neighbours,
        minSize=(low, low),
        maxSize=(high, high),
    )
    return [
        (float(x + (w - 1) / 2), float(y + (h - 1) / 2), float(w), int(v))
        for (x, y, w, h), v in zip(rects, np.ravel(votes), strict=True)
    ]


def _mirrored(grey: np.ndarray, mirrored: bool) -> np.ndarray:
    return np.ascontiguousarray(grey[:, ::-1]) if mirrored else grey


def _box(x: float, y: float, width: float, height: float) -> Rect:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _landmark_box(record: FaceRecord) -> Rect:
    """Bounding box of the labelled landmarks. Raises UserError naming the record where there are none."""
    points = record.points[record.labelled]
    if not len(points):
        raise UserError(
            f"{record.name}: no landmark is labelled: expected at least two; drop this face or fix its file"
        )
    return (*map(float, points.min(axis=0)), *map(float, points.max(axis=0)))


def _area(rect: Rect) -> float:
    return max(0.0, rect[2] - rect[0]) * max(0.0, rect[3] - rect[1])


def _common(a: Rect, b: Rect) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)
