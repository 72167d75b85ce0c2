"""SRRL: softmax regression representation learning (Yang, Martinez, Bulat, Tzimiropoulos, ICLR 2021)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from srrl import losses
from srrl.connector import Connector
from srrl.distillers.base import Batch, Criterion, Distiller, MethodSettings, head_of
from srrl.distillers.kd import kd_term
from srrl.errors import UserError
from srrl.model import on_noise


class SRRL(Distiller):
    """L = L_supervised + α·L_FM + β·L_SR (Eq. 8).

    The student's last map F_S goes through the connector r and then through the teacher's own frozen head:
    L_FM = ‖F_T − r(F_S)‖² and L_SR = ‖head_T(r(F_S)) − teacher(x)‖². With a pooled head (logits) L_FM compares the
    spatial means (Eq. 3) and maps of different size need no resizing; with a spatial head (heatmaps) it compares every
    pixel under the foreground weight, and r(F_S) is resized bilinearly to the teacher's map.
    """

    parts = ("supervised", "fm", "sr", "kd")
    reads = ("alpha", "beta", "sr_form", "added_kd", "kd_temperature", "connector_activation")

    def __init__(
        self, student: nn.Module, teacher: nn.Module, criterion: Criterion, settings: MethodSettings
    ):
        super().__init__(student, teacher, criterion, settings)
        if criterion.kind == "heatmaps" and settings.sr_form in ("ce", "kl"):
            raise UserError(
                f"sr_form={settings.sr_form} compares class probabilities: heatmaps take sr_form=l2 or labels"
            )
        activation = settings.connector_activation
        if activation == "auto":
            activation = "relu" if _non_negative(self.teacher) else "identity"
        self.connector = Connector(student.feature_channels, self.teacher.feature_channels, activation)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        s, x = self.settings, self.image(batch)
        teacher_features, target = self.teach(x)
        features = self.student.forward_features(x)
        output = head_of("student", self.student, features)
        connected = self.connect(features, teacher_features)

        supervised = self.criterion.supervised(output, batch)
        weight = self.criterion.weight(target)  # one definition of the foreground for all three comparisons
        fm = self.feature_matching(connected, teacher_features, weight)
        sr = kd = fm.new_zeros(())
        if s.beta:
            sr = self.softmax_regression(self.teacher.forward_head(connected), target, weight, batch)
        if s.added_kd:
            kd = kd_term(output, target, weight, self.criterion, s)
        loss = supervised + s.alpha * fm + s.beta * sr + s.added_kd * kd
        return {
            "loss": loss,
            "output": output,
            "supervised": supervised.detach(),
            "fm": fm.detach(),
            "sr": sr.detach(),
            "kd": kd.detach(),
        }

    def connect(self, features: Tensor, teacher_features: Tensor) -> Tensor:
        """r(F_S) in the teacher's channels, and in the teacher's map size where the head is spatial."""
        connected = self.connector(features)
        if self.criterion.kind == "heatmaps" and connected.shape[2:] != teacher_features.shape[2:]:
            connected = F.interpolate(
                connected, teacher_features.shape[2:], mode="bilinear", align_corners=False
            )
        return connected

    def feature_matching(self, connected: Tensor, teacher_features: Tensor, weight: Tensor | None) -> Tensor:
        """L_FM: pooled for logits, per pixel under the teacher's foreground weight for heatmaps."""
        if self.criterion.kind == "logits":
            return losses.feature_matching_pooled(connected, teacher_features)
        if weight is not None:
            weight = losses.resize_weight(weight, tuple(teacher_features.shape[2:]))
        return losses.feature_matching_map(connected, teacher_features, weight)

    def softmax_regression(
        self, transferred: Tensor, target: Tensor, weight: Tensor | None, batch: Batch
    ) -> Tensor:
        """L_SR between the teacher's head on connected features and the teacher's output (or the labels)."""
        if self.settings.sr_form == "labels":
            return self.criterion.supervised(transferred, batch)
        if self.criterion.kind == "heatmaps":
            return self.criterion.compare(transferred, target, weight)
        return losses.SR_LOGITS[self.settings.sr_form](transferred, target)


def _non_negative(teacher: nn.Module) -> bool:
    """Whether the teacher's features can be reached by a ReLU, read off noise pictures."""
    return on_noise(teacher, "teacher", lambda noise: bool(teacher.forward_features(noise).min() >= 0))
