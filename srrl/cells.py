"""The cells of a comparison: runs from one shared teacher, each in a folder and a process of its own, resumable."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srrl.errors import RunError, UserError

if TYPE_CHECKING:
    from srrl.config import RunSettings
    from srrl.interrupt import GracefulStop
    from srrl.task import Task


@dataclass(frozen=True)
class Cell:
    """One run: a method, a seed and settings of the method's own (``key=value``), which a grid tries and names it by."""

    method: str
    seed: int
    settings: tuple[str, ...] = ()
    in_grid: bool = False

    @property
    def name(self) -> str:
        """Of its folder: ``srrl-seed0``, in a grid ``srrl-alpha=1-beta=5-seed0``."""
        tried = self.settings if self.in_grid else ()
        return re.sub(r"[^\w.+=-]+", "_", "-".join((self.method, *tried, f"seed{self.seed}")))


def needs_teacher(cells: list[Cell]) -> bool:
    """Whether any of the methods learns from a teacher."""
    from srrl.distillers import distiller_class

    return any(distiller_class(cell.method).needs_teacher for cell in cells)


def check_cells(task: Task, out: Path, cfg: RunSettings, cells: list[Cell]) -> None:
    """UserError where OUT holds a teacher or a cell that these settings would not have made."""
    from srrl.config import apply_overrides, differences, read_yaml, resolve
    from srrl.distillers import distiller_class
    from srrl.distillers.base import MethodSettings

    loss = set(MethodSettings.model_fields)
    base = cfg.model_dump(mode="json")
    # named by the cell, without effect, or written into the cell's settings by its data
    unread = {"method", "seed", "baseline", "threads", "data.workers", "teacher.memory", "teacher.memory_gb"}
    unread |= task.open_to_data(cfg)
    expected = []
    if cfg.teacher.checkpoint is None and needs_teacher(cells):
        skip = unread | loss | {"student", "teacher.checkpoint", "score"}
        expected.append((out / "teacher", skip | ({"epochs"} if cfg.teacher.epochs else set()), cfg))
    for cell in cells:
        method = distiller_class(cell.method)
        skip = unread | loss - set(method.reads)
        # the teacher's own settings are compared in its folder, and mean nothing to a method without one
        if cfg.teacher.checkpoint is None or not method.needs_teacher:
            skip |= {"teacher"}
        own = resolve(task.settings, apply_overrides(base, list(cell.settings)))
        expected.append((out / cell.name, skip, own))
    for folder, skip, settings in expected:
        made = folder / "config.yaml"
        if not made.is_file():
            continue
        # resolved, so that a setting which came later has its default in an older folder
        keys = differences(resolve(task.settings, read_yaml(made)), settings)
        keys = [k for k in keys if k not in skip and k.partition(".")[0] not in skip]
        if keys:
            raise UserError(
                f"{folder} was made with other settings ({', '.join(keys)}): remove it, or name another --out"
            )


def shared_teacher(task: Task, cfg: RunSettings, folder: Path) -> Path:
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


def run_cells(out: Path, cells: list[Cell], jobs: int) -> dict[Cell, dict[str, Any]]:
    """Every cell's results, ``jobs`` at a time. A signal is passed on to the running cells, which save a checkpoint."""
    from srrl.interrupt import GracefulStop, Interrupted

    running: set[subprocess.Popen] = set()
    with GracefulStop() as stop, ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(_run, out, cell, jobs, running, stop) for cell in cells]
        try:
            return dict(zip(cells, (future.result() for future in waiting), strict=True))
        except BaseException as error:
            stop.requested = error.signum if isinstance(error, Interrupted) else signal.SIGTERM
            for process in list(running):
                process.send_signal(stop.requested)
            raise


def _run(
    out: Path, cell: Cell, jobs: int, running: set[subprocess.Popen], stop: GracefulStop
) -> dict[str, Any]:
    """One run in a process of its own, which stands in ``running`` meanwhile; what its results.json holds."""
    import os

    from srrl.interrupt import Interrupted

    if stop.requested is not None:  # nothing new is begun
        raise Interrupted(stop.requested)
    results = out / cell.name / "results.json"
    if not results.is_file():
        threads = max(1, (os.cpu_count() or 1) // jobs)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        with open(out / f"{cell.name}.log", "ab") as log:
            process = subprocess.Popen(
                train_command(out, cell),
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
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
                f"{cell.name} ended with status {status}: see {log.name}; run the same command again to go on"
            )
    return json.loads(results.read_text(encoding="utf-8"))


def train_command(out: Path, cell: Cell) -> list[str]:
    """What begins the cell's run, or goes on with it."""
    folder = out / cell.name
    command = [sys.executable, "-m", "srrl.train"]
    if (folder / "config.yaml").is_file():
        return [*command, "--resume", str(folder)]
    settings = [f"method={cell.method}", f"seed={cell.seed}", "baseline=false", *cell.settings]
    return [*command, "-c", str(out / "config.yaml"), "--run-dir", str(folder), *settings]
