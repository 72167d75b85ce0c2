"""Knowledge distillation: Hinton et al. (arXiv 1503.02531) for logits, L2 between heatmaps for landmarks."""

from __future__ import annotations

import torch
from torch import Tensor

from srrl import losses
from srrl.distillers.base import Batch, Criterion, Distiller, MethodSettings


def kd_term(
    output: Tensor, teacher: Tensor, weight: Tensor | None, criterion: Criterion, settings: MethodSettings
) -> Tensor:
    """The distillation term alone: T²·KL(teacher/T ‖ student/T) on logits, the L2 under ``weight`` on heatmaps."""
    if criterion.kind == "logits":
        return losses.kd_logits(output, teacher, settings.kd_temperature, weight)
    return criterion.compare(output, teacher, weight)


class KD(Distiller):
    """L = L_supervised + kd_weight · L_KD(student(x), teacher(x))."""

    parts = ("supervised", "kd")
    reads = ("kd_weight", "kd_temperature")
    weighs_samples = True

    @classmethod
    def teaches_predictions(cls, settings: MethodSettings) -> bool:
        return settings.kd_weight > 0

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x = self.image(batch)
        with torch.no_grad():
            target = self.teacher(x)
        output = self.student(x)
        supervised = self.criterion.supervised(output, batch)
        kd = kd_term(output, target, self.criterion.weight(target), self.criterion, self.settings)
        loss = supervised + self.settings.kd_weight * kd
        return {"loss": loss, "output": output, "supervised": supervised.detach(), "kd": kd.detach()}
