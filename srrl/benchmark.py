"""Speed of a run's networks, of its training step and of its training epoch: ``python -m srrl.benchmark RUN``."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from srrl.cli import Command, at_most, main_of
from srrl.errors import UserError

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import Dataset

    from srrl.config import OptimSettings, RunSettings
    from srrl.distillers.base import Distiller
    from srrl.task import Task

IDLE = 1e-9  # learning rate: weights stay as they are, however long the measurement


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="RUN",
        help="a run folder that train made, however far it is, or shipped:NAME; or key.sub=value … with --task or --config",
    )
    parser.add_argument("--task", metavar="NAME", help="measure settings of this task instead of a run")
    parser.add_argument("-c", "--config", metavar="FILE", help="measure the settings in a YAML file")
    parser.add_argument(
        "--rounds",
        type=at_most(100_000),
        default=15,
        help="interleaved repetitions of the training step and of the epoch (default 15)",
    )
    parser.add_argument(
        "--batches",
        type=at_most(1_000_000),
        default=10,
        help="of a training epoch, in each repetition (default 10)",
    )
    parser.add_argument("--batch-size", type=at_most(1_000_000), help="of the training (default: the run's)")
    parser.add_argument("--skip-epoch", action="store_true", help="leave out the epoch, which reads the data")
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    parser.set_defaults(quick=False)  # what srrl.train's settings also look at


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    if not (args.task or args.config) and len(args.overrides) != 1:
        raise UserError(
            "expected one run folder; or settings key.sub=value with --task NAME or --config FILE"
        )
    from srrl.runs import check_writable, environment, write_json
    from srrl.speed import latency, threads

    check_writable("--json", args.json)
    task, cfg = settings_of(args)
    task.check(cfg)
    cfg.teacher.pretrained = cfg.student.pretrained = False  # weights do not change the time
    data = None
    if not args.skip_epoch or task.open_to_data(cfg):
        data = task.prepare(cfg, print)
    models, size = networks(task, cfg), args.batch_size or cfg.batch_size
    faster = {f"student, {form}": m for form, m in task.faster_forms(models["student"]).items()}
    width = max(map(len, models | faster))
    counts = sorted({1, os.cpu_count() or 1})
    result: dict[str, Any] = {"environment": environment(), "latency_ms": {}}
    for count in counts:
        found = latency(models | faster, task.image_size(cfg), thread_count=count)
        result["latency_ms"][f"{count} threads"] = found
        for name, v in found.items():
            print(f"{name:{width}s} batch 1, {_threads(count)}: p50 {v['p50']:.2f} ms, p95 {v['p95']:.2f} ms")
    if cfg.method == "srrl":
        result["step"] = step_against_floor(task, cfg, size, args.rounds)
        _print_step(result["step"])
    if not args.skip_epoch:
        teacher, samples = None, data.train
        if "teacher" in models:
            teacher, samples = task.teaching(models["teacher"], data, cfg, print)
        result["epoch"] = {}
        for count in counts:
            with threads(count):
                found = epoch_against_floor(task, cfg, teacher, samples, size, args.batches, args.rounds)
            result["epoch"][f"{count} threads"] = found
            print(
                f"training epoch, batch {found['batch_size']}, {_threads(count)}: {found['epoch images/s']:.0f} images/s = "
                f"{found['ratio']:.3f} × its floor {found['floor images/s']:.0f} (teacher forward + student step, data in "
                f"memory); loader alone {found['loader images/s']:.0f}; {args.rounds} times {found['batches']} batches"
            )
    if args.json:
        write_json(Path(args.json), result)
    return 0


def settings_of(args: argparse.Namespace) -> tuple[Task, RunSettings]:
    """Task and settings of the run folder, or of the command line where that names a task or a file."""
    from srrl.config import resolve
    from srrl.runs import RunFolder
    from srrl.task import get_task
    from srrl.train import resolve_settings

    if args.task or args.config:
        return resolve_settings(args)
    values = RunFolder.open(args.overrides[0]).settings()
    task = get_task(values.get("task", ""), values)
    return task, resolve(task.settings, values)


def networks(task: Task, cfg: RunSettings) -> dict[str, nn.Module]:
    """The untrained networks that a run with these settings makes."""
    from srrl.distillers import distiller_class

    method, student = distiller_class(cfg.method), task.build_student(cfg)
    if not method.needs_teacher:
        return {"student": student}
    teacher = task.build_teacher(cfg)
    return {"teacher": teacher, "student": method.deployed(student, teacher)}


def step_against_floor(task: Task, cfg: RunSettings, batch_size: int, rounds: int) -> dict[str, float]:
    """Milliseconds (medians) of the SRRL training step and of the three things it cannot do without, interleaved.

    Floor = teacher forward + plain student step + the teacher head's forward and backward on the connected map.
    """
    import numpy as np
    import torch

    from srrl.config import OptimSettings
    from srrl.distillers import build_distiller
    from srrl.trainer import make_accelerator

    accelerator = make_accelerator(cfg.precision)
    criterion, settings = task.criterion(cfg), cfg.method_settings()
    optim = OptimSettings(lr=IDLE)
    torch.manual_seed(0)
    batch = {k: v.to(accelerator.device) for k, v in task.example_batch(cfg, batch_size).items()}
    full = build_distiller("srrl", task.build_student(cfg), task.build_teacher(cfg), criterion, settings)
    plain = build_distiller("none", task.build_student(cfg), None, criterion, settings)
    srrl_step, plain_step = (_training_step(d, accelerator, optim) for d in (full, plain))
    parts = {"srrl step": lambda: srrl_step(batch), "student step": lambda: plain_step(batch)}
    with torch.no_grad():
        features = full.teacher.forward_features(full.image(batch))

    def teacher_forward() -> None:
        with torch.no_grad(), accelerator.autocast():
            full.teach(full.image(batch))

    def head_both_ways() -> None:
        connected = features.detach().clone().requires_grad_()
        with accelerator.autocast():
            full.teacher.forward_head(connected).float().square().mean().backward()

    parts |= {"teacher forward": teacher_forward, "teacher head": head_both_ways}
    times = {k: [1000 * t for t in v] for k, v in in_turns(parts, rounds, warmup=2).items()}
    medians = {k: float(np.median(v)) for k, v in times.items()}
    floors = [sum(times[k][i] for k in times if k != "srrl step") for i in range(rounds)]
    ratios = [s / f for s, f in zip(times["srrl step"], floors, strict=True)]
    return {
        **medians,
        "floor": float(np.median(floors)),
        "ratio": float(np.median(ratios)),
        "batch_size": batch_size,
    }


def _training_step(distiller: Distiller, accelerator: Any, optim: OptimSettings) -> Callable[[dict], None]:
    """A function batch → one forward, backward and optimiser step."""
    from srrl.schedule import build_optimizer

    distiller.to(accelerator.device, memory_format=distiller.memory_format).train()
    optimizer = build_optimizer(optim, [distiller])

    def step(batch: dict) -> None:
        with accelerator.autocast():
            loss = distiller(batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def epoch_against_floor(
    task: Task,
    cfg: RunSettings,
    teacher: nn.Module | None,
    dataset: Dataset,
    batch_size: int,
    batches: int,
    rounds: int,
) -> dict[str, float]:
    """Images a second (medians) of the trainer's own epoch, of its floor and of its loader alone, in turns.

    Each round is ``batches`` batches (or an epoch, where that has fewer) from the loader through the distiller to the
    optimiser, without validation. Floor = teacher forward + plain student step, on a batch that lies on the device in
    the form that the networks take. ``ratio`` is epoch to floor.
    """
    import numpy as np
    import torch

    from srrl.distillers import build_distiller
    from srrl.trainer import Phase, Trainer, make_accelerator

    accelerator = make_accelerator(cfg.precision)
    optim = cfg.optim.model_copy(update={"lr": IDLE, "accumulate": 1})
    criterion, settings = task.criterion(cfg), cfg.method_settings()
    torch.manual_seed(0)
    distiller = build_distiller(cfg.method, task.build_student(cfg), teacher, criterion, settings)
    phase = Phase(
        "benchmark",
        rounds + 1,
        batch_size,
        cfg.seed,
        optim,
        workers=cfg.data.workers,
        compile=cfg.compile,
        limit=batches,
    )
    trainer = Trainer(distiller, dataset, phase, accelerator=accelerator)
    model, loader = trainer.begin()
    batch = list(loader)[-1]
    batch["image"] = distiller.image(batch)
    plain = build_distiller("none", task.build_student(cfg), None, criterion, settings)
    plain_step = _training_step(plain, accelerator, optim)

    def epoch() -> None:
        trainer.step = 0
        trainer.train_epoch(model, loader)
        trainer.epoch += 1

    def floor() -> None:
        for _ in range(trainer.batches.total):
            if distiller.teacher is not None:
                with torch.no_grad(), accelerator.autocast():
                    distiller.teach(batch["image"])
            plain_step(batch)

    def alone() -> None:
        trainer.batches.start = 0
        for _ in loader:
            pass

    times = in_turns({"epoch": epoch, "floor": floor, "loader": alone}, rounds, warmup=1)
    images = trainer.batches.total * len(batch["image"])
    ratios = [f / e for f, e in zip(times["floor"], times["epoch"], strict=True)]
    return {
        **{f"{k} images/s": images / float(np.median(v)) for k, v in times.items()},
        "ratio": float(np.median(ratios)),
        "batch_size": len(batch["image"]),
        "batches": trainer.batches.total,
    }


def in_turns(parts: dict[str, Callable[[], None]], rounds: int, warmup: int) -> dict[str, list[float]]:
    """Seconds of each part, by round: a busy machine slows every part alike."""
    import torch

    times: dict[str, list[float]] = {k: [] for k in parts}
    for i in range(warmup + rounds):
        for name, part in parts.items():
            start = time.perf_counter()
            part()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if i >= warmup:
                times[name].append(time.perf_counter() - start)
    return times


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def _print_step(s: dict[str, float]) -> None:
    print(
        f"training step, batch {s['batch_size']:.0f}: SRRL {s['srrl step']:.0f} ms = {s['ratio']:.3f} × its floor {s['floor']:.0f} ms "
        f"(teacher forward {s['teacher forward']:.0f} + student step {s['student step']:.0f} + teacher head {s['teacher head']:.0f})"
    )


EPILOG = """examples:
  python -m srrl.benchmark runs/faces/001 --json speed.json
  python -m srrl.benchmark -c configs/cifar10-resnet26-resnet8.yaml data.train=ROOT    without a run, untrained networks

Three things: latency of each network (batch 1, on one thread and on all; decoding of pictures and predictions is not in
it), the SRRL training step against its floor (teacher forward + plain student step + the teacher head's forward and
backward), and the training epoch (loader, augmentation, distiller, optimiser; not validation) in images a second against
teacher forward + plain student step on data in memory. Parts take turns, medians are given; leave the machine alone
meanwhile."""

COMMAND = Command(
    "benchmark", "Measure the speed of the models and of the training step.", add_arguments, run, EPILOG
)

if __name__ == "__main__":
    main_of(COMMAND)
