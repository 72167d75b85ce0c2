"""The student of a run in one file that needs no run folder: ``python -m srrl.export RUN --format F``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from srrl.cli import Command, main_of
from srrl.errors import RunError, UserError

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import Dataset

    from srrl.api import OpenedRun
    from srrl.task import Data

CHECKED = 64  # test pictures that the written file has to answer as the run's own student does
NAMES = {"onnx": "student.onnx", "onnx-int8": "student-int8.onnx"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder that train made, or shipped:NAME")
    parser.add_argument(
        "--format", required=True, metavar="F", help="onnx, onnx-int8, or packed (binary networks)"
    )
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="pictures to check the file with (and to calibrate int8 on), where the run's own are no longer there",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="new file (default: student.onnx, student-int8.onnx or student-packed.safetensors in the run folder, of a "
        "shipped: run in the current one)",
    )


def run(args: argparse.Namespace) -> int:
    from srrl.api import open_run
    from srrl.runs import atomic, check_writable
    from srrl.shipped import comes_with_us

    opened = open_run(args.run, "student")
    task, cfg = opened.task, opened.cfg
    if args.format not in task.formats:
        known = f"expected {' or '.join(task.formats)}" if task.formats else "it has none"
        raise UserError(f"--format {args.format} is not one that task {task.name} can write: {known}")
    # what comes with the package lies where nothing may be written
    folder = Path() if comes_with_us(opened.run.path) else opened.run.path
    out = Path(args.out or folder / NAMES.get(args.format, f"student-{args.format}.safetensors"))
    if out.exists():
        raise UserError(f"{out.absolute()} exists: choose another --out, nothing is overwritten")
    if args.format in NAMES:
        from srrl.onnx_network import check_packages

        check_packages()
        if out.suffix != ".onnx":
            raise UserError(f"--out {out}: expected a name that ends in .onnx, by which the file is known")
    check_writable("--out", str(out))
    calibrates = args.format == "onnx-int8"
    if args.data:
        own = {"train": None, "val": None, "test": args.data, "format": None}
        cfg = opened.changed({"data": own})
    say = lambda text: print(text, file=sys.stderr)  # noqa: E731
    data = task.prepare(cfg, say, evaluation=not calibrates or bool(args.data))
    if data.val is None:
        data = replace(data, val=data.test)
    with atomic(out) as temporary:
        writer = {"onnx": write_float, "onnx-int8": write_quantized}.get(args.format, write_exact)
        lines = writer(args.format, opened, data, temporary)
    print(
        f"{out}: {out.stat().st_size / 1e6:.3f} MB (weights of the run: {_size(opened.run.weights('student'))})"
    )
    print("\n".join(lines))
    return 0


def write_exact(form: str, opened: OpenedRun, data: Data, path: Path) -> list[str]:
    """A form of the task's own, which must answer as the student does, to the last bit."""
    student = opened.model("student")
    opened.task.export(form, student, opened.cfg, path)
    loaded, _ = opened.task.open_export(path)
    count, difference = largest_difference(student, loaded, data.test)
    if difference != 0:
        raise RunError(
            f"not written: the {form} network differs from the run's student by up to {difference:g} on test "
            f"pictures, where it must not differ; please report it with {opened.run.path / 'environment.json'}"
        )
    return [f"answers as the run's student: largest difference {difference:g} on {count} test pictures"]


def write_float(form: str, opened: OpenedRun, data: Data, path: Path) -> list[str]:
    """The ONNX graph, compared with the student on test pictures."""
    from srrl.onnx_export import check_onnx, write_onnx

    graph = write_onnx(opened.task, opened.model("student"), opened.cfg, path)
    count, largest = check_onnx(graph, path, data.test)
    worst = ", ".join(f"{name} {difference:.2g}" for name, difference in largest.items())
    return [f"answers as the run's student: largest difference {worst} on {count} test pictures"]


def write_quantized(form: str, opened: OpenedRun, data: Data, path: Path) -> list[str]:
    """The int8 graph, and what it costs: the figures and the speed of the student, of the float graph and of this one."""
    from tempfile import TemporaryDirectory

    from srrl.onnx_export import check_onnx, write_int8, write_onnx
    from srrl.onnx_network import OnnxNetwork
    from srrl.speed import latency

    task, cfg, student = opened.task, opened.cfg, opened.model("student")
    with TemporaryDirectory(prefix="srrl-") as folder:
        source = Path(folder) / "student.onnx"
        check_onnx(write_onnx(task, student, cfg, source), source, data.test)
        write_int8(source, data.val, path)
        forms = {
            "student, torch": student,
            "student, ONNX float32": OnnxNetwork(source, threads=1),
            "student, ONNX int8": OnnxNetwork(path, threads=1),
        }
        sizes = [opened.run.weights("student"), source, path]
        times = latency(forms, opened.image_size)
        same = "" if data.val is not data.test else ", which int8's ranges are from as well"
        lines = [f"on {len(data.test)} test pictures ({data.name}){same}; one picture, one thread:"]
        for (name, model), size in zip(forms.items(), sizes, strict=True):
            figure = task.evaluate(model, data.test, cfg)[task.metric]
            lines.append(
                f"  {name:22s} {task.metric} {figure:7.3f} {task.unit}   {times[name]['p50']:7.2f} ms   {_size(size)}"
            )
    return lines


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
  python -m srrl.export runs/faces/001 --format onnx
  python -m srrl.export runs/faces/001 --format onnx-int8
  python -m srrl.export shipped:faces68 --format onnx                 into ./student.onnx
  python -m srrl.predict runs/faces/001/student.onnx photo.jpg
  python -m srrl.export runs/binary/001 --format packed

onnx: pixels (batch, side, side, 3) uint8 RGB in, landmarks of the crop or class probabilities out, for any batch size; all
answers are compared with the student's on test pictures, and a difference above 0.001 of the
largest value ends the export. onnx-int8: weights and
activations in int8, their ranges from validation pictures; prints what that costs in accuracy and what it brings in speed.
Both need pip install 'srrl[export]'. packed: one bit a binary weight; on CPUs with AVX2 and Numba (pip install 'srrl[fast]')
it runs on bits, elsewhere as the float simulation, with the same numbers. The teacher is in none of them."""

COMMAND = Command(
    "export", "Write the student into one file that needs no run folder.", add_arguments, run, EPILOG
)

if __name__ == "__main__":
    main_of(COMMAND)
