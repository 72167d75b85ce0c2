"""The tab in which a picture goes through teacher and student."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from srrl.errors import UserError
from srrl.report import COLOURS

from .comparison import OTHER, Compared, compare, costs, finds_faces, measured_on
from .pictures import open_picture
from .words import USUAL, in_words

if TYPE_CHECKING:
    from .shelf import Loaded, Shelf

COMPUTE = "compute"  # one computation at a time, or each would make the others' timings worthless
THREADS = 1  # of the timings: what a small device or one of many requests has
EXAMPLES = Path(__file__).with_name("examples")
PICTURES = {
    "face.jpg": "a face",
    "glasses.jpg": "glasses",
    "group.jpg": "three faces",
    "seven.png": "a digit",
}
BOXES = {"find the faces": "detector", "the whole picture is one face": "whole"}
NETWORKS = ("teacher", "student", "baseline")
SHOWN = (*NETWORKS, OTHER)
NOBODY = "no second run"
TITLES = {
    "teacher": "Teacher (large)",
    "student": "Student (small)",
    "baseline": "Baseline (the same small network, trained without a teacher)",
    OTHER: "Student of the second run",
}


class CompareTab:
    """The tab's components, made where it is called, and what its button does."""

    def __init__(self, shelf: Shelf, run: gr.Dropdown, busy: Callable[[], str]):
        self.shelf, self.busy = shelf, busy
        self.shown = gr.State(None)  # the runs whose answers the page shows
        with gr.Row(elem_classes="side-by-side"):
            self.ask(run)
        with gr.Row(elem_classes="side-by-side"):
            self.answer()
        with gr.Row(elem_classes="side-by-side", visible=False) as self.faces:
            self.differ()
        self.table = gr.Dataframe(label="Where they differ", interactive=False, elem_id="table")
        with gr.Accordion("What each network costs", open=True):
            self.cost()
        answers = [self.status, *self.images.values(), *self.labels.values(), self.third, self.fourth]
        self.outputs = [*answers, self.faces, self.slider, self.difference, self.table, self.shown]
        self.go.click(
            self.show,
            [self.picture, run, self.box, self.with_third, self.other],
            self.outputs,
            api_name="compare",
            concurrency_id=COMPUTE,
            concurrency_limit=1,
            show_progress_on=self.status,
        ).then(
            self.measure,
            self.shown,
            [self.costs, self.bars, self.note],
            api_visibility="private",
            concurrency_id=COMPUTE,
            show_progress="hidden",
        )
        # only runs that look for faces ask where they are
        run.change(
            lambda name: gr.Radio(visible=looks(shelf, name)),
            run,
            self.box,
            api_visibility="private",
            show_progress="hidden",
        )

    def ask(self, run: gr.Dropdown) -> None:
        """What a person gives."""
        self.picture = gr.Image(
            label="Your picture",
            sources=["upload", "clipboard", "webcam"],
            type="filepath",
            height=300,
            elem_id="picture",
            alt_text="The picture that you chose",
        )
        with gr.Column():
            gr.Examples(
                [str(EXAMPLES / name) for name in PICTURES],
                self.picture,
                label="Or try one of these, painted by this program",
                example_labels=list(PICTURES.values()),
                elem_id="examples",
                api_visibility="private",
            )
            self.box = gr.Radio(
                list(BOXES),
                value=next(iter(BOXES)),
                label="Where is the face?",
                visible=looks(self.shelf, run.value),
                elem_id="box",
            )
            self.with_third = gr.Checkbox(False, label="Also show the baseline", elem_id="third")
            self.other = gr.Dropdown(
                [NOBODY, *self.shelf.folders()],
                value=NOBODY,
                label="Also show the student of a second run",
                allow_custom_value=True,  # runs come while the page is open: the shelf knows which there are
                elem_id="other",
            )
            self.go = gr.Button("Compare", variant="primary", elem_id="go")
            self.status = gr.Markdown(
                "Choose a picture, then press Compare.", elem_id="status", elem_classes="spoken"
            )

    def answer(self) -> None:
        """A column for each network, those of the baseline and of a second run on demand."""
        self.images, self.labels, columns = {}, {}, {}
        for name in SHOWN:
            key = name.partition(" ")[0]
            with gr.Column(visible=name in ("teacher", "student"), min_width=240) as columns[name]:
                self.images[name] = picture_out(
                    TITLES[name], f"image-{key}", f"What the {name} says about the picture"
                )
                self.labels[name] = gr.Label(
                    label=f"{name.capitalize()}: the likeliest classes",
                    num_top_classes=5,
                    visible=False,
                    elem_id=f"label-{key}",
                )
        self.third, self.fourth = columns["baseline"], columns[OTHER]

    def differ(self) -> None:
        """Landmarks of both, laid over each other."""
        self.slider = gr.ImageSlider(
            label="Teacher left, student right: drag the line",
            format="jpeg",
            interactive=False,
            elem_id="slider",
        )
        self.difference = picture_out(
            "From the teacher's points (white dots) to the student's",
            "difference",
            "Lines from each point of the teacher to the same point of the student",
        )

    def cost(self) -> None:
        """A table and bars of what is measured."""
        self.costs = gr.Dataframe(label="Measured now, on this machine", interactive=False, elem_id="cost")
        self.bars = gr.BarPlot(
            x="network",
            y=USUAL,
            y_title="ms",
            x_title=" ",
            y_lim=[0, None],
            sort=list(SHOWN),
            color="network",
            color_map=COLOURS | {OTHER: "#7a4f9a"},
            label="Time for one picture",
            height=200,
            elem_id="bars",
        )
        self.note = gr.Markdown(elem_id="cost-note", elem_classes="spoken")

    def second(self, name: str | None) -> Loaded | None:
        """The run of that name, None where none is asked for. Raises UserError."""
        return self.shelf.load(name) if name and name != NOBODY else None

    def show(
        self, picture: str | None, run: str | None, where: str, baseline: bool, other: str | None = None
    ) -> list[Any]:
        """A picture through every network of a run; what is wrong is said in the status, and the rest stays as it was."""
        try:
            loaded = self.shelf.load(run)
            found = compare(
                loaded,
                open_picture(picture),
                BOXES.get(where, "detector"),
                self.second(other),
                baseline=baseline,
            )
        except Exception as error:
            return [in_words(error), *[gr.skip()] * (len(self.outputs) - 2), None]
        there = baseline and "baseline" in found.drawn
        said = f"**{run}**: {found.summary}" + (
            " This run has no baseline." if baseline and not there else ""
        )
        return [
            said,
            *(found.drawn.get(n) for n in SHOWN),
            *(gr.Label(found.bars.get(n), visible=bool(found.bars)) for n in SHOWN),
            gr.Column(visible=there),
            gr.Column(visible=OTHER in found.drawn),
            *_differences(found),
            (run, other),
        ]

    def measure(self, shown: tuple[str, str | None] | None) -> list[Any]:
        """What each network of the runs on the page costs on this machine, measured now."""
        import pandas

        if shown is None:  # why was said already
            return [gr.skip()] * 3
        try:
            run, other = self.shelf.load(shown[0]), self.second(shown[1])
            header, rows = costs(run, THREADS, other)
        except Exception as error:
            return [gr.skip(), gr.skip(), in_words(error)]
        frame = pandas.DataFrame(rows, columns=header)
        better = "higher" if run.task.higher else "lower"
        note = (
            f"{shown[0]}: the networks took turns, {THREADS} thread, {os.cpu_count()} cores, without finding faces and drawing. "
            f"The {header[1].replace(', ', ' in ')} ({better} is better) is that on the run's test data"
            + (
                ""
                if other is None or measured_on(run) == measured_on(other)
                else ", which the second run's is not"
            )
            + f".{self.busy()}"
        )
        return [frame, frame, note]


def looks(shelf: Shelf, name: str | None) -> bool:
    """Whether the run of this name looks for faces before it predicts."""
    try:
        return finds_faces(shelf.load(name))
    except UserError:  # the button will say so
        return False


def _differences(found: Compared) -> list[Any]:
    """For the row of faces, the slider, the picture of differences and the table."""
    there = found.difference is not None
    return [
        gr.Row(visible=there),
        (found.drawn["teacher"], found.drawn["student"]) if there else None,
        found.difference,
        gr.Dataframe({"headers": found.header, "data": found.rows}, visible=bool(found.rows)),
    ]


def picture_out(label: str, name: str, text: str) -> gr.Image:
    """A place for a picture of ours; ``text`` is what it says to those who cannot see it."""
    return gr.Image(
        label=label,
        format="jpeg",
        interactive=False,
        buttons=["download", "fullscreen"],
        elem_id=name,
        alt_text=text,
    )
