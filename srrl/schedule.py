"""Optimisers and learning-rate schedules; the rate is a pure function of the position in training, so resume is exact."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from srrl.config import OptimSettings


def rate(settings: OptimSettings, epoch: float, epochs: int) -> float:
    """Learning rate at ``epoch`` (fractional, 0 = start) of a run of ``epochs``."""
    if settings.warmup and epoch < settings.warmup:
        return settings.lr * max(epoch, 1e-3) / settings.warmup
    if settings.schedule == "cosine":
        span = max(epochs - settings.warmup, 1e-9)
        return settings.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, (epoch - settings.warmup) / span)))
    if settings.schedule == "step":
        return settings.lr * settings.gamma ** sum(epoch >= m for m in settings.milestones)
    return settings.lr


def build_optimizer(settings: OptimSettings, modules: Iterable[nn.Module]) -> torch.optim.Optimizer:
    """AdamW or SGD over the parameters that take gradients.

    SGD decays every parameter, as the paper's code does; AdamW leaves out biases and BatchNorm, as is usual with it.
    """
    parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
    if settings.name == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.nesterov,
        )
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, fused=True)
