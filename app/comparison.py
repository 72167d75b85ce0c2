"""One picture through every network of a run: what each says, where they differ, and what each costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .shelf import Loaded

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


def compare_faces(run: Loaded, pixels: np.ndarray, box: str | None) -> Compared:
    """Landmarks: the faces are found once, so that all networks look at the same ones."""
    look = next(iter(run.predictors.values())).look(pixels, box)
    found = {name: p.predict(pixels, look) for name, p in run.predictors.items()}
    compared = Compared({name: run.predictors[name].draw(pixels, found[name]) for name in found})
    count = len(look.rects)
    if not count:
        compared.summary = "No face was found. If the picture shows one face from close up, choose “the whole picture is one face”."
        return compared
    compared.summary = f"{count} face{'s' * (count > 1)} found."
    if "teacher" in found and "student" in found:
        student = run.predictors["student"]
        compared.difference, rows = student.difference(pixels, found["student"], found["teacher"])
        compared.header = ["face", "mean distance, %", "largest distance, %", "at point"]
        compared.rows = [
            [r["face"] + 1, round(r["mean_percent"], 2), round(r["largest_percent"], 2), r["point"]]
            for r in rows
        ]
        mean = float(np.mean([r["mean_percent"] for r in rows]))
        compared.summary += f" The student's points are {mean:.1f} % of {student.size_name} away from the teacher's, on average."
    return compared


def compare_classes(run: Loaded, pixels: np.ndarray) -> Compared:
    """Classes: the five likeliest of each network, side by side."""
    found = {name: p(pixels) for name, p in run.predictors.items()}
    compared = Compared({name: pixels for name in found})
    compared.bars = {name: {g.name: g.probability for g in guesses} for name, guesses in found.items()}
    compared.header = ["class", *found]
    classes = dict.fromkeys(g.name for guesses in found.values() for g in guesses)
    compared.rows = [
        [c, *(round(100 * compared.bars[name][c], 1) if c in compared.bars[name] else None for name in found)]
        for c in classes
    ]
    if "teacher" in found and "student" in found:
        teacher, student = found["teacher"][0], found["student"][0]
        same = "agree" if teacher.name == student.name else "disagree"
        compared.summary = (
            f"Teacher and student {same}: {teacher.name} ({teacher.probability:.0%}) and {student.name} "
            f"({student.probability:.0%})."
        )
    return compared


def finds_faces(run: Loaded) -> bool:
    """Whether the run's predictors look for faces before they predict."""
    return hasattr(next(iter(run.predictors.values())), "look")


def compare(run: Loaded, pixels: np.ndarray, box: str | None) -> Compared:
    """The picture (H, W, 3) uint8 RGB through every network of the run; ``box``: see Landmarker. Raises UserError."""
    return compare_faces(run, pixels, box) if finds_faces(run) else compare_classes(run, pixels)


def costs(run: Loaded, threads: int) -> tuple[list[str], list[list[Any]]]:
    """Header and a row for each network: the run's figure, size, and the speed measured now, in turns, on ``threads``."""
    from srrl.inspection import count_macs, count_parameters
    from srrl.runs import RunFolder
    from srrl.speed import latency

    task, size = run.task, run.task.image_size(run.cfg)
    times = latency(run.models, size, thread_count=threads, rounds=ROUNDS)
    header = [
        "network",
        f"{task.metric}, {task.unit}",
        "one picture, ms (median)",
        "ms (95 %)",
        "pictures a second",
        "parameters, millions",
        "multiply-adds, millions",
        "file, MB",
    ]
    rows = []
    for name, model in run.models.items():
        figure = run.results.get(name, {}).get(task.metric)
        rows.append(
            [
                name,
                None if figure is None else round(figure, 3),
                round(times[name]["p50"], 2),
                round(times[name]["p95"], 2),
                round(1000 / times[name]["p50"], 1),
                round(count_parameters(model) / 1e6, 3),
                round(count_macs(model, size) / 1e6, 1),
                round(RunFolder(run.path).weights(name).stat().st_size / 1e6, 3),
            ]
        )
    return header, rows
