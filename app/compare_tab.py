"""The tab in which a picture goes through teacher and student."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from srrl.errors import UserError
from srrl.report import COLOURS

from .comparison import COSTS, FIGURE, OTHER, Compared, compare, costs, finds_faces, further, measured_on
from .pictures import opened
from .words import USUAL, in_words

if TYPE_CHECKING:
    from .shelf import Loaded, Shelf

COMPUTE = "compute"  # one computation at a time, or each would make the others' timings worthless
DRAWN = 0.3  # seconds in which the browser fetches and draws the pictures: timings beside it would slow it, and be slow
THREADS = 1  # of the timings: what a small device or one of many requests has
EXAMPLES = Path(__file__).with_name("examples")
PICTURES = {
    "face.jpg": "a face",
    "glasses.jpg": "glasses",
    "group.jpg": "three faces",
    "seven.png": "a digit",
}
BOXES = {"find the faces": "detector", "the whole picture is one face": "whole"}
GIVEN = "in a rectangle that I give"
NETWORKS = ("teacher", "student", "baseline")
SHOWN = (*NETWORKS, OTHER)
USUALLY = ("teacher", "student")
NOBODY = "no second run"
TITLES = {
    "teacher": "Teacher (large)",
    "student": "Student (small)",
    "baseline": "Baseline (no teacher)",
    OTHER: "Student of the second run",
}

COLOUR_OF = COLOURS | {OTHER: "#7a4f9a", "student, packed": "#3f8f86", "baseline, packed": "#a08a3c"}


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
        with gr.Column(visible=False) as self.place:
            self.table = gr.Dataframe(
                label="Where they differ from the teacher", interactive=False, elem_id="table"
            )
        with gr.Accordion("What each network costs", open=True, visible=False) as self.costing:
            self.cost()
        answers = [self.status, *self.images.values(), *self.labels.values(), *self.columns.values()]
        self.outputs = [
            *answers,
            self.faces,
            self.slider,
            self.difference,
            self.table,
            self.place,
            self.shown,
        ]
        self.go.click(
            self.show,
            [self.picture, run, self.box, self.with_third, self.other, self.rectangle],
            self.outputs,
            api_name="compare",
            concurrency_id=COMPUTE,
            concurrency_limit=1,
            show_progress_on=self.status,
        ).then(
            self.measure,
            self.shown,
            [self.costing, self.costs, *self.bars.values(), self.note],
            api_visibility="private",
            concurrency_id=COMPUTE,
            show_progress="hidden",
        )
        quiet = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
        # only runs that look for faces ask where they are
        gr.on(
            [run.change, self.box.change],
            lambda name, where: (
                gr.Radio(visible=looks(shelf, name)),
                gr.Textbox(visible=looks(shelf, name) and where == GIVEN),
            ),
            [run, self.box],
            [self.box, self.rectangle],
            **quiet,
        )
        self.picture.change(lambda: "", None, self.rectangle, **quiet)  # it was of the picture before
        self.picture.select(self.corner, [self.box, self.rectangle], self.rectangle, **quiet)

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
                [*BOXES, GIVEN],
                value=next(iter(BOXES)),
                label="Where is the face?",
                visible=looks(self.shelf, run.value),
                elem_id="box",
            )
            self.rectangle = gr.Textbox(
                "",
                label="From the brows to the chin, in pixels: left, top, right, bottom",
                info="Or click on two opposite corners of it in your picture.",
                placeholder="120, 80, 310, 290",
                max_lines=1,
                max_length=80,
                visible=False,
                elem_id="rectangle",
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
        self.images, self.labels, self.columns = {}, {}, {}
        for name in SHOWN:
            key = name.partition(" ")[0]
            with gr.Column(visible=name in USUALLY, min_width=240) as self.columns[name]:
                self.images[name] = picture_out(
                    TITLES[name], f"image-{key}", f"What the {name} says about the picture"
                )
                self.labels[name] = gr.Label(
                    label="The likeliest classes",
                    num_top_classes=5,
                    visible=False,
                    elem_id=f"label-{key}",
                )

    def differ(self) -> None:
        """Landmarks of both, laid over each other."""
        with gr.Column(min_width=240):
            gr.Markdown("**Teacher left, student right: drag the line**")
            self.slider = gr.ImageSlider(
                label="Teacher left, student right",
                show_label=False,
                format="jpeg",
                interactive=False,
                elem_id="slider",
            )
        self.difference = picture_out(
            "From the teacher's points (white dots) towards the student's, five times as far",
            "difference",
            "Lines from each point of the teacher towards the same point of the student, five times as long as the way there",
        )

    def cost(self) -> None:
        """A table of what is measured, a column for each network, and the same as bars."""
        self.note = gr.Markdown(elem_id="cost-note", elem_classes="spoken")
        self.costs = gr.Dataframe(
            label="Measured now, on this machine", interactive=False, wrap=True, elem_id="cost"
        )
        with gr.Row(elem_id="bars"):
            self.bars = {
                measure: gr.BarPlot(
                    x="network",
                    y="value",
                    x_title=" ",
                    y_title=" ",
                    y_lim=[0, None],
                    # given once and for all: sent with new values they would have the page draw the old ones again
                    sort=[name + form for name in SHOWN for form in ("", ", packed")],
                    color_map=COLOUR_OF,
                    color="network",
                    color_title=" ",
                    label=measure,
                    height=200,
                    x_label_angle=-35,  # names are long, and a phone is narrow
                    min_width=260,
                )
                for measure in (FIGURE, *COSTS)
            }

    def second(self, name: str | None) -> Loaded | None:
        """The run of that name, None where none is asked for. Raises UserError."""
        return self.shelf.load(name) if name and name != NOBODY else None

    @staticmethod
    def corner(where: str, text: str | None, clicked: gr.SelectData) -> Any:
        """The rectangle's text after a click on the picture: one corner, or with the one before it the whole."""
        if where != GIVEN:
            return gr.skip()
        x, y = (round(v) for v in clicked.index)
        before = numbers(text)
        if len(before) != 2:
            return f"{x}, {y}"
        across, down = sorted((before[0], x)), sorted((before[1], y))
        return ", ".join(f"{v:g}" for v in (across[0], down[0], across[1], down[1]))

    def show(
        self,
        picture: str | None,
        run: str | None,
        where: str,
        baseline: bool,
        other: str | None = None,
        rectangle: str = "",
    ) -> list[Any]:
        """A picture through every network of a run; where something is wrong the status says so, and there are no answers."""
        try:
            loaded = self.shelf.load(run)
            pixels, scale = opened(picture)
            box = scaled(rectangle, scale) if where == GIVEN else BOXES.get(where, "detector")
            found = compare(loaded, pixels, box, self.second(other), baseline=baseline)
        except Exception as error:
            return self.answered(in_words(error), Compared({}), None)
        said = f"**{run}**: {found.summary}"
        if baseline and "baseline" not in found.drawn:
            said += " This run has no baseline."
        return self.answered(said, found, (run, other))

    def answered(self, said: str, found: Compared, shown: tuple[str | None, str | None] | None) -> list[Any]:
        """All outputs: what is said, and what was found, with columns for the networks that are there."""
        never = not found.drawn  # the places of the usual two are kept
        return [
            said,
            *(found.drawn.get(n) for n in SHOWN),
            *(gr.Label(found.bars.get(n), visible=bool(found.bars)) for n in SHOWN),
            *(gr.Column(visible=n in found.drawn or (never and n in USUALLY)) for n in SHOWN),
            *_differences(found),
            shown,
        ]

    def measure(self, shown: tuple[str, str | None] | None) -> list[Any]:
        """What each network of the runs on the page costs on this machine, measured now."""
        import pandas

        if shown is None:  # why was said already
            return [gr.Accordion(visible=False), *[gr.skip()] * (2 + len(self.bars))]
        time.sleep(DRAWN)
        try:
            run, other = self.shelf.load(shown[0]), self.second(shown[1])
            header, rows = costs(run, THREADS, other)
        except Exception as error:
            return [*[gr.skip()] * (2 + len(self.bars)), in_words(error)]
        names = [row[0] for row in rows]
        measures = [[measure, *(row[i] for row in rows)] for i, measure in enumerate(header[1:], 1)]
        measures[1:1] = further(run, names, other)  # beside the figure that the bars show
        table = [[words, *("–" if v is None else v for v in values)] for words, *values in measures]
        bars = []
        for i, measure in enumerate(header[1:], 1):
            frame = pandas.DataFrame({"network": names, "value": [row[i] for row in rows]}).dropna()
            bars.append(gr.BarPlot(frame, label=measure, visible=len(frame) > 0))
        better = "higher" if run.task.higher else "lower"
        note = (
            f"{verdict(header, rows)}{shown[0]}: the networks took turns, {THREADS} thread, {os.cpu_count()} cores, without finding faces and drawing. "
            f"“{header[1]}” ({better} is better) was measured on the run's test data"
            + (
                ""
                if other is None or measured_on(run) == measured_on(other)
                else ", which the second run's is not"
            )
            + f".{self.busy()}"
        )
        return [
            gr.Accordion(visible=True),
            {"headers": ["", *names], "data": table},
            *bars,
            note,
        ]


def verdict(header: list[str], rows: list[list[Any]]) -> str:
    """One sentence on what the student gives up and what it saves; empty without a teacher and a student."""
    found = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    if not {"teacher", "student"} <= set(found):
        return ""
    packed = "student, packed" in found
    teacher, student = found["teacher"], found["student, packed" if packed else "student"]
    fewer, faster = (teacher[k] / student[k] for k in ("parameters, millions", USUAL))
    said = (
        f"**The student has {fewer:.1f} times fewer parameters and takes {1 / faster:.0%} of the teacher's time"
        + ", packed" * packed
    )
    if None not in (teacher[header[1]], student[header[1]]):
        said += f"; {header[1]}: {student[header[1]]:.2f}, teacher {teacher[header[1]]:.2f}"
    return said + ".**  \n"


def numbers(text: str | None) -> list[float]:
    """The numbers in what a person typed."""
    return [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", text or "")]


def scaled(rectangle: str, scale: float) -> tuple[float, ...]:
    """A rectangle's left, top, right and bottom in the pixels of a picture that was scaled. UserError where it is none."""
    found = numbers(rectangle)
    if len(found) != 4:
        raise UserError(
            "Give the rectangle as four numbers (left, top, right, bottom), or click on two opposite corners of it in your picture."
        )
    return tuple((v + 0.5) * scale - 0.5 for v in found)


def looks(shelf: Shelf, name: str | None) -> bool:
    """Whether the run of this name looks for faces before it predicts."""
    try:
        return finds_faces(shelf.load(name))
    except UserError:  # the button will say so
        return False


def _differences(found: Compared) -> list[Any]:
    """For the row of faces, the slider, the picture of differences, the table and its place."""
    there = found.difference is not None
    return [
        gr.Row(visible=there),
        (found.drawn["teacher"], found.drawn["student"]) if there else None,
        found.difference,
        {"headers": found.header, "data": found.rows},
        gr.Column(visible=bool(found.rows)),
    ]


def picture_out(label: str, name: str, text: str) -> gr.Image:
    """A place for a picture of ours, its label above it; ``text`` is what it says to those who cannot see it."""
    with gr.Column(min_width=240):
        gr.Markdown(f"**{label}**")
        return gr.Image(
            label=label,
            show_label=False,
            format="jpeg",
            interactive=False,
            buttons=["download", "fullscreen"],
            elem_id=name,
            alt_text=text,
        )
