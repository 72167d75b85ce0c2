"""Speed of a run's networks and of its training step against its floor: ``python -m srrl.benchmark RUN``."""

from __future__ import annotations

import argparse
import os
import time
from typing import TYPE_CHECKING, Any

from srrl.cli import Command, main_of, positive

if TYPE_CHECKING:
    from torch import nn

    from srrl.api import OpenedRun
    from srrl.distillers.base import Distiller


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder that train made")
    parser.add_argument(
        "--rounds",
        type=positive,
        default=15,
        help="interleaved repetitions of the training step (default 15)",
    )
    parser.add_argument("--batch-size", type=positive, help="of the training step (default: the run's)")
    parser.add_argument("--skip-loading", action="store_true", help="leave out the loader against the step")
    parser.add_argument("--json", metavar="FILE", help="write the figures here")


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from srrl.api import open_run
    from srrl.runs import environment, write_json
    from srrl.speed import latency

    opened = open_run(args.run)
    models, size = opened.models(), opened.image_size
    result: dict[str, Any] = {"environment": environment(), "latency_ms": {}}
    for count in sorted({1, os.cpu_count() or 1}):
        result["latency_ms"][f"{count} threads"] = found = latency(models, size, thread_count=count)
        for name, v in found.items():
            print(
                f"{name:8s} batch 1, {count} thread{'s' * (count > 1)}: p50 {v['p50']:.2f} ms, p95 {v['p95']:.2f} ms"
            )
    if "teacher" in models and opened.cfg.method == "srrl":
        result["step"] = step_against_floor(
            opened, models, args.batch_size or opened.cfg.batch_size, args.rounds
        )
        _print_step(result["step"])
    if not args.skip_loading:
        result["loading"] = loading(opened, models, args.batch_size or opened.cfg.batch_size)
        print(
            "data loading: {loader_ms_per_image:.2f} ms an image alone; a training epoch waits for it "
            "{wait_share:.1%} of its time".format(**result["loading"])
        )
    if args.json:
        write_json(Path(args.json), result)
    return 0


def step_against_floor(
    opened: OpenedRun, models: dict[str, nn.Module], batch_size: int, rounds: int
) -> dict[str, float]:
    """Milliseconds (medians) of the SRRL training step and of the three things it cannot do without, interleaved.

    Floor = teacher forward + plain student step + the teacher head's forward and backward on the connected map.
    """
    import numpy as np
    import torch

    from srrl.distillers import build_distiller
    from srrl.trainer import make_accelerator

    cfg, task = opened.cfg, opened.task
    accelerator = make_accelerator(cfg.precision)
    criterion, settings = task.criterion(cfg), cfg.method_settings()
    torch.manual_seed(0)
    batch = {k: v.to(accelerator.device) for k, v in task.example_batch(cfg, batch_size).items()}
    full = build_distiller("srrl", task.build_student(cfg), models["teacher"], criterion, settings)
    plain = build_distiller("none", task.build_student(cfg), None, criterion, settings)
    srrl_step, plain_step = _training_step(full, accelerator), _training_step(plain, accelerator)
    parts = {"srrl step": lambda: srrl_step(batch), "student step": lambda: plain_step(batch)}
    full.to(accelerator.device)
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
    times: dict[str, list[float]] = {k: [] for k in parts}
    for i in range(rounds + 2):
        for name, step in parts.items():
            start = time.perf_counter()
            step()
            if accelerator.device.type == "cuda":
                torch.cuda.synchronize()
            if i >= 2:
                times[name].append((time.perf_counter() - start) * 1000)
    medians = {k: float(np.median(v)) for k, v in times.items()}
    floors = [sum(times[k][i] for k in times if k != "srrl step") for i in range(rounds)]
    ratios = [s / f for s, f in zip(times["srrl step"], floors, strict=True)]
    return {
        **medians,
        "floor": float(np.median(floors)),
        "ratio": float(np.median(ratios)),
        "batch_size": batch_size,
    }


def _training_step(distiller: Distiller, accelerator: Any) -> Any:
    """A function batch → one forward, backward and (almost idle) optimiser step."""

    from srrl.config import OptimSettings
    from srrl.schedule import build_optimizer

    distiller.to(accelerator.device, memory_format=distiller.memory_format).train()
    optimizer = build_optimizer(OptimSettings(lr=1e-9), [distiller])

    def step(batch: dict) -> None:
        with accelerator.autocast():
            loss = distiller(batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def loading(
    opened: OpenedRun, models: dict[str, nn.Module], batch_size: int, batches: int = 30
) -> dict[str, float]:
    """Cost of a sample in the loader alone, and the share of a real training loop that waits for it."""
    from srrl.data import train_loader
    from srrl.distillers import build_distiller
    from srrl.trainer import make_accelerator

    cfg, task = opened.cfg, opened.task
    data = task.prepare(cfg, lambda text: None)
    start = time.perf_counter()
    count = min(200, len(data.train))
    for i in range(count):
        data.train[(0, i)]
    alone = (time.perf_counter() - start) / count * 1000
    accelerator = make_accelerator(cfg.precision)
    distiller = build_distiller(
        cfg.method, task.build_student(cfg), models.get("teacher"), task.criterion(cfg), cfg.method_settings()
    )
    loader, sampler = train_loader(data.train, batch_size, cfg.seed, cfg.data.workers)
    waited = worked = 0.0
    step = _training_step(distiller, accelerator)
    iterator = iter(loader)
    for i in range(min(batches, len(sampler))):
        start = time.perf_counter()
        batch = {k: v.to(accelerator.device) for k, v in next(iterator).items()}
        arrived = time.perf_counter()
        step(batch)
        if i >= 3:
            waited, worked = waited + arrived - start, worked + time.perf_counter() - arrived
    return {"loader_ms_per_image": alone, "wait_share": waited / max(waited + worked, 1e-9)}


def _print_step(s: dict[str, float]) -> None:
    print(
        f"training step, batch {s['batch_size']:.0f}: SRRL {s['srrl step']:.0f} ms = {s['ratio']:.3f} × its floor {s['floor']:.0f} ms "
        f"(teacher forward {s['teacher forward']:.0f} + student step {s['student step']:.0f} + teacher head {s['teacher head']:.0f})"
    )


EPILOG = """example: python -m srrl.benchmark runs/faces/001 --json speed.json

Three things: latency of each network (batch 1, on one thread and on all; decoding of pictures and predictions is not in
it), the SRRL training step against its floor (teacher forward + plain student step + the teacher head's forward and
backward), and how long training waits for its data. Parts take turns, medians are given; leave the machine alone meanwhile."""

COMMAND = Command(
    "benchmark", "Measure the speed of the models and of the training step.", add_arguments, run, EPILOG
)

if __name__ == "__main__":
    main_of(COMMAND)
