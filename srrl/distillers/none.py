"""No teacher: the student's own supervised loss. The baseline of every comparison, and how teachers are trained."""

from __future__ import annotations

from torch import Tensor

from srrl.distillers.base import Batch, Distiller


class NoTeacher(Distiller):
    """L = L_supervised(student(x), labels)."""

    needs_teacher = False

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        output = self.student(self.image(batch))
        loss = self.criterion.supervised(output, batch)
        return {"loss": loss, "output": output, "supervised": loss.detach()}
