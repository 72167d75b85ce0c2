"""AT: attention transfer (Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from srrl.distillers.base import Batch, Criterion, Distiller, MethodSettings
from srrl.distillers.stages import check_stages, pairs, same_size


def attention(features: Tensor) -> Tensor:
    """(N, C, H, W) → (N, H·W): the mean of squares over channels, of length 1 a sample."""
    return F.normalize(features.float().square().mean(1).flatten(1), dim=1)


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over samples and pixels of (Q_S/‖Q_S‖ − Q_T/‖Q_T‖)² (Eq. 2 in the form of the authors' code)."""
    student, teacher = same_size(student, teacher)
    return (attention(student) - attention(teacher)).square().mean()


class AT(Distiller):
    """L = L_supervised + at_weight · Σ over stages of the distance of their attention maps."""

    name = "at"
    parts = ("supervised", "at")
    reads = ("at_weight",)

    def __init__(
        self, student: nn.Module, teacher: nn.Module, criterion: Criterion, settings: MethodSettings
    ):
        super().__init__(student, teacher, criterion, settings)
        check_stages(student, "student")
        check_stages(self.teacher, "teacher")

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x = self.image(batch)
        taught, _ = self.teach_stages(x)
        learnt, output = self.learn_stages(x)
        distance = sum(attention_transfer(s, t) for s, t in pairs(learnt, taught))
        supervised = self.criterion.supervised(output, batch)
        return self.result(output, supervised, at=(self.settings.at_weight, distance))
