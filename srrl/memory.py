"""A teacher's maps kept on disk by what it saw, so that runs that see the same batches compute them once."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from srrl.checkpoint import read_export, save_export
from srrl.errors import RunError, UserError
from srrl.runs import atomic

TASK = "teacher map"  # what the files say they are
RECOUNT = 256  # maps kept between two looks at what other processes keep in the folder


def prepare_folder(folder: Path) -> None:
    """Makes the folder. Raises UserError where it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(
            f"teacher.memory={str(folder)!r} is not a folder that can be made ({getattr(error, 'strerror', error)})"
        ) from error


class MapMemory:
    """The last map (N, C, h, w) or (N, …) of one teacher for each batch it has been shown, a file of ``folder`` each.

    A file is found by a digest of the batch's values, of the teacher's weights and of the precision, and holds the very
    bits that were computed: a run is the same with it and without it. Runs see the same batches where they share the
    seed, the data and the augmentation, as the cells of a comparison do. Nothing is kept beyond ``gigabytes`` in all.
    Damaged files are named and computed again. ``compiled`` says that recall is called from a compiled step.
    """

    def __init__(
        self,
        folder: Path,
        gigabytes: float,
        teacher: nn.Module,
        say: Callable[[str], None] = print,
        *,
        compiled: bool = False,
    ):
        if hasattr(teacher, "see"):
            raise UserError(
                "teacher.memory keeps what a teacher makes of a batch's pictures alone, and this task's also goes by the "
                "domain that each comes from: leave teacher.memory out"
            )
        self.folder, self.say = folder, say
        if compiled:
            # files and digests stay outside; asked for only then, because the compiler takes seconds to import
            self.recall = torch.compiler.disable(self.recall)
        prepare_folder(folder)
        self.limit, self.kept = gigabytes * 1e9, 0
        self.teacher = _digest(teacher)
        self.measure()

    def measure(self) -> None:
        """How large the folder is now, with what other runs keep in it; says so where it is full."""
        self.size = 0
        for file in self.folder.glob("*/*.safetensors"):
            with contextlib.suppress(FileNotFoundError):  # somebody empties it
                self.size += file.stat().st_size
        if self.size >= self.limit:
            self.say(
                f"teacher.memory: {self.folder} holds {self.size / 1e9:.1f} GB, as much as teacher.memory_gb allows: "
                "nothing more is kept"
            )

    def recall(self, x: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """The map kept for ``x``, or ``compute(x)``, which is kept."""
        path = self.path(x)
        if path.is_file():
            try:
                kept, tensors = read_export(path)
                value = tensors["map"].to(x.device)
                return value.permute(0, 3, 1, 2) if kept["layout"] == "nhwc" else value
            except (UserError, OSError, KeyError) as error:
                self.say(f"teacher.memory: {error}; computed again")
        value = compute(x)
        if self.size < self.limit:
            self.keep(path, value)
        return value

    def path(self, x: Tensor) -> Path:
        """Where the map for ``x`` is, or would be."""
        key = self.teacher.copy()
        device = x.device.type
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        key.update(f"{tuple(x.shape)} {x.dtype} {precision} {device} {_layout(x)}".encode())
        key.update(_bytes(x))
        name = key.hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def keep(self, path: Path, value: Tensor) -> None:
        """Writes a map; the layout in memory is kept as well, on which the order of later sums depends."""
        layout = _layout(value)
        stored = value.permute(0, 2, 3, 1) if layout == "nhwc" else value
        try:
            with atomic(path, durable=False) as temporary:
                save_export(temporary, {"map": stored}, {"task": TASK, "layout": layout})
            self.size += value.nbytes
        except (RunError, OSError) as error:
            self.limit = 0.0
            self.say(f"teacher.memory: {error}; nothing more is kept")
            return
        self.kept += 1
        if self.size >= self.limit or self.kept % RECOUNT == 0:
            self.measure()


def _digest(model: nn.Module) -> hashlib.blake2b:
    """Of all that a forward pass depends on: values, buffers that are not saved included, and settings of the layers."""
    digest = hashlib.blake2b(repr(model).encode(), digest_size=16)
    values = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, value in sorted(values.items()):
        digest.update(name.encode())
        digest.update(_bytes(value))
    for name, layer in model.named_modules():
        plain = {k: v for k, v in vars(layer).items() if isinstance(v, (bool, int, float, str, tuple))}
        digest.update(f"{name} {sorted(plain.items())}".encode())
    return digest


def _layout(value: Tensor) -> str:
    last = value.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last)
    return "nhwc" if last and not value.is_contiguous() else "plain"


def _bytes(value: Tensor) -> memoryview:
    return memoryview(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
