"""Speed of a whole binary ResNet against real ones: ``python -m srrl_tasks.binary.speed`` (``tasks.binary.speed`` in a checkout).

One picture, one thread. Processor time is measured, which on an idle machine is the time by the clock and on a busy one
leaves out the waiting; the networks take turns, so that what else runs slows all of them alike, each with one pass before
the one that counts. Medians are given.
"""

from __future__ import annotations

import copy
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from srrl.cli import Parser, at_most, guarded
from srrl.errors import UserError


def plausible(model, image_size: int):
    """The untrained network with BatchNorm statistics of noise pictures, so that its signs are mixed; in eval mode."""
    import torch
    from torch import nn

    layers = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for layer in layers:
        layer.momentum = None  # the average of what comes, instead of a step towards it
    with torch.no_grad():
        model.train()(torch.rand(2, 3, image_size, image_size))
    return model.eval()


def networks(image_size: int, classes: int) -> dict[str, Callable]:
    """name → function of a picture (1, 3, S, S): ResNet-18 in float32 (its fastest form here), bf16, simulated, packed."""
    import torch
    from torchvision.models import resnet18

    from .networks import binary_resnet
    from .packed import pack

    torch.manual_seed(0)
    last = torch.channels_last
    real = resnet18(num_classes=classes).eval()
    x = torch.rand(1, 3, image_size, image_size)
    real_last = copy.deepcopy(real).to(memory_format=last)
    half = copy.deepcopy(real).to(torch.bfloat16).to(memory_format=last)
    unit = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    binary = binary_resnet("resnet18", classes, precision="binary", image_size=image_size, **unit)
    binary = plausible(binary, image_size).to(memory_format=last)
    packed = pack(binary)
    with torch.inference_mode():
        traced = torch.jit.optimize_for_inference(torch.jit.trace(real, x))
        x_last = x.contiguous(memory_format=last)
        if not torch.equal(binary(x_last), packed(x_last)):
            raise UserError("packed and simulated network differ: this is a defect, please report it")
    x_half = x_last.to(torch.bfloat16)
    return {
        "float32": lambda: real(x),
        "float32, channels last": lambda: real_last(x_last),
        "float32, fused by TorchScript": lambda: traced(x),
        "bf16, channels last": lambda: half(x_half),
        "binary, float simulation": lambda: binary(x_last),
        "binary, packed": lambda: packed(x_last),
    }


def measure(image_size: int, classes: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of processor time of each pass, name → a number a round, on one thread, after three rounds that do not count."""
    import torch

    from srrl.speed import threads

    with threads(1), torch.inference_mode():
        forms = networks(image_size, classes)
        times: dict[str, list[float]] = {name: [] for name in forms}
        for i in range(3 + rounds):
            for name, form in forms.items():
                form()  # what ran before has taken the caches, as nothing does where one network works on its own
                start = time.thread_time()
                form()
                if i >= 3:
                    times[name].append(1000 * (time.thread_time() - start))
    return times


def main(argv: list[str] | None = None) -> int:
    """Prints a table and writes it as JSON where asked to."""
    parser = Parser(
        prog="python -m srrl_tasks.binary.speed", description="Speed of a binary ResNet-18 on one thread."
    )
    parser.add_argument("--image-size", type=at_most(4096), default=224, help="side in pixels (default 224)")
    parser.add_argument("--classes", type=at_most(1_000_000), default=1000)
    parser.add_argument(
        "--rounds", type=at_most(100_000), default=15, help="measured passes of each (default 15)"
    )
    parser.add_argument("--json", metavar="FILE", help="write every measured time here")
    args = parser.parse_args(argv)

    import numpy as np

    from srrl.runs import environment, write_json

    times = measure(args.image_size, args.classes, args.rounds)
    fastest = min((k for k in times if k.startswith("float32")), key=lambda k: np.median(times[k]))
    real = np.array(times[fastest])
    print(
        f"ResNet-18, {args.image_size}², one picture, one thread, processor time, medians of {args.rounds} rounds in turn"
    )
    for name, values in times.items():
        speed = np.median(real / np.array(values))
        print(f"{name:30s} {np.median(values):7.1f} ms   {speed:5.2f} × the fastest float32")
    if args.json:
        write_json(Path(args.json), {"environment": environment(), "ms": times})
    return 0


if __name__ == "__main__":
    from srrl.task import ensure_tasks_importable

    ensure_tasks_importable()
    from srrl_tasks.binary.speed import main as measured  # Numba's cache knows the kernels by this name alone

    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    sys.exit(guarded(measured))
