"""Networks of three stages, a batch for them, and any method around a pair of them, for the tests of the distillers."""

import torch
from torch import nn
from toys import CLASSES

from srrl.api import CrossEntropyCriterion
from srrl.distillers import build_distiller
from srrl.distillers.base import MethodSettings
from srrl.model import Adapter

CE = CrossEntropyCriterion()


class Staged(Adapter):
    """Three stages of convolution, BatchNorm and ReLU, and a pooled linear head."""

    def __init__(self, widths, *, strides=(2, 1, 2), act=nn.ReLU, seed=0, head="pooled"):
        super().__init__((0, 0, 0), (1, 1, 1))
        torch.manual_seed(seed)
        channels, stages = 3, []
        for width, stride in zip(widths, strides, strict=True):
            conv = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
            stages.append(nn.Sequential(conv, nn.BatchNorm2d(width), act()))
            channels = width
        self.stages, self.feature_channels = nn.ModuleList(stages), channels
        self.head = nn.Linear(channels, CLASSES) if head == "pooled" else nn.Conv2d(channels, 2, 1)
        self.head.weight.data *= 30  # classes that differ, so that their correlations are well defined

    def forward_intermediates(self, x):
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def stage_modules(self):
        return list(self.stages)

    def forward_features(self, x):
        return self.forward_intermediates(x)[-1]

    def forward_head(self, features):
        return self.head(features.mean((2, 3)) if isinstance(self.head, nn.Linear) else features)


class Labelled:
    """Twelve pictures of three classes whose labels are known at once."""

    labels = [i % CLASSES for i in range(12)]

    def __len__(self):
        return len(self.labels)


def batch(n=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    label = torch.tensor(Labelled.labels[:n])
    image = torch.rand(n, 3, 16, 16, generator=generator) * torch.rand(n, 3, 1, 1, generator=generator)
    return {"image": image, "label": label, "index": torch.arange(n), "target": torch.zeros(n, 2, 4, 4)}


def make(method, *, student=None, teacher=None, criterion=CE, **settings):
    student = student or Staged((4, 5, 6), seed=1)
    teacher = teacher or Staged((6, 8, 9), seed=2)
    torch.manual_seed(3)
    if method == "crd":
        settings.setdefault("crd_negatives", 7)
    distiller = build_distiller(method, student, teacher, criterion, MethodSettings(**settings))
    distiller.meet(Labelled())
    return distiller


def rows(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
