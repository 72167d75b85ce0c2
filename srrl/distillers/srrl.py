"""SRRL: softmax regression representation learning (Yang, Martinez, Bulat, Tzimiropoulos, ICLR 2021)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from srrl import losses
from srrl.connector import Connector
from srrl.distillers.base import Batch, Criterion, Distiller, MethodSettings, head_of
from srrl.distillers.kd import kd_term
from srrl.distillers.stages import stages_non_negative
from srrl.errors import UserError


class SRRL(Distiller):
    """L = L_supervised + α·L_FM + β·L_SR (Eq. 8).

    The student's last map F_S goes through the connector r and then through the teacher's own frozen head:
    L_FM = ‖F_T − r(F_S)‖² and L_SR = ‖head_T(r(F_S)) − teacher(x)‖². With a pooled head (logits) L_FM compares the
    spatial means (Eq. 3) and maps of different size need no resizing; with a spatial head (heatmaps) it compares every
    pixel under the foreground weight, and r(F_S) is resized bilinearly to the teacher's map.
    """

    name = "srrl"
    parts = ("supervised", "fm", "sr", "kd")
    weighs_samples = True
    reads = ("alpha", "beta", "sr_form", "added_kd", "kd_temperature", "connector_activation")

    def __init__(
        self, student: nn.Module, teacher: nn.Module, criterion: Criterion, settings: MethodSettings
    ):
        super().__init__(student, teacher, criterion, settings)
        check_form(criterion, settings.sr_form)
        activation = activation_for(settings.connector_activation, self.teacher)
        self.connector = Connector(student.feature_channels, self.teacher.feature_channels, activation)

    @classmethod
    def teaches_predictions(cls, settings: MethodSettings) -> bool:
        return settings.added_kd > 0

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        s, x = self.settings, self.image(batch)
        teacher_features, target = self.teach(x)
        features = self.student.forward_features(x)
        output = head_of("student", self.student, features)
        connected = self.connect(features, teacher_features)

        supervised = self.criterion.supervised(output, batch)
        weight = self.criterion.weight(target)  # one definition of the foreground for all three comparisons
        fm = match_features(self.criterion, connected, teacher_features, weight)
        sr = kd = fm.new_zeros(())
        if s.beta:
            transferred = self.teacher.forward_head(connected)
            sr = match_outputs(self.criterion, s.sr_form, transferred, target, weight, batch)
        if s.added_kd:
            kd = kd_term(output, target, weight, self.criterion, s)
        return self.result(output, supervised, fm=(s.alpha, fm), sr=(s.beta, sr), kd=(s.added_kd, kd))

    def connect(self, features: Tensor, teacher_features: Tensor) -> Tensor:
        """r(F_S) in the teacher's channels, and in the teacher's map size where the head is spatial."""
        connected = self.connector(features)
        return connected if self.criterion.kind == "logits" else resized(connected, teacher_features)


def resized(connected: Tensor, teacher_features: Tensor) -> Tensor:
    """A connected map at the size of the teacher's."""
    size = teacher_features.shape[2:]
    if connected.shape[2:] == size:
        return connected
    return F.interpolate(connected, size, mode="bilinear", align_corners=False)


def match_features(
    criterion: Criterion, connected: Tensor, teacher_features: Tensor, weight: Tensor | None
) -> Tensor:
    """L_FM: pooled for logits, under the weights of samples; per pixel under the foreground's weight for heatmaps."""
    if criterion.kind == "logits":
        return losses.feature_matching_pooled(connected, teacher_features, weight)
    if weight is not None:
        weight = losses.resize_weight(weight, tuple(teacher_features.shape[2:]))
    return losses.feature_matching_map(connected, teacher_features, weight)


def match_outputs(
    criterion: Criterion,
    sr_form: str,
    transferred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    batch: Batch,
) -> Tensor:
    """L_SR between the teacher's head on connected features and the teacher's output (or the labels)."""
    if sr_form == "labels":
        return criterion.supervised(transferred, batch)
    if criterion.kind == "heatmaps":
        return criterion.compare(transferred, target, weight)
    return losses.SR_LOGITS[sr_form](transferred, target, weight)


def check_form(criterion: Criterion, sr_form: str) -> None:
    """UserError for a form of L_SR that the task's predictions do not have."""
    if criterion.kind == "heatmaps" and sr_form in ("ce", "kl", "pearson"):
        raise UserError(f"sr_form={sr_form} compares class scores: heatmaps take sr_form=l2 or labels")


def activation_for(setting: str, teacher: nn.Module) -> str:
    """The connector's activation: what is set, or for ``auto`` ReLU where the teacher's features could come from one."""
    if setting != "auto":
        return setting
    return "relu" if stages_non_negative(teacher, "teacher")[-1] else "identity"
