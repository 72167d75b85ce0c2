"""Methods × seeds at the same budget from one trained teacher, with paired differences: ``python -m srrl.compare``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from srrl.cli import Command, at_most, main_of
from srrl.errors import UserError

if TYPE_CHECKING:
    from srrl.config import RunSettings
    from srrl.task import Data, Task

EPILOG = """examples:
  python -m srrl.compare --task faces --out table
  python -m srrl.compare --task classification --methods none,kd,srrl,fitnet:0,at:0+1 --seeds 0,1,2 --out table
  python -m srrl.compare --task classification --probe stl10:ROOT --out table
  python -m srrl.compare --task classification --out table --grid
  python -m srrl.compare --task classification --out table --grid "srrl:1,1 srrl:1,5 kd:kd_weight=0.5 kd:kd_weight=1"
  python -m srrl.compare --task classification --out table --tuned table/table-grid.json
  python -m srrl.compare --task classification --out table --methods none,kd,srrl --grid "optim.lr=0.02 optim.lr=0.05"

Every cell is a run folder OUT/<method>-seed<n>; a finished cell is never run again, an interrupted one is resumed,
and one that was made with other settings ends the command.
The teacher is trained once, in OUT/teacher, unless teacher=… names one or (synthetic faces) one comes with the package. All methods get the same epochs,
data order, augmentation and initial weights a seed. Differences are paired by seed, with Student's t interval.

--grid tunes before you compare: its cells, OUT/<method>-<key>=<value>-…-seed<n>, are scored on the validation split and
the test split is not read; table-grid.md names the best mean. A trial is key=value[,key=value …] of the settings that its
method reads, or of the optimiser (optim.…), and 1,5 is short for alpha=1,beta=5. It is one of METHOD in METHOD:TRIAL,
else one of every method of --methods, so that each can be given as many trials as the others. Afterwards
--tuned OUT/table-grid.json compares every method with the settings chosen for it."""

METHODS = "none,kd,srrl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from srrl.grid import PAIRS

    parser.add_argument(
        "overrides", nargs="*", metavar="key.sub=value", help="settings on top of the config file"
    )
    parser.add_argument("--task", metavar="NAME", help="what to train, as in train")
    parser.add_argument("-c", "--config", metavar="FILE", help="YAML file with settings")
    parser.add_argument(
        "--methods",
        help="comma-separated: none (no teacher), kd (Hinton's), srrl (default: these three), fitnet, at, ofd, rkd, crd, "
        "dkd, dist, simkd, reviewkd, srrl_pooled, srrl_stages, srrl_head; METHOD:0 or METHOD:0+1 gives one its own seeds",
    )
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated (default 0,1,2)")
    parser.add_argument(
        "--grid",
        nargs="?",
        const=PAIRS,
        metavar="TRIALS",
        help=f"tune on the validation split instead: trials with spaces between, in quotes (default {PAIRS!r}: alpha, "
        "beta of srrl); see below",
    )
    parser.add_argument(
        "--tuned", metavar="FILE", help="table-grid.json, whose chosen settings each of its methods gets"
    )
    parser.add_argument(
        "--probe",
        metavar="DATA",
        help="also fit a linear classifier on each network's frozen features for another labelled data set: a folder or "
        ".tar file with train/ and test/, digits, or cifar10:ROOT, cifar100:ROOT, stl10:ROOT, svhn:ROOT, imagenet:ROOT",
    )
    parser.add_argument(
        "--out", metavar="DIR", required=True, help="where cells and tables go; may exist, to go on"
    )
    parser.add_argument("--jobs", type=at_most(256), default=1, help="cells at a time (default 1)")
    parser.set_defaults(quick=False)


def run(args: argparse.Namespace) -> int:
    from srrl.cells import (
        Cell,
        check_cells,
        check_teacher,
        needs_teacher,
        run_cells,
        settings_of,
        shared_teacher,
    )
    from srrl.comparison import tabulate, write_comparison
    from srrl.config import dump
    from srrl.grid import read_tuned, tabulate_grid, write_grid
    from srrl.interrupt import Interrupted
    from srrl.pipeline import weights_of
    from srrl.runs import check_writable, write_text
    from srrl.train import resolve_settings

    for key, instead in (
        ("method", "name them with --methods"),
        ("baseline", "it is the row of method none"),
    ):
        if any(text.partition("=")[0].strip() == key for text in args.overrides):
            raise UserError(f"{key}=… is for a single run; here {instead}")
    task, cfg = resolve_settings(args)
    if args.grid is not None and (args.probe is not None or args.tuned is not None):
        raise UserError("--grid tunes on validation; leave it out to compare with --tuned or --probe")
    seeds = parse_seeds(args.seeds, "--seeds", ",")
    methods = parse_methods(args.methods or ("srrl" if args.grid is not None else METHODS), seeds)
    tuned = read_tuned(args.tuned) if args.tuned is not None else {"settings": {}}
    trials = {m: [tuned["settings"].get(m, ())] for m in methods}
    if args.grid is not None:
        trials = _trials(args, methods, task, cfg)
        methods = {m: methods.get(m, seeds) for m in trials}
        cfg.score = "val"
    every_seed = dict.fromkeys(s for own in methods.values() for s in own)
    cells = [
        Cell(method, seed, settings, in_grid=args.grid is not None)
        for seed in every_seed
        for method, own in methods.items()
        if seed in own
        for settings in trials[method]
    ]
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is not a folder")
    if _is_run(out):
        raise UserError(
            f"--out {out} is the folder of a run: name another one, so that nothing of the run is lost"
        )
    check_writable("--out", str(out / "config.yaml"))
    check_cells(task, out, cfg, cells)
    if cfg.teacher.checkpoint is not None and needs_teacher(cells):
        weights_of(cfg.teacher.checkpoint, "teacher")
    for cell in cells:
        task.check(settings_of(task, cfg, cell))
    probe_data = _probe_data(task, args.probe, cfg) if args.probe else None
    out.mkdir(parents=True, exist_ok=True)
    try:
        if cfg.teacher.checkpoint is None and needs_teacher(cells):
            cfg.teacher.checkpoint = str(shared_teacher(task, cfg, out / "teacher", cells))
        if needs_teacher(cells):
            check_teacher(out, cells, cfg.teacher.checkpoint)
        write_text(out / "config.yaml", dump(cfg))
        finished = run_cells(out, cells, args.jobs)
    except Interrupted:
        print("\ninterrupted; run the same command again to go on", file=sys.stderr)
        raise
    if args.grid is not None:
        write_grid(tabulate_grid(finished, task.metric, task.higher), out, task)
        print((out / "table-grid.md").read_text(encoding="utf-8"))
        return 0
    probe = None
    if probe_data is not None:
        from srrl.probe import probe_cells

        probe = probe_cells(task, args.probe, probe_data, out, cells, lambda text: print(text, flush=True))
    results = {(cell.method, cell.seed): found for cell, found in finished.items()}
    table = tabulate(results, methods, task.metric, task.higher, probe)
    write_comparison(table | ({"tuned": tuned} if args.tuned else {}), out, task)
    print((out / "table.md").read_text(encoding="utf-8"))
    return 0


def _is_run(out: Path) -> bool:
    """Whether a training made this folder: a comparison has settings there as well, but nothing else of a run."""
    from srrl.lock import NAME

    made = ("metrics.csv", "results.json", "environment.json", "weights", "checkpoints", NAME)
    return (out / "config.yaml").is_file() and any((out / name).exists() for name in made)


def parse_seeds(text: str, option: str, separator: str) -> list[int]:
    """Seeds with ``separator`` between. Raises UserError, naming the option, for anything else and for one given twice."""
    parts = [part.strip() for part in text.split(separator)]
    if not all(part.isdecimal() for part in parts):
        example = separator.join("012")
        raise UserError(
            f"{option} {text!r}: expected whole numbers with {separator!r} between, such as {example}"
        )
    seeds = [int(part) for part in parts]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{option} {text!r}: a seed stands there twice")
    return seeds


def parse_methods(text: str, seeds: list[int]) -> dict[str, list[int]]:
    """``none,srrl,fitnet:0,at:0+1`` → the seeds of each method: its own ones, or ``seeds``. Raises UserError."""
    from srrl.distillers import check_method

    methods: dict[str, list[int]] = {}
    for part in text.split(","):
        name, colon, own = part.strip().partition(":")
        if check_method(name) in methods:
            raise UserError(f"--methods {text!r}: {name} stands there twice")
        methods[name] = parse_seeds(own, f"--methods {name}:", "+") if colon else seeds
    return methods


def _trials(args: argparse.Namespace, methods: dict[str, list[int]], task: Task, cfg: RunSettings) -> dict:
    """The trials of every method of the grid; UserError where a method that was named has none."""
    from srrl.grid import parse_grid

    trials = parse_grid(args.grid, list(methods), task, cfg)
    without = [m for m in methods if m not in trials] if args.methods else []
    if without:
        raise UserError(f"--grid {args.grid!r} has no trial of {without[0]}: add {without[0]}:key=value")
    return trials


def _probe_data(task: Task, source: str, cfg: RunSettings) -> Data:
    """The probe's data, read before anything is trained, so that what is wrong with it is said at once."""
    try:
        return task.probe_data(source, cfg, lambda text: None)
    except UserError as error:
        raise UserError(f"--probe {source}: {error}") from None


COMMAND = Command(
    "compare", "Compare methods over seeds, for the same number of epochs.", add_arguments, run, EPILOG
)

if __name__ == "__main__":
    main_of(COMMAND)
