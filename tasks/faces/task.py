"""The faces task: what the core asks of it, each answered by the module that owns it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from srrl.task import Data, Task

from . import metrics
from .criterion import HeatmapCriterion
from .dataset import FaceDataset
from .settings import FacesSettings

if TYPE_CHECKING:
    from torch import nn


class FacesTask(Task):
    """Facial landmarks by heatmaps; chosen and compared by NME, percent of the inter-ocular distance, lower is better."""

    name = "faces"
    settings = FacesSettings
    metric = "nme"
    higher = False
    unit = "%"
    formats = ("onnx", "onnx-int8")
    said_by_data = ("data.n_points",)
    units = {"nme_without_offsets": "%", "fr@0.08": "%", "auc@0.08": "0–1", "fr@0.10": "%", "auc@0.10": "0–1"}
    # a part of the default's faces, so that its cache serves both; small batches and a high rate, since only the
    # number of steps counts in so short a run; mild geometry and no photometric augmentation, which costs as much as a
    # small network; one thread, since threads that wait for each other cost more than they do at this size
    quick = {
        "epochs": 5,
        "batch_size": 8,
        "image_size": 96,
        "threads": 1,
        "optim": {"lr": 8e-3, "warmup": 0.3},
        "augment": {
            **dict.fromkeys(("light", "colour", "grey", "blur", "noise", "jpeg", "occlusion"), 0),
            **{"rotation": 12, "scale": 0.12, "shift": 0.03},
        },
        "teacher": {"arch": "resnet10", "width": 16, "decoder": [32, 32, 32]},
        "data": {"synthetic": {"n_train": 700, "n_val": 100, "n_test": 200}},
    }

    def filled(self, given: dict[str, Any]) -> dict[str, Any]:
        """The teacher that comes with the package, where one of ``given`` would learn the same from the same faces."""
        from .teachers import shipped_teacher

        name = shipped_teacher(self.settings, given)
        return {"teacher": {"checkpoint": name}} if name else {}

    def prepare(self, cfg: FacesSettings, say: Callable[[str], None], *, evaluation: bool = False) -> Data:
        from .data import prepare

        return prepare(cfg, say, evaluation=evaluation)

    def target_domain(
        self,
        cfg: FacesSettings,
        source: Data,
        paths: dict[str, str | None],
        say: Callable[[str], None],
        *,
        evaluation: bool = False,
    ) -> Data:
        from .target import target_domain

        return target_domain(cfg, source, paths, say, evaluation=evaluation)

    def refined(self, unlabelled: FaceDataset, teacher: nn.Module, cfg: FacesSettings) -> FaceDataset:
        """Faces cropped around the points that the teacher finds in them, as labelled ones are around theirs."""
        from .predict import make_codec, predict_dataset

        return unlabelled.around(predict_dataset(teacher, unlabelled.plain(), make_codec(cfg, teacher)))

    def open_to_data(self, cfg: FacesSettings) -> set[str]:
        """Real data say how many points they have, whatever is set."""
        return {"data.n_points"} if cfg.data.train else set()

    def _network(self, cfg: FacesSettings, which: str) -> nn.Module:
        from .models import HeatmapNet

        m = getattr(cfg, which)
        return HeatmapNet(
            m.arch, cfg.data.n_points, width=m.width, decoder=m.decoder, cut=cfg.cut, pretrained=m.pretrained
        )

    def build_teacher(self, cfg: FacesSettings) -> nn.Module:
        return self._network(cfg, "teacher")

    def build_student(self, cfg: FacesSettings) -> nn.Module:
        return self._network(cfg, "student")

    def criterion(self, cfg: FacesSettings) -> HeatmapCriterion:
        from .predict import make_codec

        return HeatmapCriterion(make_codec(cfg, self.build_student(cfg)), cfg.foreground)

    def image_size(self, cfg: FacesSettings) -> int:
        return cfg.image_size

    def example_batch(self, cfg: FacesSettings, size: int) -> dict[str, Any]:
        import torch

        points = torch.rand(size, cfg.data.n_points, 2) * (cfg.image_size - 1)
        return {
            "image": torch.randint(0, 256, (size, 3, cfg.image_size, cfg.image_size), dtype=torch.uint8),
            "points": points,
            "mask": torch.ones(points.shape[:2], dtype=torch.bool),
            "index": torch.arange(size),
        }

    def evaluate(
        self, model: nn.Module, dataset: FaceDataset, cfg: FacesSettings, *, full: bool = False
    ) -> dict[str, Any]:
        from .predict import predict_faces

        result = score(predict_faces(model, dataset, cfg), dataset, cfg)
        return result if full else {"nme": result["nme"], "fr@0.10": result["fr@0.10"]}

    def reference(self, data: Data, cfg: FacesSettings) -> dict[str, float]:
        """The mean training shape placed in every test crop."""
        source = data.train or data.test
        mean = source.mean_shape()
        found = np.stack([data.test.crop(i).invert(mean) for i in range(len(data.test))])
        return {"mean_shape_nme": score(found, data.test, cfg)["nme"]}

    def figures(
        self, models: dict[str, nn.Module], data: Data, cfg: FacesSettings, folder: Path
    ) -> list[tuple[str, str]]:
        from .figures import report_figures

        return report_figures(models, data, cfg, folder)

    def predictor(self, model: nn.Module, cfg: FacesSettings) -> Any:
        from .landmarker import Landmarker

        return Landmarker(model, cfg)

    def answers(self, model: nn.Module, cfg: FacesSettings) -> nn.Module:
        from .predict import Landmarks, make_codec

        return Landmarks(make_codec(cfg, model))

    def picture_notes(self, cfg: FacesSettings) -> dict[str, str]:
        return {
            "preparation": f"one face each: a square around the middle of its landmarks' box, {cfg.data.scale:g} times "
            f"the box's longer side, resized to {cfg.image_size} pixels (bilinear, edges repeated)"
        }


def score(found: np.ndarray, dataset: FaceDataset, cfg: FacesSettings) -> dict[str, Any]:
    """All figures of landmarks (N, K, 2) in image pixels against the data set's own."""
    records = dataset.records
    truth = np.stack([r.points for r in records])
    rects = np.array([r.rect for r in records]) if all(r.rect is not None for r in records) else None
    undetected = np.array([r.undetected for r in records])
    return metrics.evaluate(
        found,
        truth,
        dataset.scheme,
        cfg.normaliser,
        rects=rects,
        subsets=[r.subsets for r in records],
        undetected=undetected,
    )
