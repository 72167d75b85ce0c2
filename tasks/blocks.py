"""Stages of torchvision's residual blocks at any width, for the networks of every task."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def residual_stages(
    counts: Sequence[int], widths: Sequence[int], channels: int, *, bottleneck: bool = False
) -> tuple[list[nn.Module], int]:
    """(stages, channels of the last map): ``counts`` blocks a stage on ``channels`` of the stem; each stage but the first halves the map.

    ``widths`` are the blocks' planes, of which a bottleneck gives four times as many. torchvision fixes the width of
    its basic-block networks, which is why the stages are composed here.
    """
    from torchvision.models.resnet import BasicBlock, Bottleneck, conv1x1

    block = Bottleneck if bottleneck else BasicBlock
    stages: list[nn.Module] = []
    for level, (count, planes) in enumerate(zip(counts, widths, strict=True)):
        layers: list[nn.Module] = []
        for i in range(count):
            stride, out = (2 if level and not i else 1), planes * block.expansion
            shortcut = None
            if stride != 1 or channels != out:
                shortcut = nn.Sequential(conv1x1(channels, out, stride), nn.BatchNorm2d(out))
            # torchvision's bottleneck takes its width relative to 64 planes through base_width=64 only
            layers.append(block(channels, planes, stride, shortcut))
            channels = out
        stages.append(nn.Sequential(*layers))
    return stages, channels
