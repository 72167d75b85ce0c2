"""How predictions meet labels where some samples have none, and how much each sample counts."""

from __future__ import annotations

from torch import Tensor

from srrl.distillers.base import Criterion
from srrl.losses import over_processes


class DomainCriterion:
    """The base task's criterion: its supervised loss on the labelled samples alone, comparisons by the teacher's confidence.

    confidence: exponent γ; a sample counts cᵞ over the batch's mean of it, c being the teacher's largest probability
    (logits) or the mean height of its points' peaks, within 0 to 1 (heatmaps). 0: all count the same.
    """

    def __init__(self, base: Criterion, confidence: float = 0.0):
        self.base, self.confidence, self.kind = base, confidence, base.kind

    def supervised(self, output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Mean over the samples with ``labelled``; 0 where there are none. A batch without that key is labelled.

        Of several processes each has as many collectives as the others, whatever its part of a step holds.
        """
        labelled = batch.get("labelled")
        if labelled is None:
            return self.base.supervised(output, batch)
        part = {k: v[labelled] for k, v in batch.items() if k != "labelled"}
        if (
            self.kind == "heatmaps"
        ):  # divided by the labelled points of all processes, also where there are none here
            return self.base.supervised(output[labelled], part)
        count = labelled.sum().float()
        everywhere = over_processes(count)
        if not bool(labelled.any()):
            return output.sum() * 0.0
        return self.base.supervised(output[labelled], part) * (count / everywhere)

    def weight(self, teacher: Tensor) -> Tensor | None:
        weight = self.base.weight(teacher)
        if not self.confidence:
            return weight
        each = certainty(teacher, self.kind).pow(self.confidence)
        each = each / over_processes(each.mean()).clamp(min=1e-6)
        if self.kind == "logits":
            return each
        return each[:, None, None, None] * (1.0 if weight is None else weight)

    def compare(self, output: Tensor, teacher: Tensor, weight: Tensor | None) -> Tensor:
        return self.base.compare(output, teacher, weight)


def certainty(prediction: Tensor, kind: str) -> Tensor:
    """(N,) in 0 to 1: the largest class probability of logits (N, C), the mean peak of heatmaps (N, K, h, w)."""
    if kind == "logits":
        return prediction.float().softmax(1).amax(1)
    return prediction.float().amax((2, 3)).clamp(0, 1).mean(1)
