"""Toy trainings by several processes, started by test_processes.py: torchrun … train_together.py FOLDER METHODS [SIGNAL AT].

On CPUs, or, with ONE_GPU in the environment, all on the first GPU, over gloo: NCCL refuses two processes on one.

METHODS, separated by commas, are trained one after the other. SIGNAL (a name): the second process sends it to itself behind
its step AT, and the others are to learn of it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from toys import Colours, tiny

import srrl.trainer
from srrl.api import CrossEntropyCriterion, accuracy
from srrl.cli import guarded
from srrl.config import OptimSettings
from srrl.data import KeyedDataset
from srrl.distillers import build_distiller
from srrl.distillers.base import MethodSettings
from srrl.interrupt import GracefulStop, Interrupted
from srrl.processes import once
from srrl.runs import MetricsLog
from srrl.trainer import Phase, Trainer, make_accelerator

SAMPLES, EPOCHS, BATCH = 50, 3, 8
METHODS = ("none", "kd", "srrl")
MEASURED: list[int] = []  # pictures of each validation of this process


def trainer_of(
    folder: Path, batch_size: int, method: str = "srrl", stop: GracefulStop | None = None
) -> Trainer:
    """One method on networks with BatchNorm on both sides and in the connector."""
    student, teacher = tiny(5, depth=2, seed=1), tiny(7, depth=2, stride=1, seed=2)
    torch.manual_seed(3)
    distiller = build_distiller(
        method, student, None if method == "none" else teacher, CrossEntropyCriterion(), MethodSettings()
    )
    val = KeyedDataset(Colours(9, seed=5))
    # AdamW divides by the size of a gradient, and where that is nothing but rounding, by the rounding
    optim = OptimSettings(name="sgd", lr=0.05, warmup=0.5, ema=0.9)
    phase = Phase(
        "student",
        EPOCHS,
        batch_size,
        seed=6,
        optim=optim,
        metric="top1",
        higher=True,
        workers=0,
        checkpoint=folder / method / "student.pt",
        best_weights=folder / method / "best.safetensors",
        last_weights=folder / method / "last.safetensors",
    )
    return Trainer(
        distiller,
        KeyedDataset(Colours(SAMPLES, noise=0.1), seed=6),
        phase,
        accelerator=make_accelerator("fp32"),  # also where a processor computes in bf16
        validate=lambda model: once(lambda: MEASURED.append(len(val)) or accuracy(model, val)),
        log=MetricsLog(folder / method / "metrics.csv"),
        stop=stop,
        say=print,
    )


def losses_of(trainer: Trainer) -> list[float]:
    """The list that the loss of each step, of this process's part of the batch, will stand in."""
    losses, account = [], trainer.account

    def counted(result, images):
        losses.append(float(result["loss"].detach()))
        account(result, images)

    trainer.account = counted
    return losses


def refuse(source: str, target: str) -> None:
    """In the place of os.replace in every process but the first."""
    raise AssertionError(f"{target} is written by a process that is not the first")


def main(folder: Path, methods: list[str], signal_name: str | None, at: int | None) -> int:
    """Trains the methods one after the other; the second process gets a signal behind the first one's step ``at``."""
    torch.set_num_threads(1)
    srrl.trainer.STOP_EVERY = 2
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if rank:
        os.replace = refuse  # by which every file of ours gets its name
    if "ONE_GPU" in os.environ:
        os.environ["LOCAL_RANK"] = "0"
        torch.backends.cudnn.allow_tf32 = False  # ten bits of mantissa would hide what is compared
        dist.init_process_group("gloo")
    for method in methods:
        with GracefulStop() as stop:
            trainer = trainer_of(folder, BATCH // world, method, stop)
            losses = losses_of(trainer)
            account = trainer.account

            def counted(result, images, account=account, losses=losses):
                account(result, images)
                if rank == 1 and len(losses) == at:
                    os.kill(os.getpid(), getattr(signal, signal_name))

            trainer.account = counted
            try:
                trainer.fit()
            except Interrupted as stopped:
                (folder / f"stopped-{rank}").write_text(str(len(losses)))
                return 128 + stopped.signum
        (folder / method / f"losses-{rank}.json").write_text(json.dumps(losses))
        (folder / method / f"measured-{rank}.json").write_text(
            json.dumps([MEASURED, trainer.last, trainer.best])
        )
        MEASURED.clear()
    return 0


if __name__ == "__main__":
    name, at = (sys.argv[3], int(sys.argv[4])) if len(sys.argv) > 3 else (None, None)
    sys.exit(guarded(lambda: main(Path(sys.argv[1]), sys.argv[2].split(","), name, at)))
