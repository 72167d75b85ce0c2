"""The base of every distiller, the settings they read and the criterion that a task supplies."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from srrl.errors import UserError
from srrl.model import Frozen, to_unit, training_format

Batch = dict[str, Tensor]


class MethodSettings(BaseModel):
    """Weights and forms of the losses. The defaults are the paper's: α = β = 1, L2 on the teacher's head's output."""

    model_config = ConfigDict(extra="forbid")
    alpha: float = Field(1.0, ge=0, description="weight of L_FM (feature matching)")
    beta: float = Field(1.0, ge=0, description="weight of L_SR (softmax regression)")
    sr_form: Literal["l2", "ce", "kl", "labels"] = Field(
        "l2",
        description="L_SR: l2 on outputs, ce or kl against the teacher's softmax, labels = against the ground truth",
    )
    kd_weight: float = Field(1.0, ge=0, description="weight of the term of method kd")
    kd_temperature: float = Field(4.0, gt=0, description="temperature of kd on logits")
    added_kd: float = Field(0.0, ge=0, description="srrl only: weight of an added kd term (0 = the paper)")
    connector_activation: Literal["auto", "relu", "identity"] = Field(
        "auto", description="auto: relu where the teacher's features are non-negative, else identity"
    )


class Criterion(Protocol):
    """What a task says about its predictions: how they meet labels, and how two of them are compared."""

    kind: Literal["logits", "heatmaps"]

    def supervised(self, output: Tensor, batch: Batch) -> Tensor:
        """The student's own loss against the labels, a scalar."""

    def weight(self, teacher: Tensor) -> Tensor | None:
        """Foreground weight (N, K, h, w) read off the teacher's prediction; None where there is no background."""

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

    ``forward`` takes a batch with ``image`` (N, 3, H, W; uint8 or float 0–1) and whatever the criterion reads, and
    returns ``loss`` (a scalar that carries gradients), ``output`` (the student's prediction) and detached parts.
    """

    needs_teacher = True
    parts: tuple[str, ...] = ("supervised",)
    reads: tuple[str, ...] = ()  # the fields of MethodSettings that change what it learns

    def __init__(
        self, student: nn.Module, teacher: nn.Module | None, criterion: Criterion, settings: MethodSettings
    ):
        super().__init__()
        self.student = student
        self.teacher = Frozen(teacher) if teacher is not None and self.needs_teacher else None
        self.criterion, self.settings = criterion, settings
        self.memory_format = training_format(student)

    def image(self, batch: Batch) -> Tensor:
        """The batch's images as RGB 0–1 in the memory format that suits the student."""
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

    @torch.no_grad()
    def teach(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's last map and prediction for ``x``."""
        features = self.teacher.forward_features(x)
        if features.is_inference():  # made under inference_mode: autograd takes a copy only
            features = features.clone()
        return features, head_of("teacher", self.teacher, features)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        raise TypeError(f"{type(self).__name__} defines no forward")
