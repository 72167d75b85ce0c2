"""DKD: decoupled knowledge distillation (Zhao et al., CVPR 2022, arXiv 2203.08679)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from srrl.distillers.base import HEATMAPS, Batch, Distiller, risen


def decoupled(student: Tensor, teacher: Tensor, label: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """(TCKD, NCKD) of logits (N, C) and labels (N,), each times T² (Eq. 7).

    TCKD: KL between (target, all others) probabilities. NCKD: KL between the distributions over the other classes.
    """
    student, teacher = student.float() / temperature, teacher.float() / temperature
    mask = F.one_hot(label, student.shape[1]).bool()
    binary = []
    for logits in (student, teacher):
        target = logits.gather(1, label[:, None])
        others = logits.masked_fill(mask, -torch.inf).logsumexp(1, keepdim=True)
        binary.append(torch.cat([target, others], 1).log_softmax(1))
    tckd = F.kl_div(*binary, reduction="batchmean", log_target=True)
    rest = [logits[~mask].view(len(logits), -1).log_softmax(1) for logits in (student, teacher)]
    nckd = F.kl_div(*rest, reduction="batchmean", log_target=True)
    return temperature**2 * tckd, temperature**2 * nckd


class DKD(Distiller):
    """L = L_supervised + w · (dkd_alpha · TCKD + dkd_beta · NCKD), w rising from 0 to 1 over dkd_warmup epochs.

    Fits logits alone.
    """

    name = "dkd"
    needs_labels = True
    kinds = ("logits",)
    misfit = HEATMAPS
    parts = ("supervised", "tckd", "nckd")
    reads = ("dkd_alpha", "dkd_beta", "dkd_temperature", "dkd_warmup")

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        s, x = self.settings, self.image(batch)
        with torch.no_grad():
            target = self.teacher(x)
        output = self.student(x)
        tckd, nckd = decoupled(output, target, batch["label"], s.dkd_temperature)
        rise = risen(self.epoch, s.dkd_warmup)
        supervised = self.criterion.supervised(output, batch)
        return self.result(
            output, supervised, tckd=(rise * s.dkd_alpha, tckd), nckd=(rise * s.dkd_beta, nckd)
        )
