"""The tab with what a run left: curves, pictures, report and settings, also while it is still training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from srrl.errors import UserError
from srrl.lock import is_held
from srrl.shipped import comes_with_us

from .shelf import modified

if TYPE_CHECKING:
    from .shelf import Shelf

REFRESH = 5.0  # seconds
COMES = "These networks come with the program: the report says what they were trained on and what they are good for."
GOING = {  # by whether a training holds the run
    True: "This run is training: the page looks again by itself.",
    False: "This run was stopped before its end: python -m srrl.train --resume goes on with it, or the tab Train.",
    None: "This run is still training, or was stopped: the page looks again by itself.",
}


def described(name: str, path: Path) -> dict[str, Any]:
    """A run for the API: name, task, method, networks with their figures, and whether it is finished."""
    from srrl.runs import RunFolder, read_mapping

    run = RunFolder(path)
    try:
        config = run.settings()
        results = read_mapping(run.results) if run.results.is_file() else {}
    except UserError as error:  # one damaged run does not hide the others
        return {"run": name, "error": str(error)}
    figures = {
        m: {k: v for k, v in results.get(m, {}).items() if isinstance(v, int | float)} for m in run.models()
    }
    return {
        "run": name,
        "task": config.get("task"),
        "method": config.get("method"),
        "seed": config.get("seed"),
        "finished": bool(results),
        "networks": figures,
    }


def build(shelf: Shelf, run: gr.Dropdown, tab: gr.Tab) -> None:
    """The components of ``tab``; they follow the run that is chosen and look again every few seconds."""
    state = gr.Markdown(elem_id="run-state", elem_classes="spoken")
    curves = gr.Image(
        label="Training: loss and validation figure by epoch",
        show_label=False,
        interactive=False,
        buttons=["download", "fullscreen"],
        elem_id="curves",
        alt_text="Training curves of the run",
    )
    pictures = gr.Gallery(
        label="Pictures of the report", columns=1, height="auto", object_fit="contain", elem_id="plots"
    )
    with gr.Accordion("Report", open=True):
        text = gr.Markdown(elem_id="report")
    with gr.Accordion("Settings", open=False):
        settings = gr.Code(language="yaml", label="config.yaml", interactive=False, elem_id="settings")

    def look(name: str | None, seen: float) -> list[Any]:
        try:
            folders = shelf.folders()
            if name not in folders:
                raise UserError("No run is chosen.")
        except UserError as error:
            return [str(error), None, [], "", "", seen]
        path = folders[name]
        if not (path / "config.yaml").is_file():
            return ["This run is gone.", None, [], "", "", None]
        held = is_held(path)
        changed = held, max(modified(p) for p in (path, *path.glob("*"), *path.glob("plots/*")))
        if seen and (name, changed) == tuple(seen):
            return [gr.skip()] * 6
        written = path / "report.md"
        report, captions = split_report(
            written.read_text("utf-8") if written.is_file() else "*No report yet.*"
        )
        plots = {p.name: read(p) for p in sorted((path / "plots").glob("*.png"))}
        first = plots.pop("curves.png", None)
        others = [(image, captions.get(name, name)) for name, image in plots.items() if image is not None]
        finished = (path / "results.json").is_file()
        said = "This run is finished." if finished else GOING[held]
        return [
            COMES if comes_with_us(path) else said,
            gr.Image(first, visible=first is not None),
            gr.Gallery(others, visible=bool(others)),
            report,
            (path / "config.yaml").read_text(encoding="utf-8"),
            (name, changed),
        ]

    seen = gr.State(None)
    outputs = [state, curves, pictures, text, settings, seen]
    timer = gr.Timer(REFRESH)
    gr.on(
        [run.change, tab.select, timer.tick],
        look,
        [run, seen],
        outputs,
        api_visibility="private",
        show_progress="hidden",
    )


def read(path: Path) -> np.ndarray | None:
    """A plot of ours as an RGB array; None where it is not there yet."""
    import cv2

    image = cv2.imread(str(path)) if path.is_file() else None
    return None if image is None else np.ascontiguousarray(image[..., ::-1])


def split_report(markdown: str) -> tuple[str, dict[str, str]]:
    """A report's text without its pictures, and the caption of each by file name: the pictures are shown beside it."""
    captions = {name: caption for caption, name in re.findall(r"!\[([^\]]*)\]\(plots/([^)]*)\)", markdown)}
    for caption in captions.values():
        markdown = re.sub(
            r"!\[" + re.escape(caption) + r"\]\([^)]*\)\n+" + re.escape(caption) + r"\n*", "", markdown
        )
    return re.sub(
        r"(\w+@[\d.]+)", r"`\1`", markdown
    ), captions  # else fr@0.10 becomes the link of a mail address
