"""The cells of a comparison: runs from one shared teacher, each in a folder and a process of its own, resumable."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
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
    from srrl.config import differences, resolve
    from srrl.distillers import distiller_class
    from srrl.distillers.base import MethodSettings
    from srrl.runs import RunFolder

    loss = set(MethodSettings.model_fields)
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
        expected.append((out / cell.name, skip, settings_of(task, cfg, cell)))
    for folder, skip, settings in expected:
        made = RunFolder(folder)
        if not made.config.is_file():
            continue
        # resolved, so that a setting which came later has its default in an older folder
        keys = differences(resolve(task.settings, made.settings()), settings)
        keys = [k for k in keys if k not in skip and k.partition(".")[0] not in skip]
        if keys:
            raise UserError(
                f"{folder} was made with other settings ({', '.join(keys)}): give those that it was made with, remove it, or name another --out"
            )


def settings_of(task: Task, cfg: RunSettings, cell: Cell) -> RunSettings:
    """What the cell's run is made with."""
    from srrl.config import apply_overrides, resolve

    own = [*cell.settings, f"method={cell.method}", f"seed={cell.seed}", "baseline=false"]
    return resolve(task.settings, apply_overrides(cfg.model_dump(mode="json"), own))


def check_methods(task: Task, cfg: RunSettings, cells: list[Cell]) -> None:
    """Builds what each cell trains, once the data have said what ``cfg`` leaves open. UserError where something does not fit."""
    from srrl.pipeline import check_method_fits

    for cell in {(c.method, c.settings): c for c in cells}.values():
        check_method_fits(task, settings_of(task, cfg, cell))


def shared_teacher(task: Task, cfg: RunSettings, folder: Path, cells: list[Cell]) -> Path:
    """The shared teacher's weights, trained where they are not there yet.

    Before that, all that the cells need is tried: UserError then, and nothing is left behind.
    """
    from srrl.checkpoint import check_weights
    from srrl.interrupt import GracefulStop
    from srrl.lock import held
    from srrl.pipeline import Pipeline
    from srrl.runs import RunFolder

    run = RunFolder(folder)
    done = folder / "finished"
    if not done.is_file():
        # of no method: what the cells need is checked for each; a whole copy, into which the data write what they say
        own = cfg.model_copy(deep=True, update={"method": "none"})
        folder.mkdir(parents=True, exist_ok=True)
        with GracefulStop() as stop, held(folder) as ours:
            if not ours:
                raise RunError(
                    f"{folder} is being trained by another process: wait for it, or name another --out"
                )
            run.clear()
            try:
                Pipeline(task, own, run, stop=stop).teach(lambda: check_methods(task, own, cells))
            except UserError:
                if not (folder / "checkpoints").exists():
                    shutil.rmtree(folder, ignore_errors=True)
                raise
        done.touch()
    if run.weights("teacher").is_file():  # the cells are given the file, and take what it holds
        check_weights(run.weights("teacher"), "teacher")
    return run.weights("teacher")


def check_teacher(out: Path, cells: list[Cell], checkpoint: str | Path) -> None:
    """UserError where a cell of OUT learned from another teacher than the one in this file or run folder."""
    import torch

    from srrl.checkpoint import read_weights
    from srrl.distillers import distiller_class
    from srrl.pipeline import weights_of
    from srrl.runs import RunFolder

    runs = [RunFolder(out / c.name) for c in cells if distiller_class(c.method).needs_teacher]
    runs = [run for run in runs if run.weights("teacher").is_file()]
    expected = read_weights(weights_of(str(checkpoint), "teacher")) if runs else {}
    for run in runs:
        found = read_weights(run.weights("teacher"))
        if found.keys() != expected.keys() or not all(torch.equal(found[k], v) for k, v in expected.items()):
            raise UserError(
                f"{run.path} learned from another teacher than {checkpoint}: give those that it was made with, remove it, or name another --out"
            )


def run_cells(out: Path, cells: list[Cell], jobs: int) -> dict[Cell, dict[str, Any]]:
    """Every cell's results, ``jobs`` at a time. A signal is passed on to the running cells, which save a checkpoint."""
    from srrl.interrupt import GracefulStop, Interrupted

    running: set[subprocess.Popen] = set()
    with GracefulStop() as stop, ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(_run, out, cell, jobs, running, stop): cell for cell in cells}
        try:
            done, _ = wait(waiting, return_when=FIRST_EXCEPTION)
            errors = [future.exception() for future in done if future.exception() is not None]
            # where a cell failed, the others were stopped because of it
            for error in sorted(errors, key=lambda e: not isinstance(e, (UserError, RunError))):
                raise error
            return {cell: future.result() for future, cell in waiting.items()}
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
    from srrl.lock import is_held
    from srrl.runs import read_mapping

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
        # what a comparison that was killed left behind was training it, and has ended meanwhile
        if status == 2 and results.is_file():
            return read_mapping(results)
        if status:
            stop.requested = signal.SIGTERM  # nothing new is begun
            if status == 2 and is_held(out / cell.name):  # what a comparison that was killed left behind
                raise UserError(
                    f"{out / cell.name} is being trained by another process: wait for it, or stop that one first"
                )
            if status == 2:  # what it was given does not fit, and would not the next time
                raise UserError(f"{cell.name}: {_last_line(Path(log.name))}")
            raise RunError(
                f"{cell.name} ended with status {status}: see {log.name}; run the same command again to go on"
            )
    return read_mapping(results)


def _last_line(log: Path) -> str:
    """What a command said last, less its own name before it."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return re.sub(r"^(\S+: )?error: ", "", lines[-1]) if lines else f"see {log}"


def train_command(out: Path, cell: Cell) -> list[str]:
    """What begins the cell's run, or goes on with it."""
    folder = out / cell.name
    command = [sys.executable, "-m", "srrl.train"]
    if (folder / "config.yaml").is_file():
        return [*command, "--resume", str(folder)]
    settings = [f"method={cell.method}", f"seed={cell.seed}", "baseline=false", *cell.settings]
    return [*command, "-c", str(out / "config.yaml"), "--run-dir", str(folder), *settings]
