"""Trains a toy phase again and again, each time in a process of its own that is ended at a chosen moment.

Called by test_resume.py as ``python train_and_die.py FOLDER``. torch is imported once; every training is a forked
process that a real signal ends. Prints one JSON object: case → the exit statuses of its processes in order (negative
for a signal, as in ``subprocess``). Each case leaves its files in ``FOLDER/<case>``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
from toys import Colours, tiny

import srrl.runs
import srrl.trainer
from srrl.api import CrossEntropyCriterion, accuracy
from srrl.config import OptimSettings
from srrl.data import KeyedDataset
from srrl.distillers import build_distiller
from srrl.distillers.base import MethodSettings
from srrl.interrupt import GracefulStop, Interrupted
from srrl.runs import MetricsLog
from srrl.trainer import Phase, Trainer

EPOCHS, BATCHES = 3, 6
KILL, INT, TERM = signal.SIGKILL, signal.SIGINT, signal.SIGTERM

# case -> (options of the training, moments at which its processes end; a last one always runs through)
# a moment is (signal, when, epoch, batch) with epoch and batch counted from 1
CASES = {
    "whole": ({}, []),
    "kill-epoch-2": ({}, [(KILL, "step", 2, 4)]),
    "kill-twice": ({}, [(KILL, "step", 2, 1), (KILL, "step", 3, 6)]),
    "kill-before-rename": ({}, [(KILL, "rename student.pt", 2, 0)]),
    "kill-after-best-weights": ({}, [(KILL, "rename metrics.csv", 2, 0)]),
    "kill-before-checkpoint": ({}, [(KILL, "renamed metrics.csv", 2, 0)]),
    "kill-after-mid-epoch-checkpoint": ({"every": 0.0}, [(KILL, "step", 2, 4)]),
    "kill-with-worker": ({"workers": 1}, [(KILL, "step", 2, 4)]),
    "sigint": ({}, [(INT, "step", 2, 3)]),
    "sigterm-twice": ({"workers": 1}, [(TERM, "step", 1, 1), (TERM, "step", 3, 2)]),
    "sigint-last-step-of-epoch": ({}, [(INT, "step", 2, 6)]),
    "sigterm-in-validation": ({}, [(TERM, "validate", 2, 0)]),
    "sigterm-at-the-very-end": ({}, [(TERM, "step", 3, 6)]),
    "accumulate-whole": ({"accumulate": 3}, []),
    "accumulate-sigint": ({"accumulate": 3}, [(INT, "step", 2, 1)]),
    "sgd-whole": ({"name": "sgd", "ema": 0.0}, []),
    "sgd-sigterm": ({"name": "sgd", "ema": 0.0}, [(TERM, "step", 2, 2)]),
}


class Fuse:
    """Sends its own process a signal when the training reaches the moment."""

    def __init__(self, trainer: Trainer, moment: tuple[int, str, int, int] | None):
        self.trainer, self.moment = trainer, moment

    def reached(self, when: str, epoch: int, batch: int) -> None:
        if self.moment and self.moment[1:] == (when, epoch, batch):
            os.kill(os.getpid(), self.moment[0])

    def install(self) -> None:
        account, validate, replace = self.trainer.account, self.trainer.validate, os.replace

        def counted(result, images):
            account(result, images)
            self.reached("step", self.trainer.epoch + 1, self.trainer.step)

        def validated(model):
            self.reached("validate", self.trainer.epoch, 0)
            return validate(model)

        def renamed(source, target):
            self.reached(f"rename {Path(target).name}", self.trainer.epoch, 0)
            replace(source, target)
            self.reached(f"renamed {Path(target).name}", self.trainer.epoch, 0)

        self.trainer.account, self.trainer.validate, srrl.runs.os.replace = counted, validated, renamed


def train(folder: Path, moment, *, every=1e9, workers=0, accumulate=1, name="adamw", ema=0.9) -> None:
    """One process's part of the phase: SRRL with dropout, random transforms and BatchNorm on both sides."""
    srrl.trainer.CHECKPOINT_SECONDS = every
    student, teacher = tiny(5, dropout=0.3, seed=1), tiny(7, depth=2, stride=1, seed=2)
    torch.manual_seed(3)
    distiller = build_distiller("srrl", student, teacher, CrossEntropyCriterion(), MethodSettings())
    optim = OptimSettings(name=name, lr=0.05, warmup=0.5, ema=ema, accumulate=accumulate, clip=1.0)
    val = KeyedDataset(Colours(9, seed=5))
    phase = Phase(
        "student",
        EPOCHS,
        4,
        seed=6,
        optim=optim,
        metric="top1",
        higher=True,
        workers=workers,
        checkpoint=folder / "student.pt",
        best_weights=folder / "best.safetensors",
        last_weights=folder / "last.safetensors",
    )
    with GracefulStop() as stop:
        trainer = Trainer(
            distiller,
            KeyedDataset(Colours(4 * BATCHES + 1, noise=0.1), seed=6),
            phase,
            validate=lambda model: accuracy(model, val),
            log=MetricsLog(folder / "metrics.csv"),
            stop=stop,
            say=lambda _: None,
        )
        Fuse(trainer, moment).install()
        trainer.fit()


def in_a_process(folder: Path, moment, options: dict) -> int:
    """Exit status of one training: 0 through, 128 + n after Interrupted, −n where signal n ended it."""
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            train(folder, moment, **options)
            status = 0
        except Interrupted as stop:
            status = 128 + stop.signum
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def preload() -> None:
    """What every training imports on first use, so that the forked processes need not."""
    import torch._dynamo  # noqa: F401
    from accelerate import Accelerator  # noqa: F401
    from accelerate.utils import operations  # noqa: F401

    srrl.trainer.make_accelerator()
    torch.optim.AdamW([torch.zeros(1)])


def main(root: Path) -> None:
    torch.set_num_threads(1)
    preload()
    statuses = {}
    for case, (options, moments) in CASES.items():
        folder = root / case
        folder.mkdir()
        statuses[case] = [in_a_process(folder, moment, options) for moment in [*moments, None]]
    print(json.dumps(statuses))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
