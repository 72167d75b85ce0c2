"""The model protocol, its base class, and a split of any module into features and head.

A model of SRRL takes RGB images (N, 3, H, W) in 0–1 and offers ``forward_features(x)`` → map (N, C, H, W),
``forward_head(map)`` → prediction, ``forward_intermediates(x)`` → the maps of its stages and ``feature_channels``.
Each adapter applies its own model's input normalisation, so that teacher and student may be used to different ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from srrl.frozen import Frozen
from srrl.inspection import probe_channels

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@runtime_checkable
class Model(Protocol):
    """What teacher and student must offer; the names are timm's."""

    feature_channels: int

    def forward_features(self, x: Tensor) -> Tensor: ...

    def forward_head(self, features: Tensor) -> Tensor: ...


def to_unit(image: Tensor) -> Tensor:
    """Images as the data sets give them (uint8 0–255, or float 0–1) → float 0–1."""
    return image.float().div(255.0) if image.dtype == torch.uint8 else image


class Normalize(nn.Module):
    """(x − mean) / std a channel, for x in 0–1; part of the model, not of the data."""

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    @property
    def normalisation(self) -> list[list[float]]:
        """[mean, std], which travel with saved weights: they are what the network was trained with."""
        return [self.mean.flatten().tolist(), self.std.flatten().tolist()]

    @normalisation.setter
    def normalisation(self, values: list[list[float]]) -> None:
        for buffer, given in zip((self.mean, self.std), values, strict=True):
            buffer.copy_(torch.tensor(given).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Adapter(nn.Module):
    """Base of the adapters: the full forward is head ∘ features."""

    feature_channels: int
    output_kind = "logits"

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD):
        super().__init__()
        self.normalize = Normalize(mean, std)

    def forward_features(self, x: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} defines no forward_features")

    def forward_head(self, features: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} defines no forward_head")

    def forward_intermediates(self, x: Tensor) -> list[Tensor]:
        """The map of each stage, the last one being ``forward_features``; that one alone where no stages are known."""
        return [self.forward_features(x)]

    def stage_modules(self) -> list[nn.Module]:
        """The modules whose outputs :meth:`forward_intermediates` gives; empty where they are not known."""
        return []

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class Split(Adapter):
    """Any model given as two modules: ``features`` (images → map) and ``head`` (map → prediction).

    ``channels`` is the map's channel count; found with a zero image of ``probe`` (C, H, W) when left out.
    """

    def __init__(
        self,
        features: nn.Module,
        head: nn.Module,
        *,
        channels: int | None = None,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        probe: tuple[int, int, int] = (3, 64, 64),
    ):
        super().__init__(mean, std)
        self.features, self.head = features, head
        self.probe_size = probe[-1]
        self.feature_channels = channels or probe_channels(self, probe)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.features(self.normalize(x))

    def stage_modules(self) -> list[nn.Module]:
        return [self.features]

    def forward_head(self, features: Tensor) -> Tensor:
        return self.head(features)


def stages_of(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The map of each stage of a model under the protocol, the last being its features: that alone where it knows no stages."""
    inner = model.model if isinstance(model, Frozen) else model
    if hasattr(inner, "forward_intermediates"):
        return inner.forward_intermediates(x)
    return [inner.forward_features(x)]
