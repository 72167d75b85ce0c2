"""The classification task: what the core asks of it, each answered by the module that owns it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srrl.task import Data, Task

from .settings import ClassificationSettings

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import Dataset

    from srrl.distillers.base import Criterion


class ClassificationTask(Task):
    """One class a picture; chosen and compared by top-1, percent, higher is better."""

    name = "classification"
    settings = ClassificationSettings
    metric = "top1"
    higher = True
    unit = "%"
    units = {"top5": "%"}
    formats = ("onnx", "onnx-int8")
    said_by_data = ("data.n_classes", "data.classes", "data.format", "image_size")
    quick = {"epochs": 10, "teacher": {"epochs": 10}}

    digits_width = 4  # of the student for the digits: with its usual width there would be little to gain
    # five labels a class: with all of them a student of this size has nothing to learn from a teacher
    # and one thread, since two wait for each other longer than such networks compute
    digits: dict[str, Any] = {"epochs": 100, "batch_size": 16, "threads": 1, "data": {"per_class": 5}}

    def filled(self, given: dict[str, Any]) -> dict[str, Any]:
        if not _digits(given):
            return {}
        student = given.get("student")
        student = student if isinstance(student, dict) else {}  # what it is instead is the schema's to refuse
        own = {} if {"arch", "width"} & student.keys() else {"student": {"width": self.digits_width}}
        return own | self.digits

    def as_source(self, given: dict[str, Any]) -> dict[str, Any]:
        """All labels of the digits: it is the other domain that has none."""
        return {"epochs": 30, "batch_size": 32, "data": {"per_class": None}} if _digits(given) else {}

    def prepare(
        self, cfg: ClassificationSettings, say: Callable[[str], None], *, evaluation: bool = False
    ) -> Data:
        from .data import prepare

        return prepare(cfg, say, evaluation=evaluation)

    def target_domain(
        self,
        cfg: ClassificationSettings,
        source: Data,
        paths: dict[str, str | None],
        say: Callable[[str], None],
        *,
        evaluation: bool = False,
    ) -> Data:
        from .target import target_domain

        return target_domain(cfg, source, paths, say, evaluation=evaluation)

    def probe_data(self, source: str, cfg: ClassificationSettings, say: Callable[[str], None]) -> Data:
        from .data import probe_data

        return probe_data(source, cfg, say)

    def _network(self, cfg: ClassificationSettings, which: str) -> nn.Module:
        from .networks import build_network
        from .sources import DEFAULT_STATISTICS, STATISTICS

        m = getattr(cfg, which)
        mean, std = STATISTICS.get(cfg.data.format, DEFAULT_STATISTICS)
        return build_network(
            m.arch, cfg.data.n_classes, width=m.width, pretrained=m.pretrained, mean=mean, std=std
        )

    def build_teacher(self, cfg: ClassificationSettings) -> nn.Module:
        return self._network(cfg, "teacher")

    def build_student(self, cfg: ClassificationSettings) -> nn.Module:
        return self._network(cfg, "student")

    def criterion(self, cfg: ClassificationSettings) -> Criterion:
        from srrl.api import CrossEntropyCriterion

        return CrossEntropyCriterion()

    def image_size(self, cfg: ClassificationSettings) -> int:
        return cfg.image_size

    def example_batch(self, cfg: ClassificationSettings, size: int) -> dict[str, Any]:
        import torch

        side = cfg.image_size
        return {
            "image": torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8),
            "label": torch.randint(0, cfg.data.n_classes, (size,)),
            "index": torch.arange(size),
        }

    def evaluate(
        self, model: nn.Module, dataset: Dataset, cfg: ClassificationSettings, *, full: bool = False
    ) -> dict[str, Any]:
        from .figures import logits_of
        from .metrics import accuracy

        result = accuracy(*logits_of(model, dataset), cfg.data.classes)
        return result if full else {k: v for k, v in result.items() if k != "classes"}

    def reference(self, data: Data, cfg: ClassificationSettings) -> dict[str, float]:
        labels = getattr(data.test, "labels", None)
        if labels is None:
            return {}
        return {"largest_class_top1": 100.0 * float(labels.bincount().max()) / len(labels)}

    def figures(
        self, models: dict[str, nn.Module], data: Data, cfg: ClassificationSettings, folder: Path
    ) -> list[tuple[str, str]]:
        from .figures import report_figures

        return report_figures(models, data.test, cfg.data.classes, folder)

    def predictor(self, model: nn.Module, cfg: ClassificationSettings) -> Any:
        from .predictor import Classifier

        return Classifier(model, cfg)

    def answers(self, model: nn.Module, cfg: ClassificationSettings) -> nn.Module:
        from .predictor import Probabilities

        return Probabilities()

    def picture_notes(self, cfg: ClassificationSettings) -> dict[str, str]:
        from .predictor import preparation

        return {"classes": json.dumps(cfg.data.classes), "preparation": preparation(cfg.image_size)}


def _digits(given: dict[str, Any]) -> bool:
    """Whether what was given leaves the embedded data in place."""
    data = given.get("data")
    data = data if isinstance(data, dict) else {}
    return data.get("format") in (None, "digits") and not any(data.get(s) for s in ("train", "val", "test"))
