"""SimKD: the student keeps a projector and the teacher's classifier (Chen et al., CVPR 2022, arXiv 2203.14001)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srrl.distillers.base import Batch, Distiller, MethodSettings, head_of
from srrl.distillers.stages import same_size, stages_non_negative
from srrl.inspection import on_noise, part_of


class Projector(nn.Sequential):
    """1×1, 3×3 and 1×1 convolutions, each with BatchNorm and ReLU, half as wide in between (Section 3.2, r = 2).

    The last ReLU is left out where the teacher's map can be negative.
    """

    def __init__(self, student: int, teacher: int, non_negative: bool):
        mid, layers = max(1, teacher // 2), []
        for inputs, outputs, kernel in ((student, mid, 1), (mid, mid, 3), (mid, teacher, 1)):
            conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        super().__init__(*(layers if non_negative else layers[:-1]))


class Transferred(nn.Module):
    """What SimKD ships: the student's trunk, a projector, and the teacher's frozen head; a model under the protocol.

    A spatial head gets the map at the size that the teacher's has for the same picture; before a pooled one a larger map
    is averaged to that size.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, projector: nn.Module | None = None):
        super().__init__()
        self.trunk = part_of(student, "student", head=False)
        self.head = part_of(teacher, "teacher", head=True).requires_grad_(False)
        self.feature_channels = teacher.feature_channels
        if projector is None:
            non_negative = stages_non_negative(teacher, "teacher")[-1]
            projector = Projector(student.feature_channels, teacher.feature_channels, non_negative)
        self.projector = projector
        side = lambda x, m: m.forward_features(x).shape[-1] / x.shape[-1]  # noqa: E731 - of two models
        sides = [
            on_noise(m, name, lambda x, m=m: side(x, m))
            for m, name in ((student, "student"), (teacher, "teacher"))
        ]
        spatial = on_noise(teacher, "teacher", lambda x: teacher(x).ndim) == 4
        self.output_kind = "heatmaps" if spatial else "logits"
        ratio = sides[1] / sides[0]
        self.shrink = ratio if ratio < 1 and not spatial else None
        self.enlarge = ratio if ratio != 1 and spatial else None
        self.train(student.training)

    def train(self, mode: bool = True) -> Transferred:
        """The head stays as the teacher left it."""
        super().train(mode)
        self.head.eval()
        return self

    def updated(self) -> None:
        """What the student does after each update of its weights, if anything."""
        if hasattr(self.trunk, "updated"):
            self.trunk.updated()

    def forward_features(self, x: Tensor) -> Tensor:
        features = self.trunk.forward_features(x)
        if self.shrink is not None:  # as the authors do, before the projector
            size = [max(1, round(s * self.shrink)) for s in features.shape[2:]]
            features = F.adaptive_avg_pool2d(features, size)
        features = self.projector(features)
        if self.enlarge is not None:
            features = F.interpolate(
                features, scale_factor=self.enlarge, mode="bilinear", align_corners=False
            )
        return features

    def forward_head(self, features: Tensor) -> Tensor:
        return self.head.forward_head(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class SimKD(Distiller):
    """L = simkd_weight · mean (F_T − p(F_S))² at the smaller map's size (Eq. 3): the labels are not used at all.

    Larger than a plain student by its projector; count it before you compare.
    """

    name = "simkd"
    parts = ("supervised", "simkd")
    reads = ("simkd_weight",)

    @classmethod
    def teaches_predictions(cls, settings: MethodSettings) -> bool:
        return True

    @classmethod
    def deployed(cls, student: nn.Module, teacher: nn.Module) -> nn.Module:
        return Transferred(student, teacher)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x = self.image(batch)
        with torch.no_grad():
            taught = self.teacher.forward_features(x)
        features = self.student.forward_features(x)
        with torch.no_grad():  # for the log alone
            output = head_of("teacher", self.student, features)
            supervised = self.criterion.supervised(output, batch)
        student, teacher = same_size(features.float(), taught.float().clone())
        distance = (student - teacher).square().mean()
        loss = self.settings.simkd_weight * distance
        return {"loss": loss, "output": output, "supervised": supervised, "simkd": distance.detach()}
