"""Scoring the models of a run on its test split or on other data: ``python -m srrl.evaluate RUN``."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from srrl.cli import Command, main_of
from srrl.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from srrl.config import RunSettings
    from srrl.runs import RunFolder
    from srrl.task import Data, Task

FORMATS = ("ibug", "wflw", "300w", "cofw", "aflw", "coco", "csv")


def measure(
    task: Task, cfg: RunSettings, run: RunFolder, data: Data, models: dict[str, nn.Module]
) -> dict[str, Any]:
    """results.json: the task's metrics, size and speed of each model on ``data.test``."""
    import os

    from srrl.inspection import count_macs, count_parameters
    from srrl.speed import latency

    one, many = (
        latency(models, data.image_size),
        latency(models, data.image_size, thread_count=os.cpu_count() or 1),
    )
    results: dict[str, Any] = {
        "task": task.name,
        "method": cfg.method,
        "seed": cfg.seed,
        "dataset": data.name,
        "split": data.details.get("split", "test"),
        "protocol": data.protocol,
    }
    for name, model in models.items():
        results[name] = {
            **task.evaluate(task.as_scored(name, model, data.test, cfg), data.test, cfg, full=True),
            "params": count_parameters(model),
            "macs": count_macs(model, data.image_size),
            "size_bytes": run.weights(name).stat().st_size,
            "latency_ms_p50": one[name]["p50"],
            "latency_ms_p95": one[name]["p95"],
            "latency_ms_p50_all_threads": many[name]["p50"],
            "latency_ms_p95_all_threads": many[name]["p95"],
        }
        last = run.weights(f"{name}-last")
        if name != "teacher" and last.is_file():
            results[name]["last_epoch"] = _last(task, cfg, model, last, name, data)
        if name != "teacher" and (stages := _stages(task, cfg, run, name, data)):
            results[name]["stages"] = stages | {"final": {task.metric: results[name][task.metric]}}
    return results | task.reference(data, cfg)


def _last(
    task: Task, cfg: RunSettings, model: nn.Module, weights: Path, name: str, data: Data
) -> dict[str, Any]:
    """The figures of the last epoch's weights, which are not chosen by anything."""
    from copy import deepcopy

    from srrl.checkpoint import load_weights

    model = deepcopy(model)
    load_weights(model, weights, "student", phase=name)
    return task.evaluate(task.as_scored(name, model, data.test, cfg), data.test, cfg)


def _stages(task: Task, cfg: RunSettings, run: RunFolder, name: str, data: Data) -> dict[str, Any]:
    """The figures at the end of each training before the last, by its name; empty where there is one only."""
    from srrl.checkpoint import load_weights

    found = {}
    for suffix, stage in task.stages(cfg)[:-1]:
        weights = run.weights(name + suffix)
        if weights.is_file():
            model = task.build_student(stage)
            load_weights(model, weights, name + suffix, phase=name + suffix)
            scored = task.as_scored(name, model.eval(), data.test, stage)
            found[suffix.lstrip("-")] = task.evaluate(scored, data.test, stage)
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder that train made, or shipped:NAME")
    parser.add_argument("--model", choices=["teacher", "student", "baseline", "all"], default="all")
    parser.add_argument("--data", metavar="PATH", help="other data than the run's test split")
    parser.add_argument(
        "--format",
        metavar="F",
        help=f"format of --data: {', '.join(FORMATS)} (faces), or folder, cifar10, … (classifiers); found by itself if left out",
    )
    parser.add_argument(
        "--box",
        choices=["landmark", "given", "detector"],
        help="what the crop is made from (faces; default: as in the run)",
    )
    parser.add_argument("--flip-test", action="store_true", help="average with the mirrored picture (faces)")
    parser.add_argument("--json", metavar="FILE", help="write the figures here, in the shape of results.json")


def run(args: argparse.Namespace) -> int:
    from srrl.api import open_run
    from srrl.report import side_by_side
    from srrl.runs import check_writable, write_json

    check_writable("--json", args.json)
    if args.format and not args.data:
        raise UserError("--format says what --data is: give both")
    opened = open_run(args.run, None if args.model == "all" else args.model)
    fields = (type(opened.cfg).model_fields, type(opened.cfg.data).model_fields)
    for option, given, known in (
        ("--flip-test", args.flip_test, "flip_test" in fields[0]),
        ("--box", args.box, "box" in fields[1]),
    ):
        if given and not known:
            raise UserError(f"{option} is for faces, not for {opened.cfg.task}")
    changes: dict[str, Any] = {}
    if args.data:
        changes |= {"data": {"train": None, "val": None, "test": args.data, "format": args.format}}
    if args.box:
        changes.setdefault("data", {})["box"] = args.box
    if args.flip_test:
        changes["flip_test"] = True
    cfg = opened.changed(changes)
    data = opened.task.prepare(cfg, lambda text: print(text, file=sys.stderr), evaluation=True)
    results = measure(opened.task, cfg, opened.run, data, opened.models())
    if args.json:
        from pathlib import Path

        write_json(Path(args.json), results)
    print(
        f"{results['dataset']}, split {results['split']} ({len(data.test)} samples), protocol {results['protocol']}\n"
    )
    print(side_by_side(opened.task, results, opened.names))
    return 0


EPILOG = """examples:
  python -m srrl.evaluate runs/faces/001                             the run's own test split again
  python -m srrl.evaluate runs/faces/001 --data photos/ --box detector --json photos.json
  python -m srrl.evaluate runs/faces/001 --model student --flip-test
  python -m srrl.evaluate shipped:faces68 --data photos/             the landmarks that come with srrl

Prints accuracy, size and latency of each model side by side; --json has the shape of the run's results.json. Data are
cropped around the labelled landmarks (landmark), their own rectangles (given) or found faces (detector)."""

COMMAND = Command("evaluate", "Score the models of a run.", add_arguments, run, EPILOG)

if __name__ == "__main__":
    main_of(COMMAND)
