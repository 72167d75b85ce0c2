"""OFD: a comprehensive overhaul of feature distillation (Heo et al., ICCV 2019, arXiv 1904.01866)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from srrl.distillers.base import Batch, Criterion, Distiller, MethodSettings, head_of
from srrl.distillers.stages import PreReLU, pairs, same_size
from srrl.model import stages_of


def partial_l2(student: Tensor, teacher: Tensor) -> Tensor:
    """Σ (T − S)² over all elements but those where S ≤ T ≤ 0, a sample (Eq. 6); ``teacher`` is behind its margin ReLU."""
    counts = (student > teacher) | (teacher > 0)
    return ((teacher - student).square() * counts).sum() / len(student)


class OFD(Distiller):
    """L = L_supervised + ofd_weight · Σ_i 2^(i−n) · d(max(F_T, m), r(F_S)) over the n stages, before their last ReLU.

    A stage that ends without a ReLU, as those of MobileNetV2, gives its map itself. r is a 1×1 convolution with BatchNorm, d the partial L2. The margin m of a channel is the mean of the teacher's
    negative responses there (Eq. 5). The authors derive it from the last BatchNorm; here it is measured on the first
    MARGIN_BATCHES training batches, which holds for blocks that add a shortcut too. The teacher is in eval mode, as for
    every method here; the authors' code leaves its BatchNorm in training mode. ofd_weight is theirs for CIFAR.
    """

    MARGIN_BATCHES = 50
    name = "ofd"
    parts = ("supervised", "ofd")
    reads = ("ofd_weight",)

    def __init__(
        self, student: nn.Module, teacher: nn.Module, criterion: Criterion, settings: MethodSettings
    ):
        super().__init__(student, teacher, criterion, settings)
        self.before = {
            "student": PreReLU(student, "student", "ofd", linear=True),
            "teacher": PreReLU(self.teacher, "teacher", "ofd", linear=True),
        }
        channels = pairs(self.before["student"].channels, self.before["teacher"].channels)
        self.connectors = nn.ModuleList(
            nn.Sequential(nn.Conv2d(s, t, 1, bias=False), nn.BatchNorm2d(t)) for s, t in channels
        )
        for connector in self.connectors:
            nn.init.kaiming_normal_(connector[0].weight, mode="fan_out", nonlinearity="relu")
        for i, (_, t) in enumerate(channels):
            self.register_buffer(f"negative_sum{i}", torch.zeros(t))
            self.register_buffer(f"negative_count{i}", torch.zeros(t))
        self.register_buffer("margin_batches", torch.zeros((), dtype=torch.long))

    def margin(self, i: int) -> Tensor:
        """(1, C, 1, 1): the mean negative response of each channel of pair ``i`` so far; 0 where there was none."""
        total, count = getattr(self, f"negative_sum{i}"), getattr(self, f"negative_count{i}")
        return (total / count.clamp(min=1)).view(1, -1, 1, 1)

    @torch.no_grad()
    def measure(self, maps: list[Tensor]) -> None:
        """Adds a batch of the teacher's maps to the margins."""
        if self.training and self.margin_batches < self.MARGIN_BATCHES:
            for i, m in enumerate(maps):
                getattr(self, f"negative_sum{i}").add_(m.clamp(max=0).sum((0, 2, 3)))
                getattr(self, f"negative_count{i}").add_((m < 0).sum((0, 2, 3)))
            self.margin_batches += 1

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x = self.image(batch)
        with torch.no_grad(), self.before["teacher"].seen() as taught:
            taught_maps = stages_of(self.teacher, x)
        with self.before["student"].seen() as learnt:
            maps = stages_of(self.student, x)
            output = head_of("student", self.student, maps[-1])
        taught = [m.float() for m in self.before["teacher"].of(taught, taught_maps)]
        found = pairs(self.before["student"].of(learnt, maps), taught)
        self.measure([t for _, t in found])
        distance = output.new_zeros(())
        for i, (student, teacher) in enumerate(found):
            target = torch.maximum(teacher, self.margin(i))
            connected, target = same_size(self.connectors[i](student).float(), target)
            distance = distance + partial_l2(connected, target) * 2.0 ** (i + 1 - len(found))
        supervised = self.criterion.supervised(output, batch)
        return self.result(output, supervised, ofd=(self.settings.ofd_weight, distance))
