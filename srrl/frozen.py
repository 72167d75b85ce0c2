"""A teacher that nothing trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from srrl.memory import MapMemory


class Frozen(nn.Module):
    """A teacher: no parameter takes a gradient, and it stays in eval mode whatever ``train()`` is called on its owner."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model.requires_grad_(False)
        self.feature_channels = model.feature_channels
        self.memory: MapMemory | None = None  # of the maps of batches seen before
        self.eval()

    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)

    def see(self, batch: dict[str, Tensor]) -> None:
        """Shows the batch whose pictures come next to a teacher that asks for it with a method of this name."""
        if hasattr(self.model, "see"):
            self.model.see(batch)

    def forward_features(self, x: Tensor) -> Tensor:
        if self.memory is not None:
            return self.memory.recall(x, self.model.forward_features)
        return self.model.forward_features(x)

    def forward_head(self, features: Tensor) -> Tensor:
        return self.model.forward_head(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))
