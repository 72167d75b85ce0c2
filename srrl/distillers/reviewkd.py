"""ReviewKD: distilling knowledge via knowledge review (Chen et al., CVPR 2021, arXiv 2104.09044)."""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srrl.distillers.base import Batch, Criterion, Distiller, MethodSettings, risen
from srrl.distillers.stages import PreReLU, pairs, stage_channels


class Fusion(nn.Module):
    """Attention-based fusion (ABF): a stage's map, joined by what came from the deeper ones."""

    def __init__(self, channels: int, mid: int, out: int, fuses: bool):
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv2d(channels, mid, 1, bias=False), nn.BatchNorm2d(mid))
        self.attention = nn.Conv2d(2 * mid, 2, 1) if fuses else None
        self.expand = nn.Sequential(nn.Conv2d(mid, out, 3, padding=1, bias=False), nn.BatchNorm2d(out))
        for layer in (self.reduce[0], self.expand[0]):
            nn.init.kaiming_uniform_(layer.weight, a=1)

    def forward(self, x: Tensor, deeper: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The map to compare, at ``size``, and the fused one for the next stage up."""
        x = self.reduce(x)
        if self.attention is not None:
            deeper = F.interpolate(deeper, x.shape[2:], mode="nearest")
            z = self.attention(torch.cat([x, deeper], 1)).sigmoid()
            x = x * z[:, :1] + deeper * z[:, 1:]
        if x.shape[2:] != size:
            x = F.interpolate(x, size, mode="nearest")
        return self.expand(x), x


def hierarchical(student: Tensor, teacher: Tensor) -> Tensor:
    """HCL: the mean squared difference of two maps and of their averages over 4×4, 2×2 and 1×1 areas, weights 1, ½, ¼, ⅛."""
    student, teacher = student.float(), teacher.float()
    loss, weight, total = (student - teacher).square().mean(), 1.0, 1.0
    for side in (4, 2, 1):
        if side < student.shape[2]:
            weight /= 2
            total += weight
            a, b = (F.adaptive_avg_pool2d(m, side) for m in (student, teacher))
            loss = loss + weight * (a - b).square().mean()
    return loss / total


class ReviewKD(Distiller):
    """L = L_supervised + w · review_weight · Σ over stages HCL(fused student map, teacher map), w rising over review_warmup epochs.

    The teacher's maps are taken before the ReLU that ends each stage, as the authors' code does, the student's behind it;
    those of a teacher whose stages do not all end in one (linear bottlenecks) are taken as they come. From the deepest
    stage upwards each student map is fused with the deeper ones (ABF) before it is compared. Under a pooled head the
    pooled features, behind the ReLU in both, are the deepest stage.
    """

    name = "reviewkd"
    smallest_batch = 2
    parts = ("supervised", "review")
    reads = ("review_weight", "review_channels", "review_warmup")

    def __init__(
        self, student: nn.Module, teacher: nn.Module, criterion: Criterion, settings: MethodSettings
    ):
        super().__init__(student, teacher, criterion, settings)
        channels = pairs(stage_channels(student, "student"), stage_channels(self.teacher, "teacher"))
        self.before = PreReLU.where_found(self.teacher, "teacher")
        if criterion.kind == "logits":
            channels.append(channels[-1])
        mid = min(settings.review_channels, channels[-1][0])
        self.fusions = nn.ModuleList(
            Fusion(s, mid, t, fuses=i < len(channels) - 1) for i, (s, t) in enumerate(channels)
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x = self.image(batch)
        with self.before.seen() if self.before else contextlib.nullcontext({}) as before:
            taught, _ = self.teach_stages(x)
        learnt, output = self.learn_stages(x)
        found = pairs(learnt, [before[i].detach() for i in sorted(before)] or taught)
        if self.criterion.kind == "logits":
            found.append(tuple(m.mean((2, 3), keepdim=True) for m in (learnt[-1], taught[-1])))
        review, deeper = output.new_zeros(()), None
        for fusion, (student, teacher) in zip(reversed(self.fusions), reversed(found), strict=True):
            compared, deeper = fusion(student, deeper, tuple(teacher.shape[2:]))
            review = review + hierarchical(compared, teacher)
        rise = risen(self.epoch, self.settings.review_warmup)
        supervised = self.criterion.supervised(output, batch)
        return self.result(output, supervised, review=(rise * self.settings.review_weight, review))
