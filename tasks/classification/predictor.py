"""A trained classifier as a function of pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from srrl.media import to_rgb

from .data import SMALL, _fitted
from .dataset import central
from .settings import ClassificationSettings


@dataclass(frozen=True)
class Guess:
    """A class and its probability (0 to 1)."""

    name: str
    number: int
    probability: float


class Probabilities(nn.Module):
    """Logits (N, C) → probabilities, for exported graphs."""

    names = {"probabilities": "(batch, classes), 0 to 1"}

    def forward(self, logits: torch.Tensor) -> tuple[torch.Tensor]:
        return (logits.softmax(1),)


def preparation(size: int) -> str:
    """In words, how a picture becomes the square that the network takes."""
    how = "(averaged over areas where it shrinks, else bilinear)"
    if size <= SMALL:
        return f"the shorter side resized to {size} pixels {how}, then the middle {size} x {size}"
    return f"the shorter side resized to {round(size / 0.875)} pixels {how}, then the middle {size} x {size}"


class Classifier:
    """A trained network and its settings as a function of pictures; ``srrl.load(RUN)`` gives one.

    guesses = classifier("photo.jpg")  # the most likely classes, best first
    """

    def __init__(self, model: nn.Module, cfg: ClassificationSettings):
        self.model, self.cfg = model.eval(), cfg

    @torch.no_grad()
    def __call__(self, image: Any, top: int | None = 5) -> list[Guess]:
        """The ``top`` likeliest classes (None: all) of a picture (a path, a PIL image or an RGB array (H, W, 3) uint8). Raises UserError."""
        size = self.cfg.image_size
        pixels = to_rgb(image)
        pixels = _fitted(pixels, size) if size <= SMALL else central(pixels, size)
        x = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float() / 255
        p = self.model(x.to(next(self.model.parameters()).device))[0].float().softmax(0)
        best = p.topk(len(p) if top is None else min(top, len(p)))
        names = self.cfg.data.classes
        return [
            Guess(names[i], i, v) for v, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def draw(self, image: Any, guesses: list[Guess]) -> np.ndarray:
        """The picture, at least 224 pixels wide, over its three best classes and their probabilities; RGB."""
        import cv2

        pixels = to_rgb(image)
        scale = max(1.0, 224 / pixels.shape[1])
        size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_NEAREST) if scale > 1 else pixels.copy()
        line = max(18, pixels.shape[1] // 18)
        strip = np.full((line * min(3, len(guesses)) + line // 3, pixels.shape[1], 3), 255, np.uint8)
        for row, guess in enumerate(guesses[:3]):
            y = line * (row + 1) - line // 5
            cv2.putText(
                strip, f"{guess.probability:6.1%}  {guess.name}", (6, y), cv2.FONT_HERSHEY_SIMPLEX, line / 34,
                (40, 40, 40), 1, cv2.LINE_AA,
            )  # fmt: skip
        return np.vstack([pixels, strip])

    def rows(self, guesses: list[Guess]) -> list[dict[str, Any]]:
        """A row a class, for tables: rank (from 1), class, number, probability."""
        return [
            {"rank": i, "class": g.name, "number": g.number, "probability": round(g.probability, 5)}
            for i, g in enumerate(guesses, 1)
        ]
