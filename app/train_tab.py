"""The tab in which a training is started, watched and stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from .runs_tab import read
from .words import in_words

if TYPE_CHECKING:
    from .job import Job, State

EVERY = 2.0  # seconds between two looks
SHOWN = 12  # lines of its output
TASKS = {
    "Face landmarks, on faces that the program paints itself": "faces",
    "Handwritten digits": "classification",
    "Handwritten digits by a network of ones and minus ones": "binary",
    "A new domain without labels: digits on textures": "cross_domain",
}
LENGTHS = {
    "Quick: a few minutes, shows that everything works": True,
    "Full: the default training, up to a quarter of an hour for faces (their teacher comes with the program)": False,
}


class TrainTab:
    """The tab's components, made where it is called; it asks the job how it stands every few seconds."""

    def __init__(self, job: Job):
        self.job = job
        gr.Markdown(
            "Train a student that learns from a teacher, and the same small network without one, on data that "
            "comes with the program; the teacher is trained first where none comes with it. Your own data: `python -m srrl.train --help`."
        )
        with gr.Row(elem_classes="side-by-side"):
            self.task = gr.Dropdown(list(TASKS), value=next(iter(TASKS)), label="What", elem_id="job-task")
            self.length = gr.Radio(
                list(LENGTHS), value=next(iter(LENGTHS)), label="How long", elem_id="job-length"
            )
        with gr.Row():
            self.start = gr.Button("Start training", variant="primary", elem_id="job-start")
            self.stop = gr.Button("Stop", variant="stop", interactive=False, elem_id="job-stop")
            self.resume = gr.Button("Continue", interactive=False, elem_id="job-resume")
        self.status = gr.Markdown("Nothing is being trained.", elem_id="job-state")
        self.spoken = gr.Markdown("", elem_id="job-spoken", elem_classes=["spoken", "unseen"])
        self.curves = gr.Image(
            label="Loss and validation figure by epoch",
            show_label=False,
            interactive=False,
            visible=False,
            buttons=["download", "fullscreen"],
            elem_id="job-curves",
            alt_text="Training curves of the run that is being trained",
        )
        self.log = gr.Textbox(
            label="What it prints", lines=SHOWN, max_lines=SHOWN, interactive=False, elem_id="job-log"
        )
        self.outputs = [
            self.status,
            self.spoken,
            self.start,
            self.stop,
            self.resume,
            self.curves,
            self.log,
        ]
        self.seen = gr.State(None)
        timer = gr.Timer(EVERY)
        quiet = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
        timer.tick(self.look, self.seen, [*self.outputs, self.seen], **quiet)
        self.start.click(self.begin, [self.task, self.length], self.outputs, **quiet)
        self.stop.click(self.end, None, self.outputs, **quiet)
        self.resume.click(self.go_on, None, self.outputs, **quiet)

    def begin(self, task: str, length: str) -> list[Any]:
        """Starts a training, or says why not."""
        return self.said(lambda: self.job.start(TASKS[task], LENGTHS[length]))

    def end(self) -> list[Any]:
        """Stops it."""
        return self.said(self.job.stop)

    def go_on(self) -> list[Any]:
        """Goes on with the one that was stopped."""
        return self.said(self.job.resume)

    def said(self, action: Any) -> list[Any]:
        """How it stands after ``action``, or what was wrong with that."""
        try:
            action()
        except Exception as error:
            return [in_words(error), in_words(error), *[gr.skip()] * (len(self.outputs) - 2)]
        return self.shown(self.job.state())

    def look(self, seen: tuple | None) -> list[Any]:
        """How it stands; nothing where that is what the page shows already."""
        state = self.job.state()
        drawn = state.path and state.path / "plots/curves.png"
        now = (
            state.said(),
            state.after,
            state.lines[-SHOWN:],
            drawn.stat().st_mtime if drawn and drawn.is_file() else 0.0,
        )
        if seen == now:
            return [gr.skip()] * (len(self.outputs) + 1)
        shown = self.shown(state)
        if (
            seen is not None and seen[-1] == now[-1]
        ):  # the picture, the largest part of an answer, is as it was
            shown[self.outputs.index(self.curves)] = gr.skip()
        return [*shown, now]

    def shown(self, state: State) -> list[Any]:
        """Values of the outputs."""
        curves = read(state.path / "plots/curves.png") if state.path else None
        return [
            state.said(),
            state.spoken(),
            gr.Button(interactive=not state.going),
            gr.Button(interactive=state.going and not state.stopping),
            gr.Button(interactive=not state.going and state.after is not None),
            gr.Image(curves, visible=curves is not None),
            "\n".join(state.lines[-SHOWN:]),
        ]
