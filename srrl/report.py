"""report.md and the training curves of a run."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srrl import runs
from srrl.runs import RunFolder

if TYPE_CHECKING:
    from torch import nn

    from srrl.config import RunSettings
    from srrl.task import Data, Task

# of a decade, for the ticks of a logarithmic axis
LOG_STEPS = (
    (1,),
    (1, 3),
    (1, 2, 5),
    (1, 1.5, 2, 3, 5, 7),
    (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9),
)
DOTS = 60  # epochs up to which each has a dot of its own
COLOURS = {"teacher": "#4c566a", "baseline": "#c77d2e", "student": "#2f6fab"}


def write_report(
    task: Task,
    cfg: RunSettings,
    run: RunFolder,
    data: Data,
    models: dict[str, nn.Module],
    results: dict[str, Any],
    chosen: dict[str, Any],
    seconds: dict[str, float],
) -> None:
    """Plots into ``plots/`` and the report that shows the models side by side."""
    run.plots.mkdir(exist_ok=True)
    pictures = [("curves.png", "Training: loss and validation figure of each phase, by epoch.")]
    draw_curves(run.path / "metrics.csv", run.plots / "curves.png", task)
    pictures += task.figures(models, data, cfg, run.plots)
    names = [n for n in runs.MODELS if n in models]
    sections = [
        f"# {task.name}: {cfg.method} on {data.name}",
        _summary(task, cfg, results, data),
        "## Side by side\n\n" + side_by_side(task, results, names),
        "## Epochs\n\n" + _epochs(task, chosen),
        *(f"![{caption}](plots/{file})\n\n{caption}" for file, caption in pictures),
        "## How long it took\n\n"
        + "\n".join(f"- {k}: {_duration(v)}" for k, v in _spent(run, seconds).items()),
        "Settings are in `config.yaml`, versions and device in `environment.json`, every epoch in `metrics.csv`.",
    ]
    runs.write_text(run.report, "\n\n".join(sections) + "\n")


def _spent(run: RunFolder, seconds: dict[str, float]) -> dict[str, float]:
    """Seconds of each phase: at least what its epochs took, most of which may have been before this process began."""
    trained: dict[str, float] = {}
    for row in runs.MetricsLog(run.path / "metrics.csv").rows:
        trained[row["phase"]] = trained.get(row["phase"], 0.0) + float(row["seconds"])
    return {k: max(v, trained.get(k, 0.0)) for k, v in seconds.items()}


def draw_curves(metrics: Path, out: Path, task: Task) -> None:
    """Loss and validation metric against epochs, a line a phase; an earlier stage is dashed, in its phase's colour."""
    if not metrics.is_file():
        return
    plt = pyplot()
    rows = runs.read_metrics(metrics)
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    for phase in dict.fromkeys(r["phase"] for r in rows):
        mine = [r for r in rows if r["phase"] == phase]
        whole, _, stage = phase.partition("-")
        style = {
            "color": COLOURS.get(whole),
            "linestyle": "--" if stage else "-",
            "alpha": 0.55 if stage else 1,
        }
        epochs = [int(r["epoch"]) for r in mine]
        for axis, key in zip(axes, ("supervised", f"val_{task.metric}"), strict=True):
            values = [float(r[key]) if r.get(key) else float("nan") for r in mine]
            marker = "." if len(mine) <= DOTS else None
            axis.plot(epochs, values, marker=marker, linewidth=1.3, label=phase, **style)
    titles = ("supervised loss (training)", f"{task.metric} (validation, {task.unit})")
    for axis, title, log in zip(axes, titles, (True, not task.higher), strict=True):
        axis.set(title=title, xlabel="epoch")
        if log:  # errors fall by factors, accuracies do not rise by them
            axis.set_yscale("log")
            axis.set_yticks(log_ticks(*axis.get_ylim()))
            axis.minorticks_off()
            axis.yaxis.set_major_formatter("{x:g}")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.25)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    save_figure(figure, out)


def log_ticks(low: float, high: float) -> list[float]:
    """Round places on a logarithmic axis, the coarsest set with at least three; matplotlib's own are few within a decade."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for steps in LOG_STEPS:
        ticks = [float(f"{s}e{power}") for power in range(first, last + 1) for s in steps]
        ticks = [t for t in ticks if low <= t <= high]
        if len(ticks) >= 3:
            return ticks
    from matplotlib.ticker import MaxNLocator

    # so short a stretch of it is nearly linear
    return [float(t) for t in MaxNLocator(4).tick_values(low, high) if low <= t <= high]


def pyplot() -> Any:
    """matplotlib.pyplot on the backend that needs no screen."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save_figure(figure: Any, out: Path) -> None:
    """The figure as PNG, atomically."""
    with runs.atomic(out) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    pyplot().close(figure)


def _summary(task: Task, cfg: RunSettings, results: dict[str, Any], data: Data) -> str:
    lines = [
        f"Data {data.details.get('label', data.name)}, split *{results['split']}*, protocol *{results['protocol']}*, seed {cfg.seed}."
    ]
    if "teacher" in results and "student" in results:
        t, s = results["teacher"], results["student"]
        lines.append(
            f"The student has {t['params'] / s['params']:.1f}× fewer parameters than its teacher and answers "
            f"{t['latency_ms_p50'] / s['latency_ms_p50']:.1f}× as fast on one thread."
        )
    if "baseline" in results and "student" in results:
        b, s = results["baseline"][task.metric], results["student"][task.metric]
        gain = (s - b) if task.higher else (b - s)
        apart = f"{abs(gain):.3f}"
        said = "the same" if float(apart) == 0 else f"{apart} {'better' if gain > 0 else 'worse'}"
        if data.details.get("scored"):
            said += f" {data.details['scored']}"
        lines.append(
            f"Distillation ({cfg.method}) against the same student without a teacher: {b:.3f} → {s:.3f} {task.unit} "
            f"({said}). One run of one seed: repeat over seeds before you rely on the difference."
        )
    if "mean_shape_nme" in results:
        lines.append(
            f"For scale: predicting the mean shape gives {results['mean_shape_nme']:.2f} {task.unit}."
        )
    if "largest_class_top1" in results:
        lines.append(
            f"For scale: always naming the largest class gives {results['largest_class_top1']:.1f} {task.unit}."
        )
    return " ".join([*lines, *data.details.get("notes", [])])


def side_by_side(task: Task, results: dict[str, Any], names: list[str]) -> str:
    """Markdown tables of everything in results.json about the named models, a column each, units in the first."""
    skip = {"params", "macs", "size_bytes", "faces"}
    scalars = [
        k
        for k, v in results[names[0]].items()
        if isinstance(v, (int, float)) and k not in skip and not k.startswith("latency")
    ]
    rows = [
        (_with_unit(task, k), [f"{results[n][k]:.4g}" if results[n][k] is not None else "–" for n in names])
        for k in scalars
    ]
    rows += [
        ("parameters", [f"{results[n]['params']:,}" for n in names]),
        ("multiply-adds (M)", [f"{results[n]['macs'] / 1e6:.1f}" for n in names]),
        ("weights file (MB)", [f"{results[n]['size_bytes'] / 1e6:.2f}" for n in names]),
        (
            "latency p50 / p95, one thread (ms)",
            [f"{results[n]['latency_ms_p50']:.2f} / {results[n]['latency_ms_p95']:.2f}" for n in names],
        ),
        (
            f"latency p50 / p95, {os.cpu_count()} threads (ms)",
            [
                f"{results[n]['latency_ms_p50_all_threads']:.2f} / {results[n]['latency_ms_p95_all_threads']:.2f}"
                for n in names
            ],
        ),
    ]
    table = markdown_table(["", *names], [[k, *v] for k, v in rows])
    groups = {"subsets": "subset", "regions": "region", "classes": "class", "stages": "stage of training"}
    for group, one in groups.items():
        having = [n for n in names if results[n].get(group)]  # a teacher has no stages
        if having:
            pick = [
                (e, [_cell(results[n][group][e], task.metric) for n in having])
                for e in results[having[0]][group]
            ]
            table += f"\n\n{task.metric} ({task.unit}) by {one}\n\n" + markdown_table(
                ["", *having], [[k, *v] for k, v in pick]
            )
    return table


def _with_unit(task: Task, key: str) -> str:
    unit = task.unit if key == task.metric else task.units.get(key)
    return f"{key} ({unit})" if unit else key


def _cell(value: Any, metric: str) -> str:
    value = value[metric] if isinstance(value, dict) else value
    return "–" if value is None else f"{value:.3f}"


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, numbers to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---" + "|--:" * (len(header) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(r) + " |" for r in rows])


def _epochs(task: Task, chosen: dict[str, Any]) -> str:
    rows = []
    for name, found in chosen.items():
        if not found:
            rows.append([name, "from a checkpoint", "", "", ""])
            continue
        best, last = found["best"], found["last"]
        rows.append(
            [
                name,
                f"{best['epoch']:.0f}",
                f"{best[task.metric]:.3f}",
                f"{last['epoch']:.0f}",
                f"{last[task.metric]:.3f}",
            ]
        )
    note = f"Validation {task.metric} ({task.unit}). The best epoch's weights are the ones scored above; the last ones are kept beside them."
    return markdown_table(["", "best epoch", task.metric, "last epoch", task.metric], rows) + "\n\n" + note


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
