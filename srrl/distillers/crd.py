"""CRD: contrastive representation distillation (Tian et al., ICLR 2020, arXiv 1910.10699)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from srrl.distillers.base import HEATMAPS, Batch, Criterion, Distiller, MethodSettings, head_of
from srrl.errors import UserError
from srrl.processes import world_size


def contrastive(positive: Tensor, negative: Tensor, n_data: int) -> Tensor:
    """NCE of ratios (N,) of the positives and (N, K) of K negatives: −Σ log h, a sample (Eq. 11 to 14 with q uniform).

    A ratio is exp(similarity/τ) over the partition Z; h = x/(x + K/M) for positives and (K/M)/(x + K/M) for negatives,
    M being the number of training samples.
    """
    chance, tiny = negative.shape[1] / n_data, 1e-7
    right = (positive / (positive + chance + tiny)).log()
    wrong = (chance / (negative + chance + tiny)).log().sum(1)
    return -(right + wrong).mean()


class OtherClasses(nn.Module):
    """Draws training samples of another class than a given one, uniformly."""

    def __init__(self, labels: Tensor):
        super().__init__()
        order = labels.argsort(stable=True)
        counts = labels.bincount()
        if int((counts > 0).sum()) < 2:
            raise UserError("method crd contrasts classes: the training labels name only one")
        self.register_buffer("order", order, persistent=False)  # samples, class by class
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("starts", counts.cumsum(0) - counts, persistent=False)

    def forward(self, label: Tensor, count: int) -> Tensor:
        """Labels (N,) → indices of samples (N, count), with repetition."""
        own, start = self.counts[label][:, None], self.starts[label][:, None]
        free = len(self.order) - own
        rank = (
            (torch.rand(len(label), count, device=label.device) * free).long().clamp(max=len(self.order) - 1)
        )
        rank = torch.minimum(rank, free - 1)
        return self.order[rank + own * (rank >= start)]


class CRD(Distiller):
    """L = L_supervised + crd_weight · (NCE of student against the teacher's memory + the reverse).

    Fits logits alone. Pooled last maps go through a linear layer each (both trained) to the unit sphere. The memories hold an embedding
    of every training sample, updated with momentum; negatives are samples of other classes, as in the authors' table.
    Z is fixed by the first batch.
    """

    name = "crd"
    needs_labels = True
    kinds = ("logits",)
    misfit = HEATMAPS
    parts = ("supervised", "crd")
    reads = ("crd_weight", "crd_negatives", "crd_temperature", "crd_momentum", "crd_dim")

    def __init__(
        self, student: nn.Module, teacher: nn.Module, criterion: Criterion, settings: MethodSettings
    ):
        super().__init__(student, teacher, criterion, settings)
        self.embed_student = nn.Linear(student.feature_channels, settings.crd_dim)
        self.embed_teacher = nn.Linear(self.teacher.feature_channels, settings.crd_dim)
        self.others: OtherClasses | None = None

    def meet(self, dataset: Dataset) -> None:
        """Memories for every sample of the training set. Raises UserError where it does not tell its labels."""
        if world_size() > 1:
            raise UserError("method crd keeps one memory of all samples: run it in one process")
        labels = getattr(dataset, "labels", None)
        if labels is None:
            raise UserError(
                "method crd needs the label of every training sample at once: give the data set an attribute labels"
            )
        labels = torch.as_tensor(labels, dtype=torch.long)
        if self.others is not None and len(self.others.order) == len(labels):
            return  # it goes on with what it remembers
        self.others = OtherClasses(labels)
        shape, reach = (len(labels), self.settings.crd_dim), (self.settings.crd_dim / 3) ** -0.5
        for side in ("student", "teacher"):  # of the authors' code: uniform, of about unit length
            self.register_buffer(f"memory_{side}", torch.empty(shape).uniform_(-reach, reach))
            self.register_buffer(f"partition_{side}", torch.zeros(()))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x = self.image(batch)
        taught, _ = self.teach(x)
        features = self.student.forward_features(x)
        output = head_of("student", self.student, features)
        index, label = batch["index"].to(x.device), batch["label"]
        chosen = torch.cat([index[:, None], self.others(label, self.settings.crd_negatives)], 1)
        with torch.autocast(x.device.type, enabled=False):  # thousands of logarithms near 0 are summed
            student = F.normalize(self.embed_student(features.float().mean((2, 3))), dim=1)
            teacher = F.normalize(self.embed_teacher(taught.float().mean((2, 3))), dim=1)
            contrast = self.side("student", student, self.memory_teacher, chosen)
            contrast = contrast + self.side("teacher", teacher, self.memory_student, chosen)
        if self.training:
            self.remember(self.memory_student, student, index)
            self.remember(self.memory_teacher, teacher, index)
        supervised = self.criterion.supervised(output, batch)
        return self.result(output, supervised, crd=(self.settings.crd_weight, contrast))

    def side(self, name: str, embedding: Tensor, memory: Tensor, chosen: Tensor) -> Tensor:
        """The NCE of one side's embeddings (N, D) against the other's memory at ``chosen`` (N, 1 + K), positives first."""
        # all similarities by one product, then the chosen ones: gathering (N, K, D) vectors would be many times slower
        similarity = (embedding @ memory.clone().T).gather(1, chosen)
        ratio = (similarity / self.settings.crd_temperature).exp()
        partition = getattr(self, f"partition_{name}")
        if partition == 0:
            partition.copy_(ratio.detach().mean() * len(memory))
        ratio = ratio / partition
        return contrastive(ratio[:, 0], ratio[:, 1:], len(memory))

    @torch.no_grad()
    def remember(self, memory: Tensor, embedding: Tensor, index: Tensor) -> None:
        """Moves the memory of these samples towards their embeddings, on the unit sphere."""
        momentum = self.settings.crd_momentum
        memory[index] = F.normalize(momentum * memory[index] + (1 - momentum) * embedding, dim=1)
