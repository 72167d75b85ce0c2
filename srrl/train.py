"""Training from the command line: ``python -m srrl.train --task faces``."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from srrl.cli import Command, main_of
from srrl.errors import UserError
from srrl.task import BUILT_IN

if TYPE_CHECKING:
    from srrl.config import RunSettings
    from srrl.runs import RunFolder
    from srrl.task import Task

EPILOG = """examples:
  python -m srrl.train --task faces                                  synthetic faces, the teacher that comes with srrl
  python -m srrl.train --task faces teacher=scratch                  … and a teacher of your own
  python -m srrl.train --task faces -c configs/faces-pts.yaml data.train=photos/
  python -m srrl.train --task faces method=kd epochs=20 student.width=24
  python -m srrl.train --resume runs/faces/001

exit status: 0 done, 1 failed while running, 2 wrong usage or input, 129/130/143 interrupted after a checkpoint"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides", nargs="*", metavar="key.sub=value", help="settings on top of the config file"
    )
    what = parser.add_argument_group("what to train")
    what.add_argument(
        "--task", metavar="NAME", help=f"{', '.join(BUILT_IN)}, or a task that an installed plugin brings"
    )
    what.add_argument("-c", "--config", metavar="FILE", help="YAML file with settings")
    what.add_argument(
        "--quick",
        action="store_true",
        help="a short run that shows everything works; a config file and settings go on top",
    )
    where = parser.add_argument_group("where")
    where.add_argument(
        "--run-dir", metavar="DIR", help="new run folder (default: the next number under runs/<task>/)"
    )
    where.add_argument("--resume", metavar="RUN", help="go on with an interrupted run")
    look = parser.add_argument_group("look first")
    look.add_argument("--print-config", action="store_true", help="print the resolved settings and stop")
    look.add_argument(
        "--dry-run", action="store_true", help="one batch of every phase in a temporary folder, then stop"
    )


def resolve_settings(args: argparse.Namespace) -> tuple[Task, RunSettings]:
    """Task and settings of the command line: task defaults < --quick < config file < overrides."""
    from srrl.config import apply_overrides, merged, read_yaml, resolve
    from srrl.distillers import check_method
    from srrl.task import get_task, task_names

    given = read_yaml(args.config) if args.config else {}
    given = apply_overrides(given, args.overrides)
    name = args.task or given.get("task")
    if not name:
        raise UserError(f"no task: give --task with one of {', '.join(task_names())}")
    if args.task and given.get("task", args.task) != args.task:
        raise UserError(f"--task {args.task} does not fit the config, which is for task {given['task']!r}")
    task = get_task(name, given)
    quick = task.quick if args.quick else {}
    chosen = merged(quick, given)
    cfg = resolve(task.settings, task.filled(chosen), chosen, {"task": name})
    check_method(cfg.method)
    return task, cfg


def run(args: argparse.Namespace) -> int:
    if args.resume:
        return _resume(args)
    task, cfg = resolve_settings(args)
    from srrl.config import dump

    if args.print_config:
        print(dump(cfg), end="")
        return 0
    if args.dry_run:
        return _dry_run(task, cfg)
    from srrl.processes import from_first, is_first, job, restarted
    from srrl.runs import RunFolder

    if restarted() and args.run_dir is None:
        raise UserError("torchrun starts the command anew, and it cannot know its run: give --run-dir DIR")
    if args.run_dir is not None:
        given = RunFolder(args.run_dir)
        if given.is_of(job()) or (restarted() and given.config.is_file()):
            return _go_on(given)
    folder = RunFolder(from_first(lambda: str(RunFolder.create(cfg.task, args.run_dir).path)))
    with _ours(folder):
        try:
            if is_first():  # at once: a signal from here on leaves a run that can go on
                folder.begin(dump(cfg), job())
            return _train(task, cfg, folder)
        except UserError:
            # nothing was trained: leave no empty run behind, and that while it is still ours
            if is_first() and not (folder.path / "checkpoints").exists():
                shutil.rmtree(folder.path, ignore_errors=True)
            raise


def _resume(args: argparse.Namespace) -> int:
    from srrl.runs import RunFolder

    others = (
        args.overrides,
        args.config,
        args.task,
        args.run_dir,
        args.quick,
        args.dry_run,
        args.print_config,
    )
    if any(others):
        raise UserError("--resume takes a run as it is: leave out the other arguments")
    return _go_on(RunFolder.open(args.resume))


def _go_on(folder: RunFolder) -> int:
    """The rest of a run."""
    from srrl.config import resolve
    from srrl.processes import is_first
    from srrl.runs import read_mapping
    from srrl.task import get_task

    if folder.results.is_file():
        read_mapping(folder.results)  # or it is damaged, and says so
        print(f"{folder.path} is finished: see {folder.report}")
        return 0
    values = folder.settings()
    task = get_task(values.get("task", ""), values)
    with _ours(folder):
        if is_first():
            folder.clear()
        return _train(task, resolve(task.settings, values), folder)


@contextlib.contextmanager
def _ours(folder: RunFolder) -> Iterator[None]:
    """The run belongs to this training within the block. Raises UserError, in every process, while another has it."""
    from srrl.lock import held
    from srrl.processes import from_first

    with contextlib.ExitStack() as stack:

        def take() -> str:
            if not stack.enter_context(held(folder.path)):
                raise UserError(
                    f"{folder.path} is being trained by another process: wait for it, or stop that one first"
                )
            return ""

        from_first(take)
        yield


def _train(task: Task, cfg: RunSettings, folder: RunFolder) -> int:
    from srrl.interrupt import GracefulStop, Interrupted
    from srrl.pipeline import Pipeline
    from srrl.processes import is_first, world_size

    with GracefulStop() as stop:
        try:
            _header(cfg, folder)
            Pipeline(task, cfg, folder, stop=stop, say=_say).run()
        except Interrupted:
            if is_first():
                start = f"torchrun --nproc-per-node {world_size()} -m" if world_size() > 1 else "python -m"
                print(
                    f"\ninterrupted; go on with: {start} srrl.train --resume {shlex.quote(str(folder.path))}",
                    file=sys.stderr,
                )
            raise
    return 0


def _dry_run(task: Task, cfg: RunSettings) -> int:
    """Every phase for one batch on the real data, in a folder that is removed again."""
    import tempfile
    from pathlib import Path

    from srrl.interrupt import GracefulStop
    from srrl.pipeline import Pipeline
    from srrl.processes import from_first, is_first
    from srrl.runs import RunFolder

    cfg = task.brief(cfg)
    folder = Path(from_first(lambda: tempfile.mkdtemp(prefix="srrl-dry-run-")))
    try:
        with GracefulStop() as stop:
            Pipeline(task, cfg, RunFolder(folder), stop=stop, say=_say, batches=1).run()
    finally:
        if is_first():
            shutil.rmtree(folder, ignore_errors=True)
    _say("dry run: every phase works")
    return 0


def _header(cfg: RunSettings, folder: RunFolder) -> None:
    from srrl.config import dump
    from srrl.distillers import distiller_class
    from srrl.distillers.base import MethodSettings
    from srrl.runs import environment

    info = environment()
    versions = ", ".join(f"{k} {v}" for k, v in info["packages"].items())
    _say(f"srrl {info['srrl']}, python {info['python']}, {versions}")
    _say(
        f"device: {info['device']} ({info['cpu_capability']}, {info['threads']} threads)   run folder: {folder.path}"
    )
    others = set(MethodSettings.model_fields) - set(distiller_class(cfg.method).reads)
    lines = dump(cfg, leave_out=others).splitlines()
    _say(f"config: (weights of other methods than {cfg.method} are left out here, config.yaml has them)")
    _say("\n".join(f"  {line}" for line in lines))


def _say(text: str) -> None:
    from srrl.interrupt import surviving_terminal
    from srrl.processes import is_first

    if is_first():
        with surviving_terminal():
            print(text, flush=True)


COMMAND = Command("train", "Train a teacher, a baseline and a distilled student.", add_arguments, run, EPILOG)

if __name__ == "__main__":
    main_of(COMMAND)
