"""RKD: relational knowledge distillation (Park et al., CVPR 2019, arXiv 1904.05068)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from srrl.distillers.base import Batch, Distiller, head_of


def relative_distances(embedding: Tensor) -> Tensor:
    """(N, D) → (N, N): Euclidean distances, divided by the mean of those that are not 0."""
    squares = embedding.square().sum(1)
    squared = (squares[:, None] + squares[None] - 2 * embedding @ embedding.T).clamp(min=1e-12)
    distances = squared.sqrt() * (1 - torch.eye(len(embedding), device=embedding.device))
    return distances / distances[distances > 0].mean()


def angles(embedding: Tensor) -> Tensor:
    """(N, D) → (N, N, N): the cosine at each sample between the directions to two others."""
    directions = F.normalize(embedding[None] - embedding[:, None], dim=2)
    return directions @ directions.transpose(1, 2)


class RKD(Distiller):
    """L = L_supervised + rkd_distance · Huber(distances) + rkd_angle · Huber(angles), on pooled last maps (Eq. 4 to 7)."""

    name = "rkd"
    smallest_batch = 2
    parts = ("supervised", "distance", "angle")
    reads = ("rkd_distance", "rkd_angle")

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x = self.image(batch)
        features, _ = self.teach(x)
        learnt = self.student.forward_features(x)
        output = head_of("student", self.student, learnt)
        student, teacher = (m.float().mean((2, 3)) for m in (learnt, features))
        with torch.autocast(
            x.device.type, enabled=False
        ):  # differences of squares: half precision would cancel them
            with torch.no_grad():
                far, wide = relative_distances(teacher), angles(teacher)
            distance = F.smooth_l1_loss(relative_distances(student), far)
            angle = F.smooth_l1_loss(angles(student), wide)
        s = self.settings
        supervised = self.criterion.supervised(output, batch)
        return self.result(
            output, supervised, distance=(s.rkd_distance, distance), angle=(s.rkd_angle, angle)
        )
