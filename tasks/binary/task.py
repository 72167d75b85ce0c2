"""The binary task: classification whose student has one-bit weights and activations."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..classification.task import ClassificationTask
from .settings import BinarySettings

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import Dataset


class BinaryTask(ClassificationTask):
    """One class a picture from a binary network; chosen and compared by top-1, percent, higher is better."""

    name = "binary"
    digits = {
        "stage1_epochs": 100,
        "epochs": 200,
        "batch_size": 10,
        "threads": 1,
        "data": {"per_class": 5},
        "teacher": {"epochs": 100, "lr": 0.04},
        "optim": {"lr": 0.02},
        # a binary student cannot follow the teacher's features on 50 pictures: results/binary.md
        "alpha": 0.1,
        "beta": 0.1,
        "added_kd": 1.0,
    }
    settings = BinarySettings
    units = {"top5": "%", "ops": "BOPs/64 + FLOPs", "packed_bytes": "one bit a binary weight"}
    formats = ("packed", "onnx", "onnx-int8")
    quick = {"epochs": 6, "stage1_epochs": 4, "teacher": {"epochs": 10}}

    def as_source(self, given: dict[str, Any]) -> dict[str, Any]:
        """With all labels of the digits a lower rate is enough."""
        values = super().as_source(given)
        return values | {"optim": {"lr": 5e-3}, "teacher": {"lr": None}} if values else {}

    def build_student(self, cfg: BinarySettings) -> nn.Module:
        from ..classification.sources import DEFAULT_STATISTICS, STATISTICS
        from .networks import binary_resnet

        mean, std = STATISTICS.get(cfg.data.format, DEFAULT_STATISTICS)
        return binary_resnet(
            cfg.student.arch,
            cfg.data.n_classes,
            width=cfg.student.width,
            precision="binary" if cfg.precision_of_weights == "binary" else "activations",
            image_size=cfg.image_size,
            mean=mean,
            std=std,
        )

    def stages(self, cfg: BinarySettings) -> list[tuple[str, BinarySettings]]:
        """Real weights and binary activations with a little decay; then both binary, from there, without decay."""
        if not cfg.stage1_epochs:
            return [("", cfg)]
        first = cfg.model_copy(deep=True)
        first.epochs, first.precision_of_weights = cfg.stage1_epochs, "real"
        first.optim.weight_decay = cfg.stage1_decay
        return [("-stage1", first), ("", cfg)]

    def brief(self, cfg: BinarySettings) -> BinarySettings:
        cfg = super().brief(cfg)
        cfg.stage1_epochs = min(cfg.stage1_epochs, 1)
        return cfg

    def begin_stage(self, model: nn.Module) -> None:
        from .networks import begin_second_stage

        begin_second_stage(model)

    def evaluate(
        self, model: nn.Module, dataset: Dataset, cfg: BinarySettings, *, full: bool = False
    ) -> dict[str, Any]:
        from .networks import count_operations, packed_size

        result = super().evaluate(model, dataset, cfg, full=full)
        if full:
            result |= count_operations(model, cfg.image_size) | {"packed_bytes": packed_size(model)}
        return result

    def export(self, form: str, model: nn.Module, cfg: BinarySettings, path: Path) -> None:
        from .packed_file import write_packed

        write_packed(model, cfg, path)

    def open_export(self, path: Path) -> tuple[nn.Module, BinarySettings]:
        """On packed layers where they run, else as the float simulation, which gives the same numbers."""
        from .packed import obstacle, pack
        from .packed_file import read_packed

        model, cfg = read_packed(path)
        if why := obstacle():
            _tell_once(f"packed file on the slow float path: {why}")
            return model, cfg
        return pack(model), cfg

    def faster_forms(self, model: nn.Module) -> dict[str, nn.Module]:
        from .layers import binary_layers
        from .networks import BinaryNet
        from .packed import obstacle, pack

        if not isinstance(model, BinaryNet) or any(m.precision != "binary" for m in binary_layers(model)):
            return {}
        if why := obstacle():
            _tell_once(f"packed form not measured: {why}")
            return {}
        return {"packed": pack(model)}


@functools.cache
def _tell_once(text: str) -> None:
    print(text, file=sys.stderr)
