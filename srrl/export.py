"""The student of a run in one file that needs no run folder: ``python -m srrl.export RUN --format F``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from srrl.cli import Command, main_of
from srrl.errors import RunError, UserError

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import Dataset

CHECKED = 64  # test pictures that the written file has to answer as the run's own student does


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder that train made")
    parser.add_argument("--format", required=True, metavar="F", help="packed (binary networks)")
    parser.add_argument(
        "--out", metavar="FILE", help="new file (default: student-F.safetensors in the run folder)"
    )


def run(args: argparse.Namespace) -> int:
    from srrl.api import open_run
    from srrl.runs import atomic

    opened = open_run(args.run, "student")
    task, cfg = opened.task, opened.cfg
    if args.format not in task.formats:
        known = f"expected {' or '.join(task.formats)}" if task.formats else "it has none"
        raise UserError(f"--format {args.format} is not one that task {task.name} can write: {known}")
    out = Path(args.out) if args.out else opened.run.path / f"student-{args.format}.safetensors"
    if out.exists():
        raise UserError(f"{out.absolute()} exists: choose another --out, nothing is overwritten")
    student = opened.model("student")
    with atomic(out) as temporary:
        task.export(args.format, student, cfg, temporary)
        loaded, _ = task.open_export(temporary)
        data = task.prepare(cfg, lambda text: print(text, file=sys.stderr), evaluation=True)
        count, difference = largest_difference(student, loaded, data.test)
        if difference != 0:
            raise RunError(
                f"not written: the {args.format} network differs from the run's student by up to {difference:g} on test "
                f"pictures, where it must not differ; please report it with {opened.run.path / 'environment.json'}"
            )
    print(
        f"{out}: {out.stat().st_size / 1e6:.3f} MB (weights of the run: {_size(opened.run.weights('student'))})"
    )
    print(f"answers as the run's student: largest difference {difference:g} on {count} test pictures")
    return 0


def largest_difference(model: nn.Module, other: nn.Module, dataset: Dataset) -> tuple[int, float]:
    """Samples compared, and the largest |difference| of the outputs of two networks; both run with channels last."""
    import torch

    from srrl.data import eval_loader
    from srrl.model import to_unit

    model = model.to(memory_format=torch.channels_last)
    count, largest = 0, 0.0
    with torch.no_grad():
        for batch in eval_loader(dataset):
            x = to_unit(batch["image"]).contiguous(memory_format=torch.channels_last)[: CHECKED - count]
            worst = float((model(x) - other(x)).abs().max())
            largest = worst if worst != worst else max(largest, worst)  # not a number is a difference, too
            count += len(x)
            if count >= CHECKED or largest != largest:
                break
    return count, largest


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.3f} MB"


EPILOG = """examples:
  python -m srrl.export runs/binary/001 --format packed
  python -m srrl.predict runs/binary/001/student-packed.safetensors photo.jpg

packed: one bit a binary weight; on CPUs with AVX2 and Numba (pip install 'srrl[fast]') it runs on bits, elsewhere as the
float simulation, with the same numbers. The file is compared with the run's student before it gets its name."""

COMMAND = Command(
    "export", "Write the student into one file that needs no run folder.", add_arguments, run, EPILOG
)

if __name__ == "__main__":
    main_of(COMMAND)
