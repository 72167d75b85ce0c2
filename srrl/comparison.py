"""Means, paired intervals and plots of a comparison: table.json, table.md and table.png."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from srrl.task import Task

BLUE, GREY = "#2f6fab", "#4c566a"
Values = dict[str, dict[int, float]]  # of each method, by seed


def tabulate(
    finished: dict[tuple[str, int], dict[str, Any]],
    methods: dict[str, list[int]],
    metric: str,
    higher: bool,
    probe: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Mean, standard deviation and each seed of every method, and paired differences with 95 % intervals.

    finished: results.json by (method, seed); methods: the seeds of each. The figures are those of the last epoch; those
    of the epoch that validation chose stand beside them as ``best``. A positive gain is an improvement of SRRL (or of
    the last method named) over the other, whichever way the metric points, paired over the seeds that both have.
    ``probe`` is what :func:`srrl.probe.probe_cells` gives; it gets means and gains of its own.
    """
    values = {m: {s: last_epoch(finished[m, s])[metric] for s in seeds} for m, seeds in methods.items()}
    best = {m: [finished[m, s]["student"][metric] for s in seeds] for m, seeds in methods.items()}
    rows = {
        m: {**summary(v), "best": {"seeds": best[m], "mean": mean_of(best[m])}} for m, v in values.items()
    }
    first = next(iter(finished.values()))
    table = {
        "metric": metric,
        "higher_is_better": higher,
        "seeds": list(dict.fromkeys(s for seeds in methods.values() for s in seeds)),
        "dataset": first["dataset"],
        "split": first["split"],
        "protocol": first["protocol"],
        "teacher": next((r["teacher"][metric] for r in finished.values() if "teacher" in r), None),
        "methods": rows,
        "gains": paired_gains(values, higher),
    }
    if probe is not None:
        probed = {m: summary(v) for m, v in probe["methods"].items()}
        untrained = summary(probe["untrained"])
        gains = paired_gains(probe["methods"], higher=True)
        table["probe"] = {**probe, "untrained": untrained, "methods": probed, "gains": gains}
    return table


def last_epoch(results: dict[str, Any]) -> dict[str, Any]:
    """The student's figures with the last epoch's weights, or the only ones there are."""
    return results["student"].get("last_epoch", results["student"])


def summary(values: dict[int, float]) -> dict[str, Any]:
    """Every value, the seed of each, their mean and sample standard deviation."""
    numbers = list(values.values())
    return {
        "seeds": numbers,
        "seed_numbers": list(values),
        "mean": mean_of(numbers),
        "std": std_of(numbers),
    }


def paired_gains(values: Values, higher: bool) -> dict[str, Any]:
    """What SRRL, or the last method named, gains over each other one, over the seeds that both have."""
    main = "srrl" if "srrl" in values else list(values)[-1]
    sign = 1 if higher else -1
    gains = {}
    for other, theirs in values.items():
        if other != main:
            shared = [s for s in values[main] if s in theirs]
            gains[f"{main} over {other}"] = paired_interval(
                [sign * (values[main][s] - theirs[s]) for s in shared]
            )
    return gains


def paired_interval(gains: list[float]) -> dict[str, Any]:
    """Mean of paired differences with Student's 95 % interval (n − 1 degrees of freedom); no interval for one pair."""
    from scipy.stats import t

    n = len(gains)
    mean = mean_of(gains) if gains else None
    if n < 2:
        return {"mean": mean, "interval": None, "excludes_zero": False, "pairs": n}
    half = float(t.ppf(0.975, n - 1)) * std_of(gains) / n**0.5
    return {
        "mean": mean,
        "interval": [mean - half, mean + half],
        "excludes_zero": abs(mean) > half,
        "pairs": n,
    }


def mean_of(values: list[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)


def std_of(values: list[float]) -> float:
    """Sample standard deviation (n − 1); 0 for one value."""
    if len(values) < 2:
        return 0.0
    mean = mean_of(values)
    return (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5


def write_comparison(table: dict[str, Any], out: Path, task: Task) -> None:
    """table.json, table.md and table.png in ``out``."""
    from srrl.report import markdown_table
    from srrl.runs import write_json, write_text

    write_json(out / "table.json", table)
    probe = table.get("probe")
    header = ["", f"{table['metric']}, last epoch", "each seed", "best on validation"]
    rows = [["teacher", f"{table['teacher']:.3f}", "", ""]] if table["teacher"] is not None else []
    rows += [[m, *shown(r), f"{r['best']['mean']:.3f}"] for m, r in table["methods"].items()]
    if probe:
        header += [f"probe on {probe['dataset']}", "each seed"]
        for row in rows:
            row += [f"{probe['teacher']:.3f}", ""] if row[0] == "teacher" else shown(probe["methods"][row[0]])
        rows.append(["untrained student", "", "", "", *shown(probe["untrained"])])
    text = [
        f"# {task.name}: {table['metric']} ({task.unit}) on {table['dataset']}, split {table['split']}, {table['protocol']}",
        f"{over_seeds(table['methods'])}; {'higher' if table['higher_is_better'] else 'lower'} is better.",
        markdown_table(header, rows),
        *_tuned(table),
        f"Gain in {table['metric']}, paired by seed (positive = better):",
        _gains(table["gains"]),
    ]
    if probe:
        text += [
            f"Gain in the linear probe's top-1 (%) on {probe['dataset']}, paired by seed:",
            _gains(probe["gains"]),
            f"Linear probe: logistic regression on the frozen, pooled features of each student's last epoch, fitted on "
            f"{probe['train']:,} pictures of {probe['classes']} classes and scored once on {probe['test']:,} others. "
            f"Channels of the features: {', '.join(f'{m} {n}' for m, n in probe['channels'].items())}.",
        ]
    write_text(out / "table.md", "\n\n".join(text) + "\n")
    draw_comparison(table, out / "table.png", task.unit)


def _tuned(table: dict[str, Any]) -> list[str]:
    """What was chosen on validation for each method, out of how many trials."""
    if "tuned" not in table:
        return []
    settings, trials = table["tuned"]["settings"], table["tuned"]["trials"]
    parts = [
        f"{m} {' '.join(settings[m])} ({trials[m]} trials)" if m in settings else f"{m} not tuned"
        for m in table["methods"]
    ]
    numbers = {trials.get(m, 0) for m in table["methods"]}
    unequal = " **The methods did not have the same number of trials.**" if len(numbers) > 1 else ""
    return [f"Settings chosen on the validation split: {'; '.join(parts)}.{unequal}"]


def over_seeds(rows: dict[str, dict[str, Any]]) -> str:
    """Over how many seeds the means are, with the methods that have fewer than the others."""
    counts = {name: len(row["seeds"]) for name, row in rows.items()}
    n = max(counts.values())
    fewer = ", ".join(f"{name}: n = {count}" for name, count in counts.items() if count < n)
    return f"Mean ± standard deviation over {n} seed{'s' * (n > 1)}{f' ({fewer})' * bool(fewer)}"


def shown(row: dict[str, Any]) -> list[str]:
    """Two cells of a table: the mean, with the deviation where there are several seeds, and each seed."""
    several = len(row["seeds"]) > 1
    mean = f"{row['mean']:.3f} ± {row['std']:.3f}" if several else f"{row['mean']:.3f}"
    return [mean, ", ".join(f"{v:.3f}" for v in row["seeds"])]


def _gains(gains: dict[str, Any]) -> str:
    from srrl.report import markdown_table

    rows = []
    for name, g in gains.items():
        mean = "–" if g["mean"] is None else f"{g['mean']:+.3f}"
        interval = "–" if g["interval"] is None else f"{g['interval'][0]:+.3f} … {g['interval'][1]:+.3f}"
        excludes = "–" if g["interval"] is None else "yes" if g["excludes_zero"] else "no"
        rows.append([name, mean, interval, excludes, str(g["pairs"])])
    return markdown_table(["", "mean", "95 % interval", "excludes zero", "pairs"], rows)


def draw_comparison(table: dict[str, Any], path: Path, unit: str) -> None:
    """Every seed as a dot, the mean as a line, the teacher as a dashed one; the probe in a second panel."""
    from srrl.report import pyplot, save_figure

    panels = [(table["methods"], {"teacher": table["teacher"]}, f"{table['metric']} ({unit})", "")]
    if probe := table.get("probe"):
        lines = {"teacher": probe["teacher"], "untrained student": probe["untrained"]["mean"]}
        title = f"Linear probe on {probe['dataset']}"
        panels = [(*panels[0][:3], f"{table['dataset']}, {table['split']}")]
        panels.append((probe["methods"], lines, "top-1 (%)", title))
    count = len(table["methods"])
    width = max(5.0, 1.6 + 0.62 * count)
    figure, axes = pyplot().subplots(
        1, len(panels), figsize=(width * len(panels), 3.6), layout="constrained", squeeze=False
    )
    for axis, (rows, lines, label, title) in zip(axes[0], panels, strict=True):
        for x, row in enumerate(rows.values()):
            draw_seeds(axis, x, row)
        for name, value in lines.items():
            if value is not None:
                axis.axhline(value, ls="--" if name == "teacher" else ":", color=GREY, lw=1, zorder=0)
                axis.annotate(
                    name, (1, value), (-2, 2), xycoords=("axes fraction", "data"), textcoords="offset points",
                    color=GREY, ha="right", va="bottom", fontsize=9,
                )  # fmt: skip
        axis.set(xlim=(-0.6, count - 0.4), ylabel=label, title=title)
        slanted = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if count > 6 else {}
        axis.set_xticks(range(count), list(rows), **slanted)
        axis.margins(y=0.12)
    save_figure(figure, path)


def draw_seeds(axis: Any, x: float, row: dict[str, Any], colour: str = BLUE) -> None:
    """A method's seeds as dots around ``x``, side by side so that equal ones are seen, and their mean as a line."""
    n = len(row["seeds"])
    step = min(0.08, 0.3 / n)
    places = [x + step * (i - (n - 1) / 2) for i in range(n)]
    axis.plot(places, row["seeds"], "o", color=colour, alpha=0.7, mew=0)
    axis.plot([x - 0.2, x + 0.2], [row["mean"]] * 2, color=colour, lw=2)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
