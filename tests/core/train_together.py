"""One toy training by several processes, started by test_processes.py: torchrun … train_together.py FOLDER [SIGNAL_AT].

SIGNAL_AT: the second process sends itself a SIGTERM after so many steps; the others are to learn of it.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from toys import Colours, tiny

import srrl.trainer
from srrl.api import CrossEntropyCriterion, accuracy
from srrl.config import OptimSettings
from srrl.data import KeyedDataset
from srrl.distillers import build_distiller
from srrl.distillers.base import MethodSettings
from srrl.interrupt import GracefulStop, Interrupted
from srrl.runs import MetricsLog
from srrl.trainer import Phase, Trainer, make_accelerator

SAMPLES, EPOCHS, BATCH = 50, 3, 8


def trainer_of(folder: Path, batch_size: int, stop: GracefulStop | None = None) -> Trainer:
    """SRRL on networks without BatchNorm, which would see the size of a batch."""
    student, teacher = tiny(5, norm=False, seed=1), tiny(7, norm=False, depth=2, stride=1, seed=2)
    torch.manual_seed(3)
    distiller = build_distiller("kd", student, teacher, CrossEntropyCriterion(), MethodSettings())
    val = KeyedDataset(Colours(9, seed=5))
    phase = Phase(
        "student",
        EPOCHS,
        batch_size,
        seed=6,
        optim=OptimSettings(lr=0.02, warmup=0.5, ema=0.9),
        metric="top1",
        higher=True,
        workers=0,
        checkpoint=folder / "student.pt",
        best_weights=folder / "best.safetensors",
        last_weights=folder / "last.safetensors",
    )
    return Trainer(
        distiller,
        KeyedDataset(Colours(SAMPLES, noise=0.1), seed=6),
        phase,
        accelerator=make_accelerator("fp32"),  # also where a processor computes in bf16
        validate=lambda model: accuracy(model, val),
        log=MetricsLog(folder / "metrics.csv"),
        stop=stop,
        say=print,
    )


def main(folder: Path, signal_at: int | None) -> int:
    torch.set_num_threads(1)
    srrl.trainer.STOP_EVERY = 2
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    steps = 0
    with GracefulStop() as stop:
        trainer = trainer_of(folder, BATCH // world, stop)
        account = trainer.account

        def counted(result, images):
            nonlocal steps
            account(result, images)
            steps += 1
            if rank == 1 and steps == signal_at:
                os.kill(os.getpid(), signal.SIGTERM)

        trainer.account = counted
        try:
            trainer.fit()
        except Interrupted as stopped:
            (folder / f"stopped-{rank}").write_text(str(steps))
            return 128 + stopped.signum
    (folder / f"steps-{rank}").write_text(str(steps))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None))
