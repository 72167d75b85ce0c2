"""Speed of the networks of any runs, in the forms that they can be shipped in, and its picture against their accuracy."""

from __future__ import annotations

import copy
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from srrl.errors import RunError, UserError
from srrl.speed import BFloat16, percentiles, take_turns

from .comparison import measured_on
from .words import figure_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import nn

    from .shelf import Loaded

FORMS = {
    "float32": "as trained",
    "bfloat16": "half the bits; fast where the processor has instructions for it",
    "ONNX": "ONNX Runtime, float32",
    "packed": "one bit a weight (binary networks)",
}
ROUNDS, FEWEST, WARMUP = 30, 5, 3
PATIENCE = 60.0  # seconds
UNMEASURED = ("bfloat16",)  # forms whose own figure is not known
MARKERS = dict(zip(FORMS, "osD^", strict=True))
# matplotlib opens its fonts anew for each thread and keeps them, and threads of a server come and go
_DRAWING = ThreadPoolExecutor(1, "draw")


class Noise:
    """A data set of a few pictures (3, size, size) uint8 of random pixels, on which two forms of a network are compared."""

    def __init__(self, size: int, count: int = 4):
        pixels = np.random.default_rng(0).integers(0, 256, (count, 3, size, size), dtype=np.uint8)
        self.pictures = torch.from_numpy(pixels)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"image": self.pictures[i]}


@dataclass
class Timed:
    """One network in one form. figure: on ``of``, data as the network was trained for; higher: whether more of it is better."""

    run: str
    network: str
    form: str
    p50: float
    p95: float
    pictures: float
    figure: float | None
    metric: str
    of: str
    higher: bool


@dataclass
class Measured:
    """All that was measured, and why the rest was not."""

    timed: list[Timed]
    notes: list[str]
    rounds: int


def measure(
    runs: dict[str, Loaded],
    networks: list[str],
    forms: list[str],
    *,
    batch_size: int,
    threads: int,
    size: int | None,
) -> Iterator[str | float | Measured]:
    """Every network in every form that it has, in turns: what is being made before each, the share that is done after each
    round, in the end what was found. Whoever asks may stop at any of them.

    size: pixels of the square pictures; None: as each run was trained. Milliseconds are for a batch. There are ``ROUNDS``
    rounds, or at least ``FEWEST`` where those take longer than ``PATIENCE``. Raises UserError where nothing is to be measured.
    """
    notes: list[str] = []
    groups: dict[int, dict[tuple[str, str, str], nn.Module]] = {}
    times: dict[tuple[str, str, str], list[float]] = {}
    rounds = ROUNDS
    with TemporaryDirectory(prefix="srrl-benchmark-") as folder:
        made = yield from _made(runs, networks, forms, threads, size, Path(folder), notes)
        for key, (pixels, model) in made.items():
            groups.setdefault(pixels, {})[key] = model
        if not groups:
            raise UserError(
                "There is nothing to measure: " + ("; ".join(notes) or "choose a run, a network and a form.")
            )
        for number, (pixels, models) in enumerate(groups.items()):
            began, found = time.monotonic(), {}
            turns = take_turns(
                models, pixels, thread_count=threads, rounds=ROUNDS, warmup=WARMUP, batch_size=batch_size
            )
            for done, found in enumerate(turns, 1):  # noqa: B007 - the last one counts
                yield (number + done / (ROUNDS + WARMUP)) / len(groups)
                if done >= FEWEST + WARMUP and time.monotonic() - began > PATIENCE / len(groups):
                    break
            rounds = min(rounds, done - WARMUP)
            times |= found
    order = {run: i for i, run in enumerate(runs)}
    keys = sorted(times, key=lambda k: (order[k[0]], networks.index(k[1]), list(FORMS).index(k[2])))
    yield Measured([_timed(runs, k, times[k], batch_size, size) for k in keys], notes, rounds)


def _timed(
    runs: dict[str, Loaded], key: tuple[str, str, str], times: list[float], batch_size: int, size: int | None
) -> Timed:
    """What the times of one network come to; its figure only where it was timed at the size that it was trained for."""
    run, network, form = key
    loaded, found = runs[run], percentiles(times)
    task, figure = loaded.task, loaded.results.get(network, {}).get(loaded.task.metric)
    if size not in (None, task.image_size(loaded.cfg)):
        figure = None
    of = ", ".join(str(v) for v in measured_on(loaded)[1:] if v)
    pictures = 1000 * batch_size / found["p50"]
    metric = figure_of(task)
    return Timed(run, network, form, found["p50"], found["p95"], pictures, figure, metric, of, task.higher)


def _made(
    runs: dict[str, Loaded],
    networks: list[str],
    forms: list[str],
    threads: int,
    size: int | None,
    folder: Path,
    notes: list[str],
) -> Generator[str, None, dict[tuple[str, str, str], tuple[int, nn.Module]]]:
    """(run, network, form) → the pixels a side of its pictures, and the network; says how far it is before each."""
    made: dict[tuple[str, str, str], tuple[int, nn.Module]] = {}
    missing: dict[str, list[str]] = {}  # by reason
    for name, run in runs.items():
        for network in networks:
            if network not in run.models:
                missing.setdefault(f"no {network}", []).append(name)
    there = [(run, n) for run in runs for n in networks if n in runs[run].models]
    wanted = [(*owner, form) for owner in there for form in forms]
    for number, (name, network, form) in enumerate(wanted):
        yield f"Making {name} {network} ready as {form}: {number + 1} of {len(wanted)}."
        run = runs[name]
        pixels = run.task.image_size(run.cfg) if size is None else size
        try:
            model = _form(run, network, form, threads, folder / f"{number}.onnx", pixels)
        except UserError as error:
            missing.setdefault(str(error), []).append(f"{name} {network}")
        else:
            made[name, network, form] = pixels, model
    notes += [f"{reason}: {', '.join(names)}" for reason, names in missing.items()]
    return made


def _form(run: Loaded, network: str, form: str, threads: int, path: Path, size: int) -> nn.Module:
    """One network in one form. Raises UserError where it has none."""
    model = run.models[network]
    if form == "float32":
        return model
    if form == "bfloat16":
        return BFloat16(model)
    if form == "packed":
        packed = run.task.faster_forms(model).get("packed")
        if packed is None:
            raise UserError("no packed form (binary networks have one)")
        return packed
    from srrl.onnx_export import check_onnx, write_onnx
    from srrl.onnx_network import OnnxNetwork, check_packages

    check_packages()
    if size != run.task.image_size(run.cfg):
        raise UserError(f"an ONNX file takes pictures of {run.task.image_size(run.cfg)} pixels only")
    try:
        # a copy is traced, while others may predict with the model
        graph = write_onnx(run.task, copy.deepcopy(model), run.cfg, path)
        check_onnx(graph, path, Noise(size))  # so that float32's figure is its own
    except RunError as error:
        raise UserError(f"no ONNX file ({error})") from None
    return OnnxNetwork(path, threads)


def draw(timed: list[Timed]) -> np.ndarray | None:
    """Accuracy against time, an axis for each figure and data that the runs are measured by; None where none has a figure.

    A line joins the networks that no other beats in both. (H, W, 3) uint8 RGB.
    """
    return _DRAWING.submit(_drawn, timed).result()


def _drawn(timed: list[Timed]) -> np.ndarray | None:
    from srrl.report import pyplot

    known = [t for t in timed if t.figure is not None]
    if not known:
        return None
    plt = pyplot()
    kinds = list(dict.fromkeys((t.metric, t.of) for t in known))
    figure, axes = plt.subplots(
        1, len(kinds), figsize=(5.2 * len(kinds) + 2.6, 4.0), layout="constrained", squeeze=False
    )
    owners = dict.fromkeys(f"{t.run} {t.network}" for t in known)
    strong_first = [*plt.cm.tab20.colors[::2], *plt.cm.tab20b.colors[::4], *plt.cm.tab20.colors[1::2]]
    colours = {owner: strong_first[i % len(strong_first)] for i, owner in enumerate(owners)}
    for axis, kind in zip(axes[0], kinds, strict=True):
        _scatter(axis, [t for t in known if (t.metric, t.of) == kind], colours)
    handles = [plt.Line2D([], [], marker="o", linestyle="", color=c, label=o) for o, c in colours.items()]
    for form in FORMS:
        if any(t.form == form for t in known):
            filled = "none" if form in UNMEASURED else "0.4"
            handles.append(
                plt.Line2D(
                    [],
                    [],
                    marker=MARKERS[form],
                    linestyle="",
                    color="0.4",
                    markerfacecolor=filled,
                    label=form,
                )
            )
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=8)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    plt.close(figure)
    return pixels


def _scatter(axis: Axes, timed: list[Timed], colours: dict[str, Any]) -> None:
    """One axis: a mark for each network and form, and the line of the best."""
    for t in timed:
        colour = colours[f"{t.run} {t.network}"]
        filled = "none" if t.form in UNMEASURED else colour
        axis.scatter(
            t.p50, t.figure, s=60, marker=MARKERS[t.form], facecolors=filled, edgecolors=[colour], zorder=3
        )
    best = frontier([t for t in timed if t.form not in UNMEASURED])
    axis.plot([t.p50 for t in best], [t.figure for t in best], color="0.6", linewidth=1, zorder=1)
    better = "higher" if timed[0].higher else "lower"
    axis.set(xlabel="milliseconds (median): lower is better", ylabel=f"{timed[0].metric}: {better} is better")
    axis.set_title(timed[0].of, fontsize=9, color="0.4")
    _logarithmic(axis, "x", [t.p50 for t in timed])
    if not timed[0].higher and all(t.figure > 0 for t in timed):  # errors fall by factors
        _logarithmic(axis, "y", [t.figure for t in timed])
    axis.grid(alpha=0.25)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _logarithmic(axis: Axes, which: str, values: list[float]) -> None:
    """A logarithmic axis with round numbers on it."""
    from srrl.report import log_ticks

    low, high = min(values) / 1.25, max(values) * 1.25
    along = getattr(axis, f"{which}axis")
    axis.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    along.set_ticks(log_ticks(low, high))
    along.set_minor_formatter("")
    along.set_major_formatter("{x:g}")


def frontier(timed: list[Timed]) -> list[Timed]:
    """Those that no other is at least as fast and as good as (and better in one), by time."""
    sign = 1 if timed and timed[0].higher else -1
    best: list[Timed] = []
    for t in sorted(timed, key=lambda t: (t.p50, -sign * t.figure)):
        if not best or sign * t.figure > sign * best[-1].figure:
            best.append(t)
    return best
