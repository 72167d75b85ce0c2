"""FitNet: hints from a middle stage (Romero et al., ICLR 2015, arXiv 1412.6550), trained jointly."""

from __future__ import annotations

from torch import Tensor, nn

from srrl.connector import Connector
from srrl.distillers.base import Batch, Criterion, Distiller, MethodSettings
from srrl.distillers.stages import pairs, same_size, stage_channels, stages_non_negative
from srrl.errors import UserError


class FitNet(Distiller):
    """L = L_supervised + fitnet_weight · mean (r(F_S) − F_T)² at one stage (Eq. 3 of the paper, over all elements).

    r is a 1×1 convolution with BatchNorm and, where the teacher's map is not negative, ReLU. The paper trains the hint first and the rest afterwards; as in
    RepDistiller both are trained together here, so that every method gets the same steps.
    """

    name = "fitnet"
    parts = ("supervised", "hint")
    reads = ("fitnet_weight", "fitnet_stage")

    def __init__(
        self, student: nn.Module, teacher: nn.Module, criterion: Criterion, settings: MethodSettings
    ):
        super().__init__(student, teacher, criterion, settings)
        channels = pairs(stage_channels(student, "student"), stage_channels(self.teacher, "teacher"))
        self.stage = (len(channels) - 1) // 2 if settings.fitnet_stage is None else settings.fitnet_stage
        if not 0 <= self.stage < len(channels):
            raise UserError(
                f"fitnet_stage={self.stage}: teacher and student share {len(channels)} stages, 0 to {len(channels) - 1}"
            )
        reached = pairs([None] * len(channels), stages_non_negative(self.teacher, "teacher"))[self.stage][1]
        self.regressor = Connector(*channels[self.stage], "relu" if reached else "identity")

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x = self.image(batch)
        taught, _ = self.teach_stages(x)
        learnt, output = self.learn_stages(x)
        student, teacher = pairs(learnt, taught)[self.stage]
        student, teacher = same_size(self.regressor(student), teacher)
        hint = (student.float() - teacher.float()).square().mean()
        supervised = self.criterion.supervised(output, batch)
        return self.result(output, supervised, hint=(self.settings.fitnet_weight, hint))
