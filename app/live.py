"""Frames that follow each other, through teacher and student: a camera's as they come, a video's one after the other."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from srrl.errors import UserError
from srrl.media import VideoFile, read_video, video_length, video_size
from srrl.speed import threads

from .pictures import shrunk
from .words import in_words

if TYPE_CHECKING:
    from .shelf import Loaded

THREADS = (
    1  # of each network: teacher and student run beside each other, and small networks gain little from more
)
IDLE = 5.0  # seconds without a frame after which the teacher's thread ends
WIDTH = 640  # pixels of each half of an annotated video
LONGEST = 60.0  # seconds of a video that are looked at
PAUSE = 2.0  # seconds without a frame that no rate is taken over
MOST_FRAMES = 1800  # of a video
MOST_PIXELS = 16_000_000  # of one of its frames
FEWEST = 32  # pixels of its sides
PACKET = 188  # bytes of an MPEG-TS
RATES = (1.0, 120.0)  # frames a second of what is written: encoders refuse others
MOVED = ", jitter not measured, as no face held still for the last second"  # of a video
CLOCK = 20  # frames that a rate is taken over


class Watcher:
    """One network on frames that follow each other: what it sees drawn, how long it takes, how much its points tremble."""

    def __init__(self, predictor: Any, *, smooth: bool, box: str | None, beside: Watcher | None = None):
        self.predictor, self.follower = predictor, None
        if hasattr(predictor, "follow"):
            other = beside.follower if beside is not None else None
            self.follower = predictor.follow(smooth=smooth, box=box, beside=other)
        self.took: deque[float] = deque(maxlen=CLOCK)  # seconds of the last frames, with finding and drawing
        self.ended: deque[float] = deque(maxlen=CLOCK)

    def __call__(self, pixels: np.ndarray, seconds: float) -> np.ndarray:
        """The frame (H, W, 3) uint8 RGB with what was found."""
        began = time.perf_counter()
        with threads(THREADS):
            found = self.follower(pixels, seconds) if self.follower is not None else self.predictor(pixels)
        drawn = self.predictor.draw(pixels, found)
        if self.ended and began - self.ended[-1] > PAUSE:
            self.ended.clear()
        self.ended.append(time.perf_counter())
        self.took.append(self.ended[-1] - began)
        return drawn

    @property
    def rate(self) -> float:
        """Frames a second, over the last ones."""
        span = self.ended[-1] - self.ended[0] if len(self.ended) > 1 else 0.0
        return (len(self.ended) - 1) / span if span > 0 else 0.0

    @property
    def milliseconds(self) -> float:
        """That a frame takes, the median of the last ones."""
        return 1000 * float(np.median(self.took)) if self.took else 0.0

    def jitter(self, moves: str) -> str:
        """In words: a figure while the face holds still, otherwise ``moves``; empty where no face is followed."""
        if not getattr(self.follower, "tracks", None):
            return ""
        value = self.follower.jitter
        return f", jitter {value:.2f} % of {self.predictor.size_name}" if value is not None else moves


def watchers(loaded: Loaded, names: tuple[str, ...], *, smooth: bool, box: str | None) -> dict[str, Watcher]:
    """Those networks of a run that it has; they share the looks for faces."""
    found: dict[str, Watcher] = {}
    for name in names:
        if name in loaded.predictors:
            first = next(iter(found.values()), None)
            found[name] = Watcher(loaded.predictors[name], smooth=smooth, box=box, beside=first)
    return found


class Camera:
    """A camera's frames: the student sees each one, the teacher, in a thread of its own, the latest when it is ready.

    So the student's pace is not the teacher's, which rests after each frame as long as it took. The thread ends by itself
    when no more frames come.
    """

    def __init__(self, loaded: Loaded, *, smooth: bool, box: str | None):
        found = watchers(loaded, ("student", "teacher"), smooth=smooth, box=box)
        if "student" not in found:
            raise UserError("This run has no student yet: choose another run.")
        self.student, self.teacher = found["student"], found.get("teacher")
        self._condition = threading.Condition()
        self._waiting: tuple[np.ndarray, float] | None = None
        self._drawn: np.ndarray | None = None
        self._thread: threading.Thread | None = None
        self._failed = ""

    def frame(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """The student's picture of this frame, and the teacher's newest one, None where that was given already."""
        now = time.monotonic()
        if self.teacher is not None:
            with self._condition:
                self._waiting = pixels, now
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(target=self._teach, daemon=True)
                    self._thread.start()
                self._condition.notify()
        seen = self.student(pixels, now)
        with self._condition:
            drawn, self._drawn = self._drawn, None
        return seen, drawn

    def said(self) -> str:
        """How fast both are."""
        lines = [self._line("Student", self.student)]
        if self.teacher is not None:
            lines.append(self._failed or self._line("Teacher", self.teacher))
        return "  \n".join(lines)

    @staticmethod
    def _line(name: str, watcher: Watcher) -> str:
        jitter = watcher.jitter(", jitter: hold still to measure")
        return f"**{name}**: {watcher.rate:.1f} frames a second, {watcher.milliseconds:.0f} ms each{jitter}"

    def _teach(self) -> None:
        while True:
            with self._condition:
                if not self._condition.wait_for(lambda: self._waiting is not None, IDLE):
                    return
                (pixels, when), self._waiting = self._waiting, None
            try:
                drawn, self._failed = self.teacher(pixels, when), ""
            except Exception as error:  # a thread's own end would go unseen
                self._failed = f"**Teacher**: {in_words(error)}"
                continue
            with self._condition:
                self._drawn = drawn
            time.sleep(self.teacher.took[-1])  # it is to share its core with the server and the browser


@dataclass
class Progress:
    """How far a video is; ``file`` once it is done."""

    frames: int
    total: int
    said: str
    file: Path | None = None


def annotate(
    loaded: Loaded,
    source: Path,
    folder: Path,
    *,
    smooth: bool,
    box: str | None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """A video with what teacher (left) and student (right) see, frame by frame; the last one carries the file.

    ``folder``: where that is written. Ends early once ``stopped``. Raises UserError for a file that is no video.
    """
    watching = watchers(loaded, ("teacher", "student"), smooth=smooth, box=box)
    if not watching:
        raise UserError("This run has neither a teacher nor a student yet: choose another run.")
    if not _is_video(source):
        raise UserError("This file is not a video that can be opened here: use MP4 (H.264) or WebM.")
    width, height = video_size(source)
    if width * height > MOST_PIXELS:  # before a frame of that size is made
        raise UserError(f"This video has {width} × {height} pixels: make it smaller.")
    if min(width, height) < FEWEST:
        raise UserError(
            f"This video has {width} × {height} pixels, fewer than can show a face: choose another."
        )
    whole, rate = video_length(source)
    most = min(MOST_FRAMES, max(1, int(LONGEST * rate)))
    total = min(whole, most) if whole else most
    path = folder / "annotated.webm"
    out, count, ended = None, 0, False
    try:
        for pixels, _ in read_video(source):
            if count == most:
                break
            if ended := stopped():
                break
            pixels = shrunk(pixels, WIDTH)
            both = np.hstack([w(pixels, count / rate) for w in watching.values()])
            both = both[: both.shape[0] // 2 * 2, : both.shape[1] // 2 * 2]  # the encoder takes even sizes
            out = out or VideoFile(path, both.shape, float(np.clip(rate, *RATES)))
            out.add(both)
            count += 1
            yield Progress(count, total, f"{count} of {total} frames")
    finally:
        if out is not None:
            out.close()
    if out is None:
        yield Progress(0, total, "Stopped before the first frame.")
        return
    times = "  \n".join(
        f"**{n.capitalize()}** ({side}): {w.milliseconds:.0f} ms a frame, all included{w.jitter(MOVED)}"
        for (n, w), side in zip(watching.items(), ("left", "right"), strict=False)
    )
    cut = f" Only the first {count / rate:.0f} seconds were looked at." if count == most < whole else ""
    done = f"{count} frames done.{cut}"
    if ended:
        seen = f"{count} of {total} frames" if whole else "1 frame" if count == 1 else f"{count} frames"
        done = f"Stopped after {seen}."
    yield Progress(count, count, f"{done}  \n{times}", path)


def _is_video(source: Path) -> bool:
    """Whether the file begins as one of the usual containers: a list of other files, which FFmpeg would follow, does not."""
    with open(source, "rb") as handle:
        head = handle.read(PACKET + 1)
    return (
        head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # MP4, MOV
        or head.startswith((b"\x1aE\xdf\xa3", b"OggS", b"FLV", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3"))
        or (head.startswith(b"RIFF") and head[8:12] == b"AVI ")
        or head[::PACKET] == b"GG"  # MPEG-TS: each of its packets begins so
    )
