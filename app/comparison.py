"""One picture through every network of a run: what each says, where they differ, and what each costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from srrl.errors import UserError

from .words import FURTHER, SLOW, USUAL, figure_of

if TYPE_CHECKING:
    from torch import nn

    from .shelf import Loaded

Rect = tuple[float, float, float, float]
OTHER = "other student"  # the name under which the student of a second run is shown
FIGURE = "accuracy"  # stands for what a run is measured by
COSTS = (
    USUAL,
    SLOW,
    "pictures a second",
    "parameters, millions",
    "multiply-adds, millions",
    "file, MB",
)
LIKELIEST = 5  # classes that are shown of each network
ROUNDS = 25  # of the latency's measurement


@dataclass
class Compared:
    """What the page shows of one picture. ``drawn`` and ``bars`` are by network."""

    drawn: dict[str, np.ndarray]
    bars: dict[str, dict[str, float]] = field(default_factory=dict)
    difference: np.ndarray | None = None
    rows: list[list[Any]] = field(default_factory=list)
    header: list[str] = field(default_factory=list)
    summary: str = ""


def networks(
    run: Loaded, other: Loaded | None = None, *, baseline: bool = True
) -> dict[str, tuple[Loaded, str]]:
    """What is compared, by the name it is shown under: the run's networks, the baseline where asked, and the student of a second run.

    Raises UserError for a second run without a student, or one that does something else.
    """
    found = {name: (run, name) for name in run.predictors if baseline or name != "baseline"}
    if other is not None:
        if "student" not in other.predictors:
            raise UserError("The second run has no student yet: choose another one.")
        if finds_faces(other) != finds_faces(run):
            raise UserError("The second run is for another kind of task: choose one of the same kind.")
        found[OTHER] = other, "student"
    return found


def compare_faces(
    run: Loaded, pixels: np.ndarray, box: str | Rect | None, other: Loaded | None, baseline: bool
) -> Compared:
    """Landmarks: the faces are found once, so that all networks look at the same ones."""
    predictors = {name: r.predictors[n] for name, (r, n) in networks(run, other, baseline=baseline).items()}
    look = next(iter(run.predictors.values())).look(pixels, box)
    looks = dict.fromkeys(predictors, look)
    if other is not None:  # whose crops may be of another size
        looks[OTHER] = predictors[OTHER].look(pixels, box)
    found = {name: p.predict(pixels, looks[name]) for name, p in predictors.items()}
    compared = Compared({name: predictors[name].draw(pixels, found[name]) for name in found})
    count = len(look.rects)
    if not count:
        compared.summary = "No face was found. If the picture shows one face from close up, choose “the whole picture is one face”."
        return compared
    compared.summary = f"{count} face{'s' * (count > 1)} found."
    if "teacher" not in found:
        return compared
    compared.header = ["network", "face", "mean distance, %", "largest distance, %", "at point (from 1)"]
    points = {name: faces[0].points.shape for name, faces in found.items()}
    for name in found:
        if name == "teacher" or points[name] != points["teacher"]:
            continue
        picture, rows = predictors[name].difference(pixels, found[name], found["teacher"])
        compared.rows += [
            [name, r["face"] + 1, round(r["mean_percent"], 2), round(r["largest_percent"], 2), r["point"] + 1]
            for r in rows
        ]
        if name == "student":
            compared.difference = picture
            mean = float(np.mean([r["mean_percent"] for r in rows]))
            compared.summary += (
                f" The student's points are {mean:.1f} % of {predictors[name].size_name} away from the teacher's, "
                "on average."
            )
    return compared


def compare_classes(run: Loaded, pixels: np.ndarray, other: Loaded | None, baseline: bool) -> Compared:
    """Classes: the five likeliest of each network, and what every other network gives them, side by side."""
    found = {
        name: r.predictors[n](pixels, top=None)
        for name, (r, n) in networks(run, other, baseline=baseline).items()
    }
    compared = Compared({name: pixels for name in found})
    all_classes = {name: {g.name: g.probability for g in guesses} for name, guesses in found.items()}
    compared.bars = {name: dict(islice(classes.items(), LIKELIEST)) for name, classes in all_classes.items()}
    compared.header = ["class", *(f"{name}, %" for name in found)]
    compared.rows = [
        [c, *(round(100 * classes[c], 1) if c in classes else "–" for classes in all_classes.values())]
        for c in dict.fromkeys(chain.from_iterable(compared.bars.values()))
    ]
    if "teacher" in found and "student" in found:
        teacher, student = found["teacher"][0], found["student"][0]
        same = "agree" if teacher.name == student.name else "disagree"
        compared.summary = (
            f"Teacher and student {same}: {teacher.name} ({teacher.probability:.0%}) and {student.name} "
            f"({student.probability:.0%})."
        )
    return compared


def measured_on(run: Loaded) -> tuple:
    """What a run's figures are of; figures of two runs can be compared where it is the same."""
    return (run.task.metric, *(run.results.get(k) for k in ("dataset", "split", "protocol")))


def finds_faces(run: Loaded) -> bool:
    """Whether the run's predictors look for faces before they predict."""
    return hasattr(next(iter(run.predictors.values())), "look")


def compare(
    run: Loaded,
    pixels: np.ndarray,
    box: str | Rect | None,
    other: Loaded | None = None,
    *,
    baseline: bool = True,
) -> Compared:
    """The picture (H, W, 3) uint8 RGB through every network of the run, the baseline where asked; ``box``: see Landmarker.

    With ``other``, through the student of that run as well. Raises UserError.
    """
    found = (
        compare_faces(run, pixels, box, other, baseline)
        if finds_faces(run)
        else compare_classes(run, pixels, other, baseline)
    )
    missing = [name for name in ("teacher", "student") if name not in run.models]
    if missing:
        found.summary += f" This run has no {missing[0]}."
        if missing[0] == "teacher":
            found.summary += (
                " Choose one that has it, and this as the second run, to see them beside each other."
            )
    elif not run.results:
        found.summary += (
            " This run is still training, or was stopped: its networks are not what they will be."
        )
    return found


def further(run: Loaded, names: list[str], other: Loaded | None = None) -> list[list[Any]]:
    """Rows of what else was measured on the run's test data: in words, and of each of the networks of :func:`costs`.

    None where a network has no such figure, or one of other data.
    """
    there, rows = networks(run, other), []
    for key, words in FURTHER.items():
        values = []
        for name in names:
            owner, network = there[name.partition(",")[0]]
            value = owner.results.get(network, {}).get(key)
            alike = isinstance(value, int | float) and measured_on(owner) == measured_on(run)
            values.append(round(value, 3) if alike else None)
        if any(value is not None for value in values):
            rows.append([words, *values])
    return rows


def _exported(owner: Loaded, form: str, network: str) -> int:
    """Bytes of the file that srrl.export makes of a network."""
    with TemporaryDirectory(prefix="srrl-export-") as folder:
        path = Path(folder) / network
        owner.task.export(form, owner.models[network], owner.cfg, path)
        return path.stat().st_size


def costs(run: Loaded, threads: int, other: Loaded | None = None) -> tuple[list[str], list[list[Any]]]:
    """Header and a row for each network: its figure, size, and the speed measured now, in turns, on ``threads``.

    A binary network has a second row in its packed form, which gives the same answers: the other is a simulation in floats.
    """
    from srrl.inspection import count_macs, count_parameters
    from srrl.runs import RunFolder
    from srrl.speed import latency

    there = networks(run, other)
    models: dict[str, tuple[int, nn.Module]] = {}  # with the pixels a side of their pictures
    for name, (owner, network) in there.items():
        model, size = owner.models[network], owner.task.image_size(owner.cfg)
        faster = {f"{name}, {form}": m for form, m in owner.task.faster_forms(model).items()}
        models |= {k: (size, m) for k, m in ({name: model} | faster).items()}
    times: dict[str, dict[str, float]] = {}
    for size in dict.fromkeys(size for size, _ in models.values()):
        same = {k: m for k, (s, m) in models.items() if s == size}
        times |= latency(same, size, thread_count=threads, rounds=ROUNDS)
    header = ["network", figure_of(run.task), *COSTS]
    rows = []
    for name, time in times.items():
        owner, network = there[name.partition(",")[0]]
        model, known = owner.models[network], owner.results.get(network, {})
        figure = known.get(run.task.metric)
        if measured_on(owner) != measured_on(run):
            figure = None  # of other data
        written = RunFolder(owner.path).weights(network).stat().st_size
        if name not in there:
            written = _exported(owner, name.rpartition(", ")[2], network)
        rows.append(
            [
                name,
                None if figure is None else round(figure, 3),
                round(time["p50"], 2),
                round(time["p95"], 2),
                round(1000 / time["p50"], 1),
                round(count_parameters(model) / 1e6, 3),
                round(count_macs(model, owner.task.image_size(owner.cfg)) / 1e6, 1),
                round(written / 1e6, 3),
            ]
        )
    order = list(there)
    rows.sort(
        key=lambda row: order.index(row[0].partition(",")[0])
    )  # a stable sort: the packed form comes second
    return header, rows
