"""Methods × seeds at the same budget from one trained teacher, with paired differences: ``python -m srrl.compare``."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srrl.cli import Command, main_of, positive
from srrl.errors import RunError, UserError

if TYPE_CHECKING:
    from srrl.config import RunSettings
    from srrl.interrupt import GracefulStop
    from srrl.task import Task

EPILOG = """Every cell is a run folder OUT/<method>-seed<n>; a finished cell is never run again, an interrupted one is resumed,
and one that was made with other settings ends the command.
The teacher is trained once, in OUT/teacher, unless teacher.checkpoint names one. All methods get the same epochs,
data order, augmentation and initial weights a seed. Differences are paired by seed, with Student's t interval."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides", nargs="*", metavar="key.sub=value", help="settings on top of the config file"
    )
    parser.add_argument("--task", metavar="NAME", help="what to train, as in train")
    parser.add_argument("-c", "--config", metavar="FILE", help="YAML file with settings")
    parser.add_argument(
        "--methods",
        default="none,kd,srrl",
        help="comma-separated: none (no teacher), kd (Hinton's), srrl (default: these three), fitnet, at, ofd, rkd, crd, "
        "dkd, dist, simkd, reviewkd, srrl_pooled, srrl_stages, srrl_head",
    )
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated (default 0,1,2)")
    parser.add_argument(
        "--out", metavar="DIR", required=True, help="where cells and tables go; may exist, to go on"
    )
    parser.add_argument("--jobs", type=positive, default=1, help="cells at a time (default 1)")
    parser.set_defaults(quick=False)


def run(args: argparse.Namespace) -> int:
    from srrl.config import dump
    from srrl.distillers import check_method
    from srrl.interrupt import Interrupted
    from srrl.runs import write_text
    from srrl.train import resolve_settings

    task, cfg = resolve_settings(args)
    methods = [check_method(m) for m in args.methods.split(",")]
    try:
        seeds = [int(s) for s in args.seeds.split(",")]
    except ValueError:
        raise UserError(
            f"--seeds {args.seeds!r}: expected whole numbers with commas between, such as 0,1,2"
        ) from None
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is not a folder")
    out.mkdir(parents=True, exist_ok=True)
    _check_cells(task, out, cfg, methods, seeds)
    try:
        if cfg.teacher.checkpoint is None and methods != ["none"]:
            cfg.teacher.checkpoint = str(_teacher(task, cfg, out / "teacher"))
        write_text(out / "config.yaml", dump(cfg))
        finished = _run_cells(out, [(m, s) for s in seeds for m in methods], args.jobs)
    except Interrupted:
        print("\ninterrupted; run the same command again to go on", file=sys.stderr)
        raise
    table = tabulate(finished, methods, seeds, task.metric, task.higher)
    _write(table, finished, out, task)
    print((out / "table.md").read_text(encoding="utf-8"))
    return 0


def _check_cells(task: Task, out: Path, cfg: RunSettings, methods: list[str], seeds: list[int]) -> None:
    """UserError where OUT holds a teacher or a cell that these settings would not have made."""
    from srrl.config import differences
    from srrl.distillers import distiller_class
    from srrl.distillers.base import MethodSettings

    loss = set(MethodSettings.model_fields)
    # named by the cell, without effect, or written into the cell's settings by its data
    unread = {"method", "seed", "baseline", "threads", "data.workers"} | task.open_to_data(cfg)
    cells = {}
    if cfg.teacher.checkpoint is None and methods != ["none"]:
        cells[out / "teacher"] = unread | loss | {"student", "teacher.checkpoint"}
        cells[out / "teacher"] |= {"epochs"} if cfg.teacher.epochs else set()
    for method in methods:
        skip = unread | loss - set(distiller_class(method).reads)
        # the teacher's own settings are compared in its folder, and mean nothing to a method without one
        skip |= {"teacher"} if cfg.teacher.checkpoint is None or method == "none" else set()
        cells |= {out / f"{method}-seed{seed}": skip for seed in seeds}
    for folder, skip in cells.items():
        made = folder / "config.yaml"
        keys = differences(made, cfg) if made.is_file() else []
        keys = [k for k in keys if k not in skip and k.partition(".")[0] not in skip]
        if keys:
            raise UserError(
                f"{folder} was made with other settings ({', '.join(keys)}): remove it, or name another --out"
            )


def _teacher(task: Task, cfg: RunSettings, folder: Path) -> Path:
    """The shared teacher's weights, trained where they are not there yet."""
    from srrl.interrupt import GracefulStop
    from srrl.pipeline import Pipeline
    from srrl.runs import RunFolder

    run = RunFolder(folder)
    done = folder / "finished"
    if not done.is_file():
        with GracefulStop() as stop:
            Pipeline(task, cfg, run, stop=stop).teach()
        done.touch()
    return run.weights("teacher")


def _run_cells(out: Path, cells: list[tuple[str, int]], jobs: int) -> dict[tuple[str, int], dict[str, Any]]:
    """Every cell's results, ``jobs`` at a time. A signal is passed on to the running cells, which save a checkpoint."""
    from srrl.interrupt import GracefulStop, Interrupted

    running: set[subprocess.Popen] = set()
    with GracefulStop() as stop, ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(_cell, out, *cell, jobs, running, stop) for cell in cells]
        try:
            return dict(zip(cells, (future.result() for future in waiting), strict=True))
        except BaseException as error:
            stop.requested = error.signum if isinstance(error, Interrupted) else signal.SIGTERM
            for process in list(running):
                process.send_signal(stop.requested)
            raise


def _cell(
    out: Path, method: str, seed: int, jobs: int, running: set[subprocess.Popen], stop: GracefulStop
) -> dict[str, Any]:
    """One run in a process of its own, which stands in ``running`` meanwhile; what its results.json holds."""
    import os

    from srrl.interrupt import Interrupted

    if stop.requested is not None:  # nothing new is begun
        raise Interrupted(stop.requested)
    folder = out / f"{method}-seed{seed}"
    if not (folder / "results.json").is_file():
        command = _train_command(out, folder, method, seed)
        threads = max(1, (os.cpu_count() or 1) // jobs)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        with open(out / f"{method}-seed{seed}.log", "ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )  # of its own group, so that Ctrl-C reaches it once, through us
            running.add(process)
            if stop.requested is not None:  # the signal came while it was starting
                process.send_signal(stop.requested)
            status = process.wait()
            running.discard(process)
        if stop.requested is not None:
            raise Interrupted(stop.requested)
        if status:
            raise RunError(
                f"{method}, seed {seed} ended with status {status}: see {log.name}; run the same command again to go on"
            )
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def _train_command(out: Path, folder: Path, method: str, seed: int) -> list[str]:
    """What begins the cell in ``folder``, or goes on with it."""
    command = [sys.executable, "-m", "srrl.train"]
    if (folder / "config.yaml").is_file():
        return [*command, "--resume", str(folder)]
    settings = [f"method={method}", f"seed={seed}", "baseline=false"]
    return [*command, "-c", str(out / "config.yaml"), "--run-dir", str(folder), *settings]


def tabulate(
    finished: dict[tuple[str, int], dict[str, Any]],
    methods: list[str],
    seeds: list[int],
    metric: str,
    higher: bool,
) -> dict[str, Any]:
    """Mean, standard deviation and each seed of every method, and paired differences with 95 % intervals.

    The figures are those of the last epoch; those of the epoch that validation chose stand beside them as ``best``.
    A positive gain is an improvement of the last method named over the other, whichever way the metric points.
    """
    values = {m: [_last_epoch(finished[m, s]["student"])[metric] for s in seeds] for m in methods}
    best = {m: [finished[m, s]["student"][metric] for s in seeds] for m in methods}
    rows = {
        m: {"seeds": v, "mean": _mean(v), "std": _std(v), "best": {"seeds": best[m], "mean": _mean(best[m])}}
        for m, v in values.items()
    }
    main = "srrl" if "srrl" in methods else methods[-1]
    sign = 1 if higher else -1
    pairs = {}
    for other in methods:
        if other != main:
            gains = [sign * (a - b) for a, b in zip(values[main], values[other], strict=True)]
            pairs[f"{main} over {other}"] = paired_interval(gains)
    teacher = next((r["teacher"][metric] for r in finished.values() if "teacher" in r), None)
    first = next(iter(finished.values()))
    return {
        "metric": metric,
        "higher_is_better": higher,
        "seeds": seeds,
        "dataset": first["dataset"],
        "split": first["split"],
        "protocol": first["protocol"],
        "teacher": teacher,
        "methods": rows,
        "gains": pairs,
    }


def paired_interval(gains: list[float]) -> dict[str, Any]:
    """Mean of paired differences with Student's 95 % interval (n − 1 degrees of freedom); no interval for one pair."""
    from scipy.stats import t

    mean, n = _mean(gains), len(gains)
    if n < 2:
        return {"mean": mean, "interval": None, "excludes_zero": False}
    half = float(t.ppf(0.975, n - 1)) * _std(gains) / n**0.5
    return {"mean": mean, "interval": [mean - half, mean + half], "excludes_zero": abs(mean) > half}


def _last_epoch(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures of the last epoch's weights, or the only ones there are."""
    return figures.get("last_epoch", figures)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _std(values: list[float]) -> float:
    """Sample standard deviation (n − 1); 0 for one value."""
    if len(values) < 2:
        return 0.0
    mean = _mean(values)
    return (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5


def _write(
    table: dict[str, Any], finished: dict[tuple[str, int], dict[str, Any]], out: Path, task: Task
) -> None:
    from srrl.report import markdown_table
    from srrl.runs import write_json, write_text

    write_json(out / "table.json", table)
    n = len(table["seeds"])
    rows = [["teacher", f"{table['teacher']:.3f}", "", ""]] if table["teacher"] is not None else []
    rows += [
        [
            m,
            f"{r['mean']:.3f} ± {r['std']:.3f}",
            ", ".join(f"{v:.3f}" for v in r["seeds"]),
            f"{r['best']['mean']:.3f}",
        ]
        for m, r in table["methods"].items()
    ]
    gains = []
    for name, g in table["gains"].items():
        interval = "–" if g["interval"] is None else f"{g['interval'][0]:+.3f} … {g['interval'][1]:+.3f}"
        gains.append([name, f"{g['mean']:+.3f}", interval, "yes" if g["excludes_zero"] else "no"])
    text = [
        f"# {task.name}: {table['metric']} ({task.unit}) on {table['dataset']}, split {table['split']}, {table['protocol']}",
        f"Mean ± standard deviation over {n} seed{'s' * (n > 1)}; {'higher' if table['higher_is_better'] else 'lower'} is better.",
        markdown_table(["", f"{table['metric']}, last epoch", "each seed", "best on validation"], rows),
        "Gain, paired by seed (positive = better):",
        markdown_table(["", "mean", "95 % interval", "excludes zero"], gains),
    ]
    write_text(out / "table.md", "\n\n".join(text) + "\n")
    draw_table(table, out / "table.png", task.unit)


def draw_table(table: dict[str, Any], path: Path, unit: str) -> None:
    """Every seed as a dot, the mean as a line, the teacher as a dashed one."""
    from srrl.report import pyplot, save_figure

    figure, axis = pyplot().subplots(figsize=(5.5, 3.4), layout="constrained")
    for x, row in enumerate(table["methods"].values()):
        axis.plot([x] * len(row["seeds"]), row["seeds"], "o", color="#2f6fab", alpha=0.7)
        axis.plot([x - 0.2, x + 0.2], [row["mean"]] * 2, color="#2f6fab", lw=2)
    if table["teacher"] is not None:
        axis.axhline(table["teacher"], ls="--", color="#4c566a", lw=1)
        axis.text(len(table["methods"]) - 0.6, table["teacher"], " teacher", color="#4c566a", va="bottom")
    axis.set(
        xticks=range(len(table["methods"])),
        xticklabels=list(table["methods"]),
        ylabel=f"{table['metric']} ({unit})",
        xlim=(-0.6, len(table["methods"]) - 0.2),
    )
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    save_figure(figure, path)


COMMAND = Command(
    "compare", "Compare methods over seeds, for the same number of epochs.", add_arguments, run, EPILOG
)

if __name__ == "__main__":
    main_of(COMMAND)
