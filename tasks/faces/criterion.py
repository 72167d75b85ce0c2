"""How heatmaps meet labels and each other: one weighted L2, the same for every method."""

from __future__ import annotations

import torch
from torch import Tensor

from srrl.losses import foreground_weight, heatmap_l2

from .codec import HeatmapCodec


class HeatmapCriterion:
    """Weighted L2 with weight 1 + foreground · H, H being the ground truth (supervised) or the teacher's heatmap.

    ``foreground`` is the ``factor`` of :func:`srrl.losses.foreground_weight`; 0 gives the plain L2.
    """

    kind = "heatmaps"

    def __init__(self, codec: HeatmapCodec, foreground: float):
        self.codec, self.foreground = codec, foreground

    def supervised(self, output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Against Gaussians at ``batch["points"]`` (N, K, 2); points with ``batch["mask"]`` False do not count."""
        target = self.codec.encode(batch["points"], batch["mask"])
        if output.is_contiguous(memory_format=torch.channels_last):  # mixed layouts take twice as long
            target = target.contiguous(memory_format=torch.channels_last)
        return heatmap_l2(output, target, foreground_weight(target, self.foreground), batch["mask"])

    def weight(self, teacher: Tensor) -> Tensor:
        """1 + foreground · clamp(teacher's heatmap, 0, 1)."""
        return foreground_weight(teacher.float(), self.foreground)

    def compare(self, output: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
        """Against the teacher's heatmaps (N, K, h, w), under the weight read off them."""
        return heatmap_l2(output, teacher, weight)
