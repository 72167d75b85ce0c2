"""Tiny networks, data and criteria that the tests of the core share, and a reference arithmetic of their own."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from srrl.model import Split

CLASSES = 3


def tiny(
    width: int = 6,
    *,
    classes: int = CLASSES,
    depth: int = 1,
    stride: int = 2,
    norm: bool = True,
    act: type[nn.Module] = nn.ReLU,
    dropout: float = 0.0,
    seed: int = 0,
    mean: tuple[float, ...] = (0.0, 0.0, 0.0),
    std: tuple[float, ...] = (1.0, 1.0, 1.0),
) -> Split:
    """A classifier of ``depth`` convolutions, whose first has ``stride``, and a pooled linear head."""
    torch.manual_seed(seed)
    layers, channels = [], 3
    for i in range(depth):
        layers += [nn.Conv2d(channels, width, 3, stride=stride if i == 0 else 1, padding=1, bias=not norm)]
        layers += [nn.BatchNorm2d(width)] if norm else []
        layers += [act()]
        channels = width
    head = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(width, classes)
    )
    return Split(nn.Sequential(*layers), head, mean=mean, std=std)


def spatial(width: int = 4, *, points: int = 2, stride: int = 2, seed: int = 0) -> Split:
    """A heatmap network whose head is a 1×1 convolution."""
    torch.manual_seed(seed)
    features = nn.Sequential(
        nn.Conv2d(3, width, 3, stride=stride, padding=1), nn.BatchNorm2d(width), nn.ReLU()
    )
    return Split(features, nn.Conv2d(width, points, 1))


class Colours(Dataset):
    """Noisy pictures (3, 8, 8) of one dominant colour; the label is its channel."""

    def __init__(self, length: int = 24, *, noise: float = 0.0, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(length) % CLASSES
        self.images = 0.6 * torch.rand(length, 3, 8, 8, generator=generator)
        self.images[torch.arange(length), self.labels] += 0.4
        self.noise = noise  # a random transform: drawn anew whenever a sample is made

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.images[i] + self.noise * torch.rand(3, 8, 8), int(self.labels[i])


class HeatmapL2:
    """A heatmap criterion with weight 1 + 2·teacher, enough to see where the weight is used."""

    kind = "heatmaps"

    def supervised(self, output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return (output - batch["target"]).square().mean()

    def compare(self, output: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
        return (weight * (output - teacher).square()).sum((2, 3)).mean()

    def weight(self, teacher: Tensor) -> Tensor:
        return 1 + 2 * teacher.clamp(0, 1)


def softmax(row: list[float]) -> list[float]:
    """Of one row, in float64."""
    top = max(row)
    e = [math.exp(v - top) for v in row]
    return [v / sum(e) for v in e]


def cross_entropy(logits: Tensor, labels: Tensor) -> float:
    """Mean of −log softmax at the label, one row at a time in float64."""
    rows = logits.detach().double().tolist()
    return -sum(math.log(softmax(r)[int(t)]) for r, t in zip(rows, labels, strict=True)) / len(rows)


def connector_by_hand(connector: nn.Module, features: Tensor) -> Tensor:
    """1×1 convolution, BatchNorm with the batch's own statistics and ReLU, from the weights alone, in float64."""
    weight = connector.conv.weight.detach().double()[:, :, 0, 0]
    out = torch.einsum("oc,nchw->nohw", weight, features.detach().double())
    mean = out.mean((0, 2, 3), keepdim=True)
    variance = (out - mean).square().mean((0, 2, 3), keepdim=True)
    scale, shift = connector.bn.weight.detach().double(), connector.bn.bias.detach().double()
    out = (out - mean) / (variance + connector.bn.eps).sqrt()
    return (out * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)).clamp(min=0)
