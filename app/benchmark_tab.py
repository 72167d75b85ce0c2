"""The tab in which the networks of any runs are timed against each other."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr

from srrl.errors import UserError

from .benchmark import FORMS, Measured, draw, measure
from .compare_tab import COMPUTE, NETWORKS, picture_out
from .stops import Stops
from .words import SLOW, in_words

if TYPE_CHECKING:
    from .shelf import Shelf

BATCHES = (1, 4, 16, 64)
SIZES = {"as trained": None, "64": 64, "96": 96, "128": 128, "192": 192, "256": 256}
MOST = 24  # runs at a time: their networks are all in memory


class BenchmarkTab:
    """The tab's components, made where it is called."""

    def __init__(self, shelf: Shelf, busy: Callable[[], str]):
        self.shelf, self.busy = shelf, busy
        self._stops = Stops()
        names, cores = list(shelf.folders()), os.cpu_count() or 1
        gr.Markdown(
            "The networks take turns on the same random pictures. Finding faces, opening files and drawing are not in it. "
            "Leave the machine alone meanwhile."
        )
        self.runs = gr.Dropdown(
            names,
            value=names[:1],
            multiselect=True,
            max_choices=MOST,
            allow_custom_value=True,  # the shelf knows which there are
            label="Runs",
            elem_id="bench-runs",
        )
        every = gr.Button(f"Every run (the newest {MOST})", size="sm", elem_id="bench-every")
        every.click(
            lambda: list(shelf.folders())[:MOST], None, self.runs, queue=False, api_visibility="private"
        )
        with gr.Row(elem_classes="side-by-side"):
            self.networks = gr.CheckboxGroup(
                list(NETWORKS), value=["teacher", "student"], label="Networks", elem_id="bench-networks"
            )
            self.forms = gr.CheckboxGroup(
                [(f"{k}: {v}", k) for k, v in FORMS.items()],
                value=["float32"],
                label="Forms",
                elem_id="bench-forms",
            )
        with gr.Row(elem_classes="side-by-side"):
            self.batch = gr.Radio(list(BATCHES), value=1, label="Pictures at a time", elem_id="bench-batch")
            self.threads = gr.Radio(
                sorted({1, cores}),
                value=1,
                label=f"Threads (this machine has {cores} cores)",
                elem_id="bench-threads",
            )
            self.size = gr.Radio(list(SIZES), value="as trained", label="Pixels a side", elem_id="bench-size")
        with gr.Row():
            go = gr.Button("Measure", variant="primary", elem_id="bench-go")
            stop = gr.Button("Stop", variant="stop", elem_id="bench-stop")
        self.status = gr.Markdown(
            "Choose runs, then press Measure.", elem_id="bench-status", elem_classes="spoken"
        )
        with gr.Column(visible=False) as self.place:
            self.table = gr.Dataframe(
                label="Measured now, on this machine", interactive=False, wrap=True, elem_id="bench-table"
            )
        self.plot = picture_out(
            "Accuracy against time",
            "bench-plot",
            "Accuracy of each network on its test data against its time",
        )
        go.click(self._stops.asked, None, self.status, queue=False, api_visibility="private").then(
            self.timed,
            [self.runs, self.networks, self.forms, self.batch, self.threads, self.size],
            [self.status, self.table, self.plot, self.place],
            api_name="benchmark",
            concurrency_id=COMPUTE,
            show_progress_on=self.status,
        )
        stop.click(self._stops.stop, None, None, queue=False, api_visibility="private")

    def timed(
        self,
        runs: list[str],
        networks: list[str],
        forms: list[str],
        batch: int,
        threads: int,
        size: str,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        """Milliseconds of every chosen network, a table and a plot of accuracy against time."""
        said = 0.0
        with self._stops.work(request) as stopped:
            try:
                if stopped():  # while others had their turn
                    yield "Stopped.", *[gr.skip()] * 3
                    return
                if not 0 < len(runs or []) <= MOST:
                    raise UserError(f"Choose one to {MOST} runs.")
                for found in self.measured(runs, networks, forms, batch, threads, size):
                    if stopped():
                        yield "Stopped.", *[gr.skip()] * 3
                        return
                    if isinstance(found, Measured):
                        yield self.shown(found, forms, batch, threads)
                    elif isinstance(found, str):
                        yield found, *[gr.skip()] * 3
                    elif time.monotonic() - said > 0.5:
                        said = time.monotonic()
                        yield f"Measuring: {found:.0%}", *[gr.skip()] * 3
            except Exception as error:
                yield in_words(error), *[gr.skip()] * 3

    def measured(
        self, runs: list[str], networks: list[str], forms: list[str], batch: int, threads: int, size: str
    ) -> Iterator[str | float | Measured]:
        """What :func:`.benchmark.measure` gives, after a line for each run that is loaded."""
        loaded = {}
        for number, name in enumerate(runs):
            yield f"Loading {name}: {number + 1} of {len(runs)}."
            loaded[name] = self.shelf.load(name)
        yield from measure(loaded, networks, forms, batch_size=batch, threads=threads, size=SIZES[size])

    def shown(self, found: Measured, forms: list[str], batch: int, threads: int) -> tuple[Any, ...]:
        """Words, table, plot, and the place of the table, which is shown from then on."""
        per = "picture" if batch == 1 else f"{batch} pictures"
        header = [
            "run",
            "network",
            "form",
            f"{per}, ms (median)",
            SLOW,
            "pictures a second",
            "figure",
            "which figure, on which data",
        ]
        rows = [
            [t.run, t.network, t.form, round(t.p50, 2), round(t.p95, 2), round(t.pictures, 1),
             None if t.figure is None else round(t.figure, 3), ": ".join(filter(None, (t.metric, t.of)))]
            for t in found.timed
        ]  # fmt: skip
        said = [f"{found.rounds} rounds, {threads} thread{'s' * (threads > 1)}.{self.busy()}"]
        if "bfloat16" in forms:
            said.append(
                "The figure of bfloat16 is that of float32: its own was not measured (hollow in the plot)."
            )
        if any(t.figure is None for t in found.timed):
            said.append("No figure: the run is not finished, or was trained for another size of picture.")
        if found.notes:
            said.append("Left out: " + "; ".join(found.notes) + ".")
        table = {"headers": header, "data": rows}
        return " ".join(said), table, draw(found.timed), gr.Column(visible=True)
