"""The tab for a camera and for videos: teacher and student on frames that follow each other."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Container, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from srrl.errors import UserError

from .compare_tab import BOXES, COMPUTE, TITLES, looks, picture_out
from .files import refuse_addresses
from .images import as_url
from .live import Camera, annotate
from .pictures import open_picture
from .stops import Stops
from .words import in_words

if TYPE_CHECKING:
    from .shelf import Shelf

STREAM_EVERY = 0.05  # seconds between two frames that the browser sends, at least
LONGEST = 300  # seconds after which a camera stops by itself
BOTH = ("teacher", "student")
CAMERAS = 2  # at the same time: each takes a core
AWAY = 5.0  # seconds without a frame after which a camera is off, and its place free
OFF = "The camera is off."
STREAMS = 40  # that may be open: gradio keeps those of closed pages until LONGEST
FORGOTTEN = 600  # seconds after which what a camera's page left behind is dropped


class LiveTab:
    """The tab's components, made where it is called."""

    def __init__(self, shelf: Shelf, run: gr.Dropdown):
        self.shelf = shelf
        self._stops = Stops()  # of videos
        self._cameras: dict[str, float] = {}  # when each browser tab's last frame came
        self._lock = threading.Lock()
        self.columns: dict[str, gr.Column] = {}
        with gr.Row(elem_classes="side-by-side", visible=looks(shelf, run.value)) as options:
            self.smooth = gr.Checkbox(False, label="Steady the points (one-euro filter)", elem_id="smooth")
            self.box = gr.Radio(
                list(BOXES), value=next(iter(BOXES)), label="Where is the face?", elem_id="live-box"
            )
        run.change(
            lambda name: gr.Row(visible=looks(shelf, name)),
            run,
            options,
            api_visibility="private",
            show_progress="hidden",
        )
        with gr.Tab("Camera", elem_id="tab-camera"):
            self.camera(run)
        with gr.Tab("Video file", elem_id="tab-video"):
            self.video(run)

    def camera(self, run: gr.Dropdown) -> None:
        """What the camera sees, and what the networks see in it."""
        gr.Markdown(
            "Press the camera, then record. The student sees every frame, the teacher the newest one when it is ready; half of the time "
            "it rests, so as not to slow the student. "
            f"Frames stay on this machine; after {LONGEST // 60} minutes the camera stops by itself."
        )
        with gr.Row(elem_classes="side-by-side"):
            camera = gr.Image(
                label="Camera",
                sources=["webcam"],
                streaming=True,
                height=300,
                elem_id="camera",
                alt_text="What the camera sees",
            )
            self.rates = gr.Markdown(OFF, elem_id="rates")
        with gr.Row(elem_classes="side-by-side"):
            teacher, student = (self.sees(n, run.value) for n in BOTH)
        columns = [self.columns[n] for n in BOTH]
        run.change(
            lambda name: shown(networks(self.shelf, name)),
            run,
            columns,
            api_visibility="private",
            show_progress="hidden",
        )
        kept = gr.State(None, time_to_live=FORGOTTEN)
        watch = gr.Timer(AWAY, active=False)  # a page says that its camera begins, not that it stops
        watch.tick(
            self.still,
            None,
            [self.rates, watch, kept],
            show_progress="hidden",
            api_visibility="private",
        )
        camera.stream(
            self.frame,
            [camera, run, self.smooth, self.box, kept],
            [student, teacher, self.rates, kept, watch, *columns],
            stream_every=STREAM_EVERY,
            time_limit=LONGEST,
            concurrency_limit=STREAMS,
            show_progress="hidden",
            api_visibility="private",
        )

    def sees(self, name: str, run: str | None) -> gr.Image:
        """What one network sees, shown only where the run has that network."""
        with gr.Column(visible=name in networks(self.shelf, run), min_width=240) as self.columns[name]:
            return picture_out(TITLES[name], f"live-{name}", f"What the {name} sees in the camera's picture")

    def busy(self) -> bool:
        """Whether a camera is on."""
        with self._lock:
            return any(time.monotonic() - last < AWAY for last in self._cameras.values())

    def admitted(self, tab: str) -> bool:
        """Whether this browser tab's camera may go on, or begin."""
        with self._lock:
            now = time.monotonic()
            self._cameras = {k: last for k, last in self._cameras.items() if now - last < AWAY}
            if tab not in self._cameras and len(self._cameras) >= CAMERAS:
                return False
            self._cameras[tab] = now
            return True

    def still(self, request: gr.Request) -> tuple[Any, Any, Any]:
        """That a camera is off, once no frame of it has come for a while."""
        with self._lock:
            if time.monotonic() - self._cameras.get(request.session_hash, -AWAY) < AWAY:
                return gr.skip(), gr.skip(), gr.skip()
        return OFF, gr.Timer(active=False), None

    def frame(
        self, picture: str | None, run: str | None, smooth: bool, where: str, kept: Any, request: gr.Request
    ) -> tuple[Any, ...]:
        """One frame of the camera. ``kept``: what the frame before it left, by run and settings; None before the first."""
        same = [gr.skip()] * len(BOTH)
        if not self.admitted(request.session_hash):
            full = f"{CAMERAS} cameras are in use already: try again in a moment."
            return gr.skip(), gr.skip(), full, kept, gr.skip(), *same
        begun = gr.Timer(active=True) if kept is None else gr.skip()
        try:
            pixels = open_picture(picture)
            loaded = self.shelf.load(run)
            asked = (str(loaded.path), id(loaded), smooth, where)
            anew = kept is None or kept[0] != asked
            if anew:
                kept = asked, Camera(loaded, smooth=smooth, box=BOXES.get(where))
            student, teacher = kept[1].frame(pixels)
        except Exception as error:
            return gr.skip(), gr.skip(), in_words(error), None, begun, *same
        if teacher is not None:
            newest = as_url(teacher)
        else:  # what stands there is this camera's last, or another run's, which is not to look like it
            newest = None if anew else gr.skip()
        columns = shown(loaded.predictors) if anew else same
        return as_url(student), newest, kept[1].said(), kept, begun, *columns

    def video(self, run: gr.Dropdown) -> None:
        """A video file in, an annotated one out."""
        with gr.Row(elem_classes="side-by-side"):
            given = gr.Video(label="Your video (its first minute)", sources=["upload"], elem_id="video")
            shown = gr.Video(
                label="What the networks see", interactive=False, elem_id="annotated", autoplay=True
            )
        with gr.Row():
            go = gr.Button("Annotate", variant="primary", elem_id="annotate")
            stop = gr.Button("Stop, and show what is done", variant="stop", elem_id="annotate-stop")
        status = gr.Markdown("Choose a video, then press Annotate.", elem_id="video-status")
        go.click(self._stops.asked, None, status, queue=False, api_visibility="private").then(
            self.annotated,
            [given, run, self.smooth, self.box],
            [shown, status],
            concurrency_id=COMPUTE,
            show_progress_on=status,
            api_visibility="private",
        )
        stop.click(self._stops.stop, None, None, queue=False, api_visibility="private")

    def annotated(
        self, video: str | None, run: str | None, smooth: bool, where: str, request: gr.Request
    ) -> Iterator[tuple[Any, str]]:
        """How far the video is, and in the end the annotated one."""
        if not video:
            yield gr.skip(), "No video yet: choose one."
            return
        try:
            refuse_addresses(video)
            with (
                self._stops.work(request) as stopped,
                tempfile.TemporaryDirectory(prefix="srrl-video-") as folder,
            ):
                if stopped():  # while others had their turn
                    yield gr.skip(), "Stopped before it began."
                    return
                loaded = self.shelf.load(run)
                yield None, "Opening the video."
                for done in annotate(
                    loaded,
                    Path(video),
                    Path(folder),
                    smooth=smooth,
                    box=BOXES.get(where),
                    stopped=stopped,
                ):
                    if done.file is not None or done.frames % 5 == 1:
                        yield (str(done.file) if done.file else gr.skip()), done.said
        except Exception as error:
            yield gr.skip(), _plain(error)


def networks(shelf: Shelf, run: str | None) -> Container[str]:
    """Which networks the run has; both where it cannot be read, which the first frame says."""
    try:
        return shelf.load(run).predictors
    except UserError:
        return BOTH


def shown(names: Container[str]) -> list[gr.Column]:
    """The columns of these networks, and those of the others hidden."""
    return [gr.Column(visible=name in names) for name in BOTH]


def _plain(error: Exception) -> str:
    """The message, without the path that the server keeps an upload at."""
    if "does not decode" in str(error):
        return "This video cannot be decoded here: use MP4 (H.264) or WebM."
    return in_words(error)
