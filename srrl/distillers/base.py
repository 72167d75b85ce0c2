"""The base of every distiller, the settings they read and the criterion that a task supplies."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.utils.data import Dataset

from srrl.errors import UserError
from srrl.frozen import Frozen
from srrl.inspection import training_format
from srrl.model import stages_of, to_unit

Batch = dict[str, Tensor]
HEATMAPS = "kd, srrl, at, fitnet, ofd, rkd, reviewkd and simkd fit heatmaps"  # for who chose another for them


LARGEST = (
    1e9  # of a weight, a rate or a temperature; far beyond what is of use, and far below where float32 ends
)
LONGEST = 1_000_000  # of numbers of epochs, batches and the like
WIDEST = 65_536  # of the channels of one layer


class MethodSettings(BaseModel):
    """Weights and forms of the losses. The defaults are the paper's: α = β = 1, L2 on the teacher's head's output."""

    model_config = ConfigDict(extra="forbid")
    alpha: float = Field(1.0, ge=0, le=LARGEST, description="weight of L_FM (feature matching)")
    beta: float = Field(1.0, ge=0, le=LARGEST, description="weight of L_SR (softmax regression)")
    sr_form: Literal["l2", "ce", "kl", "pearson", "labels"] = Field(
        "l2",
        description="L_SR: l2 on outputs, ce or kl against the teacher's softmax, pearson = correlation of outputs, "
        "labels = against the ground truth",
    )
    kd_weight: float = Field(1.0, ge=0, le=LARGEST, description="weight of the term of method kd")
    kd_temperature: float = Field(4.0, gt=0, le=LARGEST, description="temperature of kd on logits")
    added_kd: float = Field(
        0.0, ge=0, le=LARGEST, description="srrl only: weight of an added kd term (0 = the paper)"
    )
    fitnet_weight: float = Field(
        100.0, ge=0, le=LARGEST, description="fitnet: weight of the hint (RepDistiller's)"
    )
    fitnet_stage: int | None = Field(
        None, le=LONGEST, description="fitnet: stage of the hint, from 0; None: the middle one"
    )
    at_weight: float = Field(
        1000.0, ge=0, le=LARGEST, description="at: weight of the attention maps (the authors')"
    )
    rkd_distance: float = Field(25.0, ge=0, le=LARGEST, description="rkd: weight of the distances")
    rkd_angle: float = Field(50.0, ge=0, le=LARGEST, description="rkd: weight of the angles")
    crd_weight: float = Field(0.8, ge=0, le=LARGEST, description="crd: weight of the contrastive loss")
    crd_negatives: int = Field(16384, ge=1, le=LONGEST, description="crd: negatives a sample")
    crd_temperature: float = Field(0.07, gt=0, le=LARGEST)
    crd_momentum: float = Field(0.5, ge=0, lt=1, description="crd: of the memory")
    crd_dim: int = Field(128, ge=1, le=WIDEST, description="crd: dimensions of the embedding")
    dkd_alpha: float = Field(1.0, ge=0, le=LARGEST, description="dkd: weight of the target class's part")
    dkd_beta: float = Field(8.0, ge=0, le=LARGEST, description="dkd: weight of the other classes' part")
    dkd_temperature: float = Field(4.0, gt=0, le=LARGEST)
    dkd_warmup: int | None = Field(
        None,
        ge=0,
        le=LONGEST,
        description="dkd: epochs over which its weight rises; None: a twelfth, as the authors' 20 of 240",
    )
    dist_inter: float = Field(
        2.0, ge=0, le=LARGEST, description="dist: weight of the relation between classes"
    )
    dist_intra: float = Field(
        2.0, ge=0, le=LARGEST, description="dist: weight of the relation between samples"
    )
    dist_temperature: float = Field(4.0, gt=0, le=LARGEST)
    ofd_weight: float = Field(
        1e-3, ge=0, le=LARGEST, description="ofd: weight of the summed partial distances"
    )
    review_weight: float = Field(
        1.0, ge=0, le=LARGEST, description="reviewkd: weight of the fused maps' distances"
    )
    review_channels: int = Field(
        512, ge=1, le=WIDEST, description="reviewkd: channels of the fused maps, at most the student's last"
    )
    review_warmup: int | None = Field(
        None,
        ge=0,
        le=LONGEST,
        description="reviewkd: epochs over which its weight rises; None: a twelfth, as in dkd",
    )
    srrl_stages: list[Annotated[int, Field(ge=0, le=LONGEST)]] | None = Field(
        None, description="srrl_stages: at which stages (from 0) the losses stand; None: at all"
    )
    simkd_weight: float = Field(1.0, gt=0, le=LARGEST, description="simkd: of its only loss")
    connector_activation: Literal["auto", "relu", "identity"] = Field(
        "auto", description="auto: relu where the teacher's features are non-negative, else identity"
    )

    def for_epochs(self, epochs: int) -> MethodSettings:
        """The same with what is left open by the length of the training filled in."""
        short = max(1, round(epochs / 12))
        open_ = {k: short for k in ("dkd_warmup", "review_warmup") if getattr(self, k) is None}
        return self.model_copy(update=open_)


def risen(epoch: Tensor, warmup: int | None) -> Tensor:
    """The share of a weight that rises from 0 to 1 over the first ``warmup`` epochs (None: 20), in a running epoch from 1 on."""
    return (epoch / max(20 if warmup is None else warmup, 1)).clamp(max=1)


class Criterion(Protocol):
    """What a task says about its predictions: how they meet labels, and how two of them are compared."""

    kind: Literal["logits", "heatmaps"]

    def supervised(self, output: Tensor, batch: Batch) -> Tensor:
        """The student's own loss against the labels, a scalar."""

    def weight(self, teacher: Tensor) -> Tensor | None:
        """Weights read off the teacher's prediction: of the pixels (N, K, h, w) of heatmaps, of the samples (N,) of logits.

        None counts everything once.
        """

    def compare(self, output: Tensor, teacher: Tensor, weight: Tensor | None) -> Tensor:
        """L2 between a prediction and the teacher's under that weight, a scalar."""


def head_of(name: str, model: nn.Module, features: Tensor) -> Tensor:
    """``model.forward_head(features)``. Raises UserError where the head overwrites the map that is compared afterwards."""
    before = features._version  # torch counts the writes to a tensor
    output = model.forward_head(features)
    if features._version != before:
        raise UserError(
            f"the {name}'s head writes into the map it is given, which is still needed: begin it with an operation that "
            "does not, such as ReLU() instead of ReLU(inplace=True)"
        )
    return output


class Distiller(nn.Module):
    """Student (and what is trained beside it) as one module; the trainer calls only ``forward(batch)``.

    It fits every task, of logits and of heatmaps, unless its ``kinds`` say otherwise. ``forward`` takes a batch with ``image`` (N, 3, H, W; uint8 or float 0–1) and whatever the criterion reads, and
    returns ``loss`` (a scalar that carries gradients), ``output`` (the student's prediction) and detached parts.
    """

    name = ""
    needs_teacher = True
    smallest_batch = 1  # samples without which its loss means nothing
    kinds: tuple[str, ...] = ()  # the kinds of prediction it can compare; empty: any
    misfit = "choose another method"
    parts: tuple[str, ...] = ("supervised",)
    reads: tuple[str, ...] = ()  # the fields of MethodSettings that change what it learns
    needs_labels = False  # of every sample, beyond the supervised loss
    weighs_samples = False  # whether its comparisons count each sample by the criterion's weight

    def __init__(
        self, student: nn.Module, teacher: nn.Module | None, criterion: Criterion, settings: MethodSettings
    ):
        super().__init__()
        self.student = student
        self.teacher = Frozen(teacher) if teacher is not None and self.needs_teacher else None
        self.criterion, self.settings = criterion, settings
        self.memory_format = training_format(student)
        # the running epoch, from 1; a tensor, so that a compiled step need not be compiled again for each
        self.register_buffer("epoch", torch.ones(()), persistent=False)
        if self.kinds and criterion.kind not in self.kinds:
            raise UserError(
                f"method {self.name} compares {' and '.join(self.kinds)}, this task predicts {criterion.kind}: "
                f"{self.misfit}"
            )

    def image(self, batch: Batch) -> Tensor:
        """The batch's images as RGB 0–1 in the memory format that suits the student. UserError where they are too few."""
        if self.training and len(batch["image"]) < self.smallest_batch:
            raise UserError(f"method {self.name} needs a batch_size of {self.smallest_batch} or more")
        if self.teacher is not None:
            self.teacher.see(batch)
        return to_unit(batch["image"]).contiguous(memory_format=self.memory_format)

    def trainable_state(self) -> dict[str, Tensor]:
        """Weights and buffers of everything but the teacher: what a checkpoint needs."""
        return {k: v for k, v in self.state_dict().items() if not k.startswith("teacher.")}

    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        """The inverse of :meth:`trainable_state`; strict about every key that is not the teacher's."""
        missing, unexpected = self.load_state_dict(state, strict=False)
        missing = [k for k in missing if not k.startswith("teacher.")]
        if missing or unexpected:
            raise ValueError(f"state does not fit: missing {missing[:3]}, unexpected {unexpected[:3]}")

    @classmethod
    def deployed(cls, student: nn.Module, teacher: nn.Module | None) -> nn.Module:
        """The network that is trained, scored and saved as the student: itself, unless the method keeps more than that."""
        return student

    @classmethod
    def teaches_predictions(cls, settings: MethodSettings) -> bool:
        """Whether all that the student predicts with learns from the teacher, so that samples need no labels."""
        return False

    @torch.no_grad()
    def teach(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's last map and prediction for ``x``."""
        features = self.teacher.forward_features(x)
        if features.is_inference():  # made under inference_mode: autograd takes a copy only
            features = features.clone()
        return features, head_of("teacher", self.teacher, features)

    @torch.no_grad()
    def teach_stages(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """The map of each of the teacher's stages, the last one being its features, and its prediction."""
        maps = [m.clone() if m.is_inference() else m for m in stages_of(self.teacher, x)]
        return maps, head_of("teacher", self.teacher, maps[-1])

    def learn_stages(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """The same of the student, with gradients."""
        maps = stages_of(self.student, x)
        return maps, head_of("student", self.student, maps[-1])

    def meet(self, dataset: Dataset) -> None:
        """The training set, before the first step, for methods that need to know more of it than a batch."""

    def updated(self) -> None:
        """Called after each update of the weights: what the student does then (its own ``updated``), if anything."""
        if hasattr(self.student, "updated"):
            self.student.updated()

    def result(
        self, output: Tensor, supervised: Tensor, **terms: tuple[float | Tensor, Tensor]
    ) -> dict[str, Tensor]:
        """What ``forward`` returns: the total of the supervised loss and of each (weight, term), and its parts."""
        loss = supervised
        for weight, term in terms.values():
            loss = loss + weight * term
        parts = {name: term.detach() for name, (_, term) in terms.items()}
        return {"loss": loss, "output": output, "supervised": supervised.detach(), **parts}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        raise TypeError(f"{type(self).__name__} defines no forward")
