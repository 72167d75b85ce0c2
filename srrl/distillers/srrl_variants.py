"""Variants of SRRL under names of their own: pooled connector, losses at several stages, inference by the teacher's head."""

from __future__ import annotations

from torch import Tensor, nn

from srrl.connector import Connector
from srrl.distillers.base import Batch, Criterion, Distiller, MethodSettings
from srrl.distillers.simkd import Transferred
from srrl.distillers.srrl import SRRL, activation_for, check_form, match_features, match_outputs, resized
from srrl.distillers.stages import pairs, stage_channels, stages_non_negative
from srrl.errors import UserError
from srrl.frozen import Frozen
from srrl.inspection import on_noise
from srrl.model import stages_of


class PooledSRRL(SRRL):
    """SRRL with the connector behind the pooling, as a well-known re-implementation has it: another method than the paper's.

    BatchNorm and ReLU do not commute with the mean, so that the two differ.
    """

    name = "srrl_pooled"
    smallest_batch = 2
    kinds = ("logits",)
    misfit = "a spatial head has no pooling; use srrl"

    def connect(self, features: Tensor, teacher_features: Tensor) -> Tensor:
        return self.connector(features.mean((2, 3), keepdim=True))


class StagesSRRL(Distiller):
    """L = L_supervised + Σ over stages of α·L_FM + β·L_SR, for the paper's ablation over layers (Table 8).

    The connected map of a stage goes through the rest of the teacher, frozen, and then through its head. Connected maps
    are resized bilinearly to the teacher's where they differ.
    """

    name = "srrl_stages"
    parts = ("supervised", "fm", "sr")
    reads = ("alpha", "beta", "sr_form", "srrl_stages")
    weighs_samples = True

    def __init__(
        self, student: nn.Module, teacher: nn.Module, criterion: Criterion, settings: MethodSettings
    ):
        super().__init__(student, teacher, criterion, settings)
        check_form(criterion, settings.sr_form)
        theirs = stage_channels(self.teacher, "teacher")
        found = pairs(stage_channels(student, "student"), list(zip(theirs, range(len(theirs)), strict=True)))
        positive = stages_non_negative(self.teacher, "teacher")
        self.at = list(range(len(found))) if settings.srrl_stages is None else settings.srrl_stages
        if not self.at or not set(self.at) <= set(range(len(found))) or len(set(self.at)) < len(self.at):
            raise UserError(
                f"srrl_stages={self.at}: teacher and student share stages 0 to {len(found) - 1}: name each once at most"
            )
        self.place = [found[i][1][1] for i in self.at]  # in the teacher
        self.connectors = nn.ModuleList(
            Connector(found[i][0], found[i][1][0], "relu" if positive[found[i][1][1]] else "identity")
            for i in self.at
        )
        if not on_noise(self.teacher, "teacher", self._composes):
            raise UserError(
                "method srrl_stages needs a teacher whose stages follow each other and end in its head"
            )

    def _composes(self, noise: Tensor) -> bool:
        """Whether the rest of the teacher, run on its own first map, gives its prediction."""
        maps = stages_of(self.teacher, noise)
        if len(self._stages()) != len(maps):
            return False
        first = min(self.place)
        return bool(self.rest(maps[first], first).allclose(self.teacher(noise), rtol=1e-3, atol=1e-4))

    def _stages(self) -> list[nn.Module]:
        inner = self.teacher.model if isinstance(self.teacher, Frozen) else self.teacher
        return inner.stage_modules() if hasattr(inner, "stage_modules") else []

    def rest(self, features: Tensor, place: int) -> Tensor:
        """The teacher's prediction from the map of one of its stages."""
        for stage in self._stages()[place + 1 :]:
            features = stage(features)
        return self.teacher.forward_head(features)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x = self.image(batch)
        taught, target = self.teach_stages(x)
        learnt, output = self.learn_stages(x)
        found, weight, form = pairs(learnt, taught), self.criterion.weight(target), self.settings.sr_form
        fm = sr = output.new_zeros(())
        for i, place, connector in zip(self.at, self.place, self.connectors, strict=True):
            student, teacher = found[i]
            connected = resized(connector(student), teacher)
            fm = fm + match_features(self.criterion, connected, teacher, weight)
            transferred = self.rest(connected, place)
            sr = sr + match_outputs(self.criterion, form, transferred, target, weight, batch)
        supervised = self.criterion.supervised(output, batch)
        return self.result(output, supervised, fm=(self.settings.alpha, fm), sr=(self.settings.beta, sr))


class HeadSRRL(Distiller):
    """SRRL whose student keeps the connector and the teacher's head and is used through them, as SimKD's is.

    L = L_supervised(head_T(r(F_S))) + α·L_FM + β·L_SR: the student has no classifier of its own.
    """

    name = "srrl_head"
    parts = ("supervised", "fm", "sr")
    reads = ("alpha", "beta", "sr_form")
    weighs_samples = True

    @classmethod
    def teaches_predictions(cls, settings: MethodSettings) -> bool:
        return True

    @classmethod
    def deployed(cls, student: nn.Module, teacher: nn.Module) -> nn.Module:
        activation = activation_for("auto", teacher)
        return Transferred(
            student, teacher, Connector(student.feature_channels, teacher.feature_channels, activation)
        )

    def __init__(
        self, student: nn.Module, teacher: nn.Module, criterion: Criterion, settings: MethodSettings
    ):
        super().__init__(student, teacher, criterion, settings)
        check_form(criterion, settings.sr_form)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x = self.image(batch)
        taught, target = self.teach(x)
        connected = self.student.forward_features(x)
        output = self.student.forward_head(connected)
        weight = self.criterion.weight(target)
        fm = match_features(self.criterion, connected, taught, weight)
        sr = match_outputs(self.criterion, self.settings.sr_form, output, target, weight, batch)
        supervised = self.criterion.supervised(output, batch)
        return self.result(output, supervised, fm=(self.settings.alpha, fm), sr=(self.settings.beta, sr))
