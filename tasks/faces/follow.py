"""Faces through the frames of a camera or video: found now and then, followed in between, steadied where asked."""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from .crop import Crop
from .detect import Rect, iou, match

if TYPE_CHECKING:
    from .landmarker import Face, Landmarker

SEARCH_EVERY = (
    0.5  # seconds between two looks for faces while there is one; without any, every frame is searched
)
DRIFTED = 0.5  # IoU of a face's points with where it is found, below which it is begun again from there
LATE = 0.21  # seconds since the frame before, beyond which a face may have left its crop: every such frame is searched
NEAR = 0.8  # that IoU in a late frame
LOST = 3  # looks in a row that do not find a face before it is given up
FRESH = 0.15  # seconds around a look within which another network, with tracks already, takes it over
GAP = 2.0  # seconds without a frame after which all begins anew
GROWN = 2.0  # times that a face may grow or shrink between two frames; beyond, it is lost
RECENT = 100  # frames that the jitter is taken over
STEADY, HELD = (
    0.05,
    1.0,
)  # a face rests while its middle stays this near (distances between the eyes), so many seconds
# One-euro filter: cutoff of a still point in hertz, and how much it opens per (distance between the eyes) a second
STILL, OPENING, DERIVATIVE = 1.0, 3.0, 1.0


class OneEuro:
    """The one-euro filter (Casiez, Roussel, Vogel, CHI 2012): a low-pass whose cutoff rises with the speed.

    still: cutoff in hertz at rest; opening: hertz per ``unit`` a second of speed; derivative: cutoff in hertz of the
    speed itself. Values of any shape, each element with a speed of its own.
    """

    def __init__(self, still: float = STILL, opening: float = OPENING, derivative: float = DERIVATIVE):
        self.still, self.opening, self.derivative = still, opening, derivative
        self.value: np.ndarray | None = None
        self.speed: np.ndarray | float = 0.0
        self.time = -math.inf

    def __call__(self, value: np.ndarray, time: float, unit: float = 1.0) -> np.ndarray:
        """The filtered value at ``time`` (seconds); a time that does not go forward gives the last one again."""
        if self.value is None:
            self.value, self.time = np.asarray(value, dtype=np.float64), time
            return self.value
        step = time - self.time
        if step <= 0:
            return self.value
        smooth = _share(self.derivative, step)
        self.speed = smooth * (value - self.value) / step + (1 - smooth) * self.speed
        share = _share(self.still + self.opening * np.abs(self.speed) / unit, step)
        self.value, self.time = share * value + (1 - share) * self.value, time
        return self.value


def _share(cutoff: np.ndarray | float, step: float) -> np.ndarray | float:
    """Weight of the newest value in an exponential filter: 1 / (1 + τ / Δt), τ = 1 / (2 π f)."""
    return 1 / (1 + 1 / (2 * math.pi * cutoff * step))


class Finder:
    """Where the faces are, found once for several networks that follow the same frames."""

    def __init__(self, landmarker: Landmarker):
        self.landmarker = landmarker  # whose detector is made when it is first needed
        self._lock = threading.Lock()
        self._found: list[Rect] = []
        self._when = -math.inf

    def __call__(self, pixels: np.ndarray, seconds: float, fresh: float = 0.0) -> tuple[list[Rect], float]:
        """The faces of the frame at this time, or of one at most ``fresh`` seconds away that another network looked at; and when."""
        with self._lock:
            if abs(seconds - self._when) > fresh:
                self._found, self._when = self.landmarker.detector.detect(pixels), seconds
            return self._found, self._when


@dataclass
class Track:
    """One face: its latest points, what steadies them, and for the jitter the recent points and where and since when it rests."""

    face: Face
    filter: OneEuro | None
    missed: int = 0
    recent: list[np.ndarray] = field(default_factory=list)
    place: np.ndarray | None = None
    since: float = math.inf

    def begin(self, face: Face, filter: OneEuro | None) -> None:
        """From here on anew."""
        self.face, self.filter, self.recent, self.place = face, filter, [], None


class Follower:
    """A landmarker for frames that follow each other: ``faces = follower(pixels, seconds)``.

    The faces are looked for every ``SEARCH_EVERY`` seconds, and in each frame that comes late; between, each one's crop
    lies around its last points, which costs one pass of the network a face. ``smooth`` steadies the points by
    :class:`OneEuro`, whose unit is the distance between the eyes, so that near and far faces are treated alike.
    ``box="whole"``: the frame is one face. ``beside``: a follower of another network on the same frames, with which the
    looks for faces are shared.
    """

    def __init__(
        self,
        landmarker: Landmarker,
        *,
        smooth: bool = False,
        box: str | None = None,
        beside: Follower | None = None,
    ):
        self.landmarker, self.smooth, self.box = landmarker, smooth, box
        self.finder = Finder(landmarker) if beside is None else beside.finder
        self.tracks: list[Track] = []
        self.searched = -math.inf
        self._bent: deque[float] = deque(maxlen=RECENT)  # squares of second differences, of the last ones
        self._last = -math.inf

    def __call__(self, pixels: np.ndarray, seconds: float) -> list[Face]:
        """The faces of the next frame (H, W, 3) uint8 RGB at this time, in a steady order."""
        if seconds - self._last > GAP:  # whatever was there may be elsewhere, or gone
            self.tracks, self.searched = [], -math.inf
        late, self._last = seconds - self._last > LATE, seconds
        if self.box == "whole":
            found = self.landmarker.predict(pixels, self.landmarker.look(pixels, "whole"))
            self.tracks = self.tracks or [self._track(face) for face in found]
            for track, face in zip(self.tracks, found, strict=True):
                track.face = face
            self.tracks = [t for t in self.tracks if self.landmarker.size(t.face) > 0]
        else:
            if late or not self.tracks or seconds - self.searched >= SEARCH_EVERY:
                self._search(pixels, seconds, late)
            self._follow(pixels)
        return [self._shown(track, seconds) for track in self.tracks]

    @property
    def jitter(self) -> float | None:
        """How much the points tremble, in percent of the distance between the eyes; None unless every face has held still.

        A face holds still while the middle of its points stays within ``STEADY`` distances between the eyes of one place,
        from ``HELD`` seconds on.

        The root mean square, over coordinates and the last ``RECENT`` frames, of the second differences of the shown
        points, divided by √6: for points that rest or move evenly under independent noise, the standard deviation of that
        noise. Other movement would count as well, the more the fewer frames a second there are.
        """
        bent = list(self._bent)  # the frames may go on in another thread
        still = all(self._last - t.since >= HELD for t in self.tracks)
        return 100 * math.sqrt(float(np.mean(bent)) / 6) if bent and still else None

    def _track(self, face: Face) -> Track:
        return Track(face, self._filter())

    def _filter(self) -> OneEuro | None:
        return OneEuro() if self.smooth else None

    def _search(self, pixels: np.ndarray, seconds: float, late: bool) -> None:
        """Looks for faces: new ones are taken up, drifted ones begun again, those missed for too long given up.

        In a ``late`` frame a face is where it is found, however near it was: a crop that holds part of a face misleads the
        network, whose points then stay in that crop.
        """
        rects, self.searched = self.finder(pixels, seconds, FRESH if self.tracks and not late else 0.0)
        look = self.landmarker.around(rects)
        boxes = [_box(t.face.points) for t in self.tracks]
        paired = match(boxes, look.rects)
        if late:
            paired |= _nearest(boxes, look.rects, paired)
        for place, track in enumerate(self.tracks):
            track.missed = 0 if place in paired else track.missed + 1
        enough = NEAR if late else DRIFTED
        good = {i for place, i in paired.items() if iou(boxes[place], look.rects[i]) >= enough}
        again = {i: self.tracks[place] for place, i in paired.items() if i not in good}
        self.tracks = [t for t in self.tracks if t.missed < LOST]
        asked = [i for i in range(len(look.rects)) if i not in good]
        found = self.landmarker.predict(pixels, replace(look, rects=[look.rects[i] for i in asked]))
        for i, face in zip(asked, found, strict=True):
            if self.landmarker.size(face) == 0:
                continue
            if i not in again:
                self.tracks.append(self._track(face))
            elif late and iou(_box(again[i].face.points), _box(face.points)) >= DRIFTED:
                again[i].face = face  # it only moved
            else:  # a jump, which neither the filter nor the jitter is to see
                again[i].begin(face, self._filter())

    def _follow(self, pixels: np.ndarray) -> None:
        """Every face again, in the crop around where it was; two that have become one are one, and none collapses."""
        maker = self.landmarker
        boxes = [_box(t.face.points) for t in self.tracks]
        crops = [
            Crop.around_points(t.face.points, maker.cfg.image_size, maker.cfg.data.scale) for t in self.tracks
        ]
        kept: list[Track] = []
        for track, face in zip(self.tracks, maker.predict_crops(pixels, boxes, crops), strict=True):
            grown = maker.size(face) / maker.size(track.face)
            track.face = face
            if 1 / GROWN < grown < GROWN and not match(
                [_box(face.points)], [_box(t.face.points) for t in kept]
            ):
                kept.append(track)
        self.tracks = kept

    def _shown(self, track: Track, seconds: float) -> Face:
        points, size = track.face.points, self.landmarker.size(track.face)
        if track.filter is not None:
            points = track.filter(points, seconds, size)
        middle = points.mean(axis=0)
        if track.place is None or np.linalg.norm(middle - track.place) > STEADY * size:
            track.place, track.since, track.recent = middle, seconds, []
            self._bent.clear()
        track.recent = [*track.recent[-2:], points]
        if len(track.recent) == 3:
            first, second, third = track.recent
            self._bent.append(float(np.square((third - 2 * second + first) / size).mean()))
        return replace(track.face, points=points)


def _box(points: np.ndarray) -> Rect:
    return (*map(float, points.min(axis=0)), *map(float, points.max(axis=0)))


def _nearest(boxes: list[Rect], rects: list[Rect], paired: dict[int, int]) -> dict[int, int]:
    """Of the boxes and rectangles that are not ``paired``: place -> place, the least distance between middles first."""
    free = [i for i in range(len(rects)) if i not in paired.values()]
    left = [place for place in range(len(boxes)) if place not in paired]
    chosen: dict[int, int] = {}
    for _, place, i in sorted((_apart(boxes[place], rects[i]), place, i) for place in left for i in free):
        if place not in chosen and i not in chosen.values():
            chosen[place] = i
    return chosen


def _apart(a: Rect, b: Rect) -> float:
    """Twice the distance between the middles."""
    return math.hypot(a[0] + a[2] - b[0] - b[2], a[1] + a[3] - b[1] - b[3])
