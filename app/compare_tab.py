"""The tab in which a picture goes through teacher and student."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import gradio as gr

from srrl.errors import UserError
from srrl.report import COLOURS

from .comparison import Compared, compare, costs, finds_faces
from .pictures import open_picture

if TYPE_CHECKING:
    from .shelf import Loaded, Shelf

COMPUTE = "compute"  # one computation at a time, or each would make the others' timings worthless
BOXES = {"find the faces": "detector", "the whole picture is one face": "whole"}
NETWORKS = ("teacher", "student", "baseline")
TITLES = {
    "teacher": "Teacher (large)",
    "student": "Student (small, taught by the teacher)",
    "baseline": "Baseline (the same small network, trained without a teacher)",
}


def build(shelf: Shelf, run: gr.Dropdown) -> None:
    """The tab's components and what they do."""
    first = _looks(shelf, run.value)
    with gr.Row(elem_classes="side-by-side"):
        picture = gr.Image(
            label="Your picture",
            sources=["upload", "clipboard", "webcam"],
            type="filepath",
            height=300,
            elem_id="picture",
            alt_text="The picture that you chose",
        )
        # the file as it came: it is opened by our own rules, which have words for what is wrong with it
        picture.preprocess = lambda payload: payload.path if payload is not None else None
        with gr.Column():
            box = gr.Radio(
                list(BOXES), value=next(iter(BOXES)), label="Where is the face?", visible=first, elem_id="box"
            )
            third = gr.Checkbox(False, label="Also show the baseline", elem_id="third")
            go = gr.Button("Compare", variant="primary", elem_id="go")
            status = gr.Markdown("Choose a picture, then press Compare.", elem_id="status")
    images, labels = {}, {}
    with gr.Row(elem_classes="side-by-side"):
        for name in NETWORKS:
            with gr.Column(visible=name != "baseline") as column:
                images[name] = gr.Image(
                    label=TITLES[name],
                    format="jpeg",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    elem_id=f"image-{name}",
                    alt_text=f"What the {name} says about the picture",
                )
                labels[name] = gr.Label(
                    label=f"{name.capitalize()}: the likeliest classes",
                    num_top_classes=5,
                    visible=False,
                    elem_id=f"label-{name}",
                )
            if name == "baseline":
                baseline = column
    with gr.Row(elem_classes="side-by-side", visible=False) as faces:
        slider = gr.ImageSlider(
            label="Teacher left, student right: drag the line",
            format="jpeg",
            interactive=False,
            elem_id="slider",
        )
        difference = gr.Image(
            label="From the teacher's points (white dots) to the student's",
            format="jpeg",
            interactive=False,
            buttons=["download", "fullscreen"],
            elem_id="difference",
            alt_text="Lines from each point of the teacher to the same point of the student",
        )
    table = gr.Dataframe(label="Where they differ", interactive=False, elem_id="table")
    with gr.Accordion("What each network costs", open=True):
        cost = gr.Dataframe(label="Measured now, on this machine", interactive=False, elem_id="cost")
        bars = gr.BarPlot(
            x="network",
            y="one picture, ms (median)",
            y_lim=[0, None],
            sort=list(NETWORKS),
            color="network",
            color_map=COLOURS,
            label="Time for one picture",
            height=200,
            elem_id="bars",
        )
        note = gr.Markdown(elem_id="cost-note")

    def show(path: str | None, name: str | None, where: str, with_third: bool) -> list[Any]:
        try:
            loaded = shelf.load(name)
            found = compare(loaded, open_picture(path), BOXES.get(where, "detector"))
        except UserError as error:
            return [str(error), *[gr.skip()] * (len(outputs) - 1)]
        return shown(loaded, found, with_third)

    def shown(loaded: Loaded, found: Compared, with_third: bool) -> list[Any]:
        there = with_third and "baseline" in found.drawn
        said = found.summary
        if with_third and not there:
            said += " This run has no baseline."
        both = (
            (found.drawn["teacher"], found.drawn["student"])
            if {"teacher", "student"} <= found.drawn.keys()
            else None
        )
        return [
            said,
            *(found.drawn.get(n) for n in NETWORKS),
            *(gr.Label(found.bars.get(n), visible=bool(found.bars)) for n in NETWORKS),
            gr.Column(visible=there),
            gr.Row(visible=found.difference is not None),
            both if found.difference is not None else None,
            found.difference,
            gr.Dataframe({"headers": found.header, "data": found.rows}, visible=bool(found.rows)),
        ]

    def measured(name: str | None) -> list[Any]:
        import pandas

        threads = 1
        try:
            loaded = shelf.load(name)
        except UserError:  # said already
            return [gr.skip()] * 3
        header, rows = costs(loaded, threads)
        frame = pandas.DataFrame(rows, columns=header)
        text = (
            f"The networks took turns, {threads} thread, {os.cpu_count()} cores, without finding faces and drawing. The figure "
            f"({header[1].replace(', ', ' in ')}) is that of the run's test data."
        )
        return [frame, frame, text]

    outputs = [status, *images.values(), *labels.values(), baseline, faces, slider, difference, table]
    done = go.click(
        show,
        [picture, run, box, third],
        outputs,
        api_name="compare",
        concurrency_id=COMPUTE,
        concurrency_limit=1,
        show_progress_on=status,
    )
    done.then(
        measured,
        run,
        [cost, bars, note],
        api_name="benchmark",
        concurrency_id=COMPUTE,
        show_progress="hidden",
    )

    # only runs that look for faces ask where they are
    run.change(
        lambda name: gr.Radio(visible=_looks(shelf, name)),
        run,
        box,
        api_visibility="private",
        show_progress="hidden",
    )


def _looks(shelf: Shelf, name: str | None) -> bool:
    try:
        return finds_faces(shelf.load(name))
    except UserError:
        return False
