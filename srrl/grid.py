"""Tuning on the validation split: trials of a method's settings, and the table that says which of them is best."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srrl.comparison import BLUE, GREY, draw_seeds, last_epoch, over_seeds, shown, summary
from srrl.errors import UserError

if TYPE_CHECKING:
    from srrl.cells import Cell
    from srrl.config import RunSettings
    from srrl.task import Task

PAIRS = "1,1 1,5 10,1"  # (α, β) over which the authors searched for each pair of networks (issues of KD_SRRL)
CHOSEN = "#c77d2e"
Trial = tuple[str, ...]


def parse_grid(text: str, methods: list[str], task: Task, cfg: RunSettings) -> dict[str, list[Trial]]:
    """The trials of each method, each a tuple of ``key=value``.

    ``text`` holds trials with spaces between: ``[METHOD:]key=value[,key=value …]``, where ``1,5`` is short for
    ``alpha=1,beta=5``. Without METHOD a trial is one of every method in ``methods``. Raises UserError for settings that
    the method does not read (nor are ``optim.…``), for values that do not fit, and for fewer than two trials of a method.
    """
    trials: dict[str, list[Trial]] = {}
    for word in text.split():
        own, settings = _trial(word)
        for method in methods if own is None else [own]:
            _check(word, method, settings, trials.setdefault(method, []), task, cfg)
            trials[method].append(settings)
    if not trials:
        raise UserError(f"--grid {text!r} holds no trial: expected such as {PAIRS!r}")
    for method, several in trials.items():
        if len(several) < 2:
            raise UserError(
                f"--grid {text!r} has one trial of {method}: expected two or more in one argument, such as {PAIRS!r}"
            )
    return trials


def _trial(word: str) -> tuple[str | None, Trial]:
    """Method, if it names one, and settings of one trial."""
    from srrl.distillers import check_method

    method, colon, rest = word.partition(":")
    if not colon or "=" in method:
        method, rest = None, word
    else:
        check_method(method)
    if pair := re.fullmatch(r"([^=,]+),([^=,]+)", rest):
        try:
            return method, tuple(f"{k}={float(v):g}" for k, v in zip(("alpha", "beta"), pair.groups()))
        except ValueError:
            pass
    settings = tuple(re.split(r",(?=[\w.]+=)", rest))  # commas within a value stay
    if not all(re.fullmatch(r"[\w.]+=.+", s) for s in settings):
        raise UserError(
            f"--grid: {word!r} is no trial: expected alpha,beta as in 1,5, or key=value,key=value"
        )
    return method, settings


def _check(
    word: str, method: str, settings: Trial, others: list[Trial], task: Task, cfg: RunSettings
) -> None:
    """UserError unless the settings are what the method can be tuned with, and none of its other trials."""
    from srrl.config import apply_overrides, resolve
    from srrl.distillers import distiller_class
    from srrl.distillers.base import MethodSettings

    reads = distiller_class(method).reads
    for key in (s.partition("=")[0] for s in settings):
        if key not in reads and not key.startswith("optim."):
            hint = (
                f"give {method} trials of its own, as {method}:key=value"
                if key in MethodSettings.model_fields
                else "what every run shares stands before --grid"
            )
            raise UserError(
                f"--grid: {word!r} sets {key}, with which {method} is not tuned (only {', '.join([*reads, 'optim.…'])}): {hint}"
            )
    base = cfg.model_dump(mode="json")
    made = [resolve(task.settings, apply_overrides(base, list(t))) for t in (*others, settings)]
    if made[-1] in made[:-1]:
        raise UserError(f"--grid: {word!r} stands twice for {method}")


def tabulate_grid(finished: dict[Cell, dict[str, Any]], metric: str, higher: bool) -> dict[str, Any]:
    """Every trial's seeds, mean and deviation (last epoch), and the best mean of each method; the first of equal ones."""
    trials: dict[str, dict[Trial, dict[int, float]]] = {}
    for cell, results in finished.items():
        seeds = trials.setdefault(cell.method, {}).setdefault(cell.settings, {})
        seeds[cell.seed] = last_epoch(results)[metric]
    rows, chosen = [], {}
    for method, several in trials.items():
        own = [{"method": method, "settings": list(t), **summary(v)} for t, v in several.items()]
        best = (max if higher else min)(own, key=lambda row: row["mean"])
        chosen[method] = best["settings"]
        rows += [{**row, "chosen": row is best} for row in own]
    first = next(iter(finished.values()))
    return {
        "metric": metric,
        "higher_is_better": higher,
        "dataset": first["dataset"],
        "split": first["split"],
        "protocol": first["protocol"],
        "number_of_trials": {method: len(several) for method, several in trials.items()},
        "trials": rows,
        "chosen": chosen,
    }


def read_tuned(path: str) -> dict[str, Any]:
    """``settings`` that a table-grid.json chose for each method, and the number of ``trials`` of each. Raises UserError."""
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
        settings = {method: tuple(map(str, chosen)) for method, chosen in table["chosen"].items()}
        return {"settings": settings, "trials": {m: int(table["number_of_trials"][m]) for m in settings}}
    except OSError as error:
        raise UserError(
            f"--tuned {path}: {error.strerror}: expected the table-grid.json that --grid wrote"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"--tuned {path} is not the table-grid.json that --grid writes") from None


def write_grid(table: dict[str, Any], out: Path, task: Task) -> None:
    """table-grid.json, table-grid.md and table-grid.png in ``out``."""
    from srrl.report import markdown_table
    from srrl.runs import write_json, write_text

    write_json(out / "table-grid.json", table)
    numbers = table["number_of_trials"]
    counted = ", ".join(f"{method} {n}" for method, n in numbers.items())
    unequal = "" if len(set(numbers.values())) == 1 else " – **not the same number**"
    rows = [
        [row["method"], " ".join(row["settings"]), *shown(row), "chosen" if row["chosen"] else ""]
        for row in table["trials"]
    ]
    best = {row["method"]: row for row in table["trials"] if row["chosen"]}
    text = [
        f"# Tuning {task.name}: {table['metric']} ({task.unit}) on {table['dataset']}, split {table['split']}, {table['protocol']}",
        f"{over_seeds({' '.join([row['method'], *row['settings']]): row for row in table['trials']})}, last epoch; "
        f"{'higher' if table['higher_is_better'] else 'lower'} is better. The test split was not read.",
        f"Trials of each method: {counted}{unequal}.",
        markdown_table(["", "settings", table["metric"], "each seed", ""], rows),
        *(
            f"**Chosen for {method}: {' '.join(row['settings'])}**, the best mean ({row['mean']:.3f} {task.unit})."
            for method, row in best.items()
        ),
    ]
    write_text(out / "table-grid.md", "\n\n".join(text) + "\n")
    draw_grid(table, out / "table-grid.png", task.unit)


def draw_grid(table: dict[str, Any], path: Path, unit: str) -> None:
    """Every seed as a dot and the mean as a line for each trial, the chosen one of each method in its own colour."""
    from srrl.report import pyplot, save_figure

    rows = table["trials"]
    width = max(5.0, 1.6 + 1.05 * len(rows))
    figure, axis = pyplot().subplots(figsize=(width, 3.8), layout="constrained")
    for x, row in enumerate(rows):
        draw_seeds(axis, x, row, CHOSEN if row["chosen"] else BLUE)
        if x and rows[x - 1]["method"] != row["method"]:
            axis.axvline(x - 0.5, color=GREY, lw=0.6, alpha=0.5)
    labels = ["\n".join([row["method"], *(s.replace("=", " = ") for s in row["settings"])]) for row in rows]
    axis.set_xticks(range(len(rows)), labels, fontsize=9)
    for tick, row in zip(axis.get_xticklabels(), rows, strict=True):
        if row["chosen"]:
            tick.set(color=CHOSEN, fontweight="bold")
    axis.set(
        xlim=(-0.6, len(rows) - 0.4),
        ylabel=f"{table['metric']} ({unit})",
        title=f"{table['dataset']}, split {table['split']}: chosen in bold",
    )
    axis.margins(y=0.12)
    save_figure(figure, path)
