"""DIST: knowledge distillation from a stronger teacher (Huang et al., NeurIPS 2022, arXiv 2205.10536)."""

from __future__ import annotations

import torch
from torch import Tensor

from srrl.distillers.base import HEATMAPS, Batch, Distiller, MethodSettings
from srrl.losses import pearson_distance


class DIST(Distiller):
    """L = L_supervised + dist_inter · T² · L_inter + dist_intra · T² · L_intra (Eq. 8 to 10).

    Fits logits alone. L_inter correlates the class probabilities of each sample, L_intra those of each class over the batch, at
    temperature T.
    """

    name = "dist"
    kinds = ("logits",)
    misfit = HEATMAPS
    smallest_batch = 2  # over a single sample nothing correlates
    parts = ("supervised", "inter", "intra")
    reads = ("dist_inter", "dist_intra", "dist_temperature")

    @classmethod
    def teaches_predictions(cls, settings: MethodSettings) -> bool:
        return True

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        s, x = self.settings, self.image(batch)
        with torch.no_grad():
            target = self.teacher(x)
        output = self.student(x)
        student, teacher = ((z.float() / s.dist_temperature).softmax(1) for z in (output, target))
        scale = s.dist_temperature**2
        inter, intra = pearson_distance(student, teacher), pearson_distance(student.T, teacher.T)
        supervised = self.criterion.supervised(output, batch)
        return self.result(
            output, supervised, inter=(s.dist_inter * scale, inter), intra=(s.dist_intra * scale, intra)
        )
