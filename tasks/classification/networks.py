"""The field's standard networks for small pictures: ResNets, WRN, VGG, MobileNets, ShuffleNets; larger ones by name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from srrl.adapters import build_model
from srrl.errors import UserError
from srrl.model import Adapter

from ..blocks import residual_stages


class SmallNet(Adapter):
    """Stem, stages and a linear classifier on the spatial mean of the last map. Pictures (N, 3, S, S) in 0–1."""

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[nn.Module],
        channels: int,
        classes: int,
        mean: Sequence[float],
        std: Sequence[float],
    ):
        super().__init__(mean, std)
        self.stem, self.stages = stem, nn.ModuleList(stages)
        self.classifier = nn.Linear(channels, classes)
        self.feature_channels = channels
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward_intermediates(self, x: Tensor) -> list[Tensor]:
        x, maps = self.stem(self.normalize(x)), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def stage_modules(self) -> list[nn.Module]:
        return list(self.stages)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.forward_intermediates(x)[-1]

    def forward_head(self, features: Tensor) -> Tensor:
        return self.classifier(features.mean((2, 3)))


def conv_bn_relu(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution without bias (padded to keep the size at stride 1), BatchNorm, ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def cifar_resnet(
    depth: int, classes: int, width: int, mean: Sequence[float], std: Sequence[float]
) -> SmallNet:
    """ResNet of 6n + 2 layers in three stages of ``width``, 2·, 4· channels (He et al. 2016, Section 4.2: width 16)."""
    count = (depth - 2) // 6
    stages, channels = residual_stages([count] * 3, [width, 2 * width, 4 * width], width)
    return SmallNet(conv_bn_relu(3, width), stages, channels, classes, mean, std)


def wide_cifar_resnet(
    depth: int, factor: int, classes: int, mean: Sequence[float], std: Sequence[float]
) -> SmallNet:
    """resnet8x4, resnet32x4: stem of 8·factor channels, stages of 16·, 32·, 64·factor (RepDistiller)."""
    count, base = (depth - 2) // 6, 16 * factor
    stages, channels = residual_stages([count] * 3, [base, 2 * base, 4 * base], base // 2)
    return SmallNet(conv_bn_relu(3, base // 2), stages, channels, classes, mean, std)


FOUR_STAGES = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


def four_stage_resnet(
    depth: int, classes: int, width: int, mean: Sequence[float], std: Sequence[float]
) -> SmallNet:
    """ResNet-10/18/34/50 with a 3×3 stem of stride 1, as used on 32² pictures; ``width`` 64 is full, 16 thin."""
    widths = [width * 2**level for level in range(4)]
    stages, channels = residual_stages(FOUR_STAGES[depth], widths, width, bottleneck=depth == 50)
    return SmallNet(conv_bn_relu(3, width), stages, channels, classes, mean, std)


class WideBlock(nn.Module):
    """Two 3×3 convolutions behind BatchNorm and ReLU each; where the block does not ``open`` with the first pair, what came before has applied it."""

    def __init__(self, inputs: int, outputs: int, stride: int, opens: bool):
        super().__init__()
        self.activate = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU()) if opens else nn.Identity()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
        )
        project = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if project else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.activate(x)
        # a block that changes the shape projects the activated map, another adds the raw one (pre-activation)
        return self.residual(y) + (x if self.shortcut is None else self.shortcut(y))


def wrn(depth: int, factor: int, classes: int, mean: Sequence[float], std: Sequence[float]) -> SmallNet:
    """WRN-depth-factor (Zagoruyko and Komodakis 2016), each stage closed by the BatchNorm and ReLU that follow it.

    These stand at the head of the next stage's first block in the usual code, which is the same function as long as
    that block changes the shape: the second and third always do.
    """
    count = (depth - 4) // 6
    widths = [16 * factor, 32 * factor, 64 * factor]
    stages, channels = [], 16
    for level, width in enumerate(widths):
        blocks: list[nn.Module] = []
        for i in range(count):
            stride = 2 if level and not i else 1
            blocks.append(WideBlock(channels, width, stride, opens=i > 0 or level == 0))
            channels = width
        stages.append(nn.Sequential(*blocks, nn.BatchNorm2d(channels), nn.ReLU()))
    return SmallNet(nn.Conv2d(3, 16, 3, padding=1, bias=False), stages, channels, classes, mean, std)


VGG = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def vgg(depth: int, classes: int, mean: Sequence[float], std: Sequence[float]) -> SmallNet:
    """VGG with BatchNorm and one linear layer; a pooling opens each stage but the first (RepDistiller's form)."""
    stages, channels = [], 3
    for level, (count, width) in enumerate(zip(VGG[depth], (64, 128, 256, 512, 512), strict=True)):
        # the last two stages have the same size on 32² pictures
        layers: list[nn.Module] = [nn.MaxPool2d(2)] if 0 < level < 4 else []
        for _ in range(count):
            layers.append(conv_bn_relu(channels, width))
            channels = width
        stages.append(nn.Sequential(*layers))
    return SmallNet(nn.Identity(), stages, channels, classes, mean, std)


def mobilenet_v1(classes: int, width: float, mean: Sequence[float], std: Sequence[float]) -> SmallNet:
    """MobileNetV1 (Howard et al. 2017) with a stem of stride 1 and three halvings, for 32² pictures."""
    plan = [
        [(64, 1)],
        [(128, 1), (128, 1)],
        [(256, 2), (256, 1)],
        [(512, 2)] + [(512, 1)] * 5,
        [(1024, 2), (1024, 1)],
    ]
    scale = lambda c: max(8, int(c * width))  # noqa: E731 - used in this function alone
    channels, stages = scale(32), []
    stem = conv_bn_relu(3, channels)
    for stage in plan:
        layers = []
        for out, stride in stage:
            layers += [
                conv_bn_relu(channels, channels, 3, stride, channels),
                conv_bn_relu(channels, scale(out), 1),
            ]
            channels = scale(out)
        stages.append(nn.Sequential(*layers))
    return SmallNet(stem, stages, channels, classes, mean, std)


def mobilenet_v2(classes: int, width: float, mean: Sequence[float], std: Sequence[float]) -> SmallNet:
    """torchvision's MobileNetV2 with strides 1 in stem and second stage, for 32² pictures."""
    from torchvision.models import MobileNetV2

    setting = [
        [1, 16, 1, 1],
        [6, 24, 2, 1],
        [6, 32, 3, 2],
        [6, 64, 4, 2],
        [6, 96, 3, 1],
        [6, 160, 3, 2],
        [6, 320, 1, 1],
    ]
    f = MobileNetV2(width_mult=width, inverted_residual_setting=setting).features
    f[0][0].stride = (1, 1)
    cuts = [(1, 4), (4, 7), (7, 14), (14, len(f))]
    return SmallNet(f[0], [f[a:b] for a, b in cuts], f[-1][0].out_channels, classes, mean, std)


class ShuffleUnit(nn.Module):
    """ShuffleNetV1's unit (Zhang et al. 2018): grouped 1×1, channel shuffle, 3×3 a channel, grouped 1×1."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int, first_groups: int):
        super().__init__()
        added = outputs - inputs if stride == 2 else outputs  # a unit that halves the map adds to its input
        mid = added // 4
        self.squeeze = conv_bn_relu(inputs, mid, 1, groups=first_groups)
        self.shuffle = nn.ChannelShuffle(first_groups)
        self.expand = nn.Sequential(
            nn.Conv2d(mid, mid, 3, stride, 1, groups=mid, bias=False),
            nn.BatchNorm2d(mid),
            nn.Conv2d(mid, added, 1, groups=groups, bias=False),
            nn.BatchNorm2d(added),
        )
        self.pool = nn.AvgPool2d(3, 2, 1) if stride == 2 else None
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(self.shuffle(self.squeeze(x)))
        return self.relu(x + y if self.pool is None else torch.cat([y, self.pool(x)], 1))


def shufflenet_v1(classes: int, mean: Sequence[float], std: Sequence[float], groups: int = 3) -> SmallNet:
    """ShuffleNetV1 of three groups (240, 480, 960 channels) with a 1×1 stem, for 32² pictures (RepDistiller's form)."""
    stages, channels = [], 24
    for count, width in zip((4, 8, 4), (240, 480, 960), strict=True):
        units = []
        for i in range(count):
            units.append(ShuffleUnit(channels, width, 1 if i else 2, groups, 1 if channels == 24 else groups))
            channels = width
        stages.append(nn.Sequential(*units))
    return SmallNet(conv_bn_relu(3, 24, 1), stages, channels, classes, mean, std)


def shufflenet_v2(classes: int, mean: Sequence[float], std: Sequence[float]) -> SmallNet:
    """torchvision's ShuffleNetV2 1× with a stem of stride 1 and without its pooling, for 32² pictures."""
    from torchvision.models import ShuffleNetV2

    net = ShuffleNetV2([4, 8, 4], [24, 116, 232, 464, 1024])
    net.conv1[0].stride = (1, 1)
    return SmallNet(net.conv1, [net.stage2, net.stage3, net.stage4, net.conv5], 1024, classes, mean, std)


CIFAR_DEPTHS = (8, 14, 20, 26, 32, 44, 56, 110)
KNOWN = (
    *(f"resnet{d}" for d in (*CIFAR_DEPTHS, *FOUR_STAGES)),
    *("resnet8x4", "resnet32x4", "wrn-16-1", "wrn-16-2", "wrn-16-4", "wrn-40-1", "wrn-40-2", "wrn-40-4"),
    *(f"vgg{d}" for d in VGG),
    *("mobilenetv1", "mobilenetv2", "shufflenetv1", "shufflenetv2"),
)


def build_network(
    name: str,
    classes: int,
    *,
    width: float | None = None,
    pretrained: bool = False,
    mean: Sequence[float],
    std: Sequence[float],
) -> Adapter:
    """A network by its name in the field, untrained, or ``timm/…`` and ``torchvision/…`` for large pictures.

    width: channels of the first stage (ResNets: 16, or 64 for depths 10, 18, 34 and 50), or the width factor of the
    MobileNets (1). Raises UserError for an unknown name, and for a width where the network has none.
    """
    if "/" in name:
        if width is not None:
            raise UserError(f"width={width} is not for {name}: library networks have their own")
        return build_model(name, num_classes=classes, pretrained=pretrained)
    if pretrained:
        raise UserError(f"pretrained=true needs a timm/<name> or torchvision/<name> network, not {name!r}")
    builder = _builder(name.lower(), classes, width, mean, std)
    if builder is None:
        close = difflib.get_close_matches(name.lower(), KNOWN, 1)
        hint = (
            f"did you mean {close[0]!r}?"
            if close
            else f"expected one of {', '.join(KNOWN)}, timm/… or torchvision/…"
        )
        raise UserError(f"network {name!r} is not known: {hint}")
    return builder()


def _builder(
    name: str, classes: int, width: float | None, mean: Sequence[float], std: Sequence[float]
) -> Callable[[], SmallNet] | None:
    """What makes the named network, or None for a name that is not known."""
    sizes = {"mean": mean, "std": std}
    if m := re.fullmatch(r"resnet(\d+)", name):
        depth = int(m[1])
        if width is not None and (width < 1 or width != int(width)):
            raise UserError(f"width={width} of {name}: expected a whole number of channels, 1 or more")
        if depth in CIFAR_DEPTHS:
            return lambda: cifar_resnet(depth, classes, int(width or 16), **sizes)
        if depth in FOUR_STAGES:
            return lambda: four_stage_resnet(depth, classes, int(width or 64), **sizes)
        return None
    if name in ("mobilenetv1", "mobilenetv2"):
        make = mobilenet_v1 if name == "mobilenetv1" else mobilenet_v2
        return lambda: make(classes, width or 1.0, **sizes)
    fixed: Callable[[], SmallNet] | None = None
    if m := re.fullmatch(r"resnet(8|32)x([1-9]\d*)", name):
        fixed = lambda: wide_cifar_resnet(int(m[1]), int(m[2]), classes, **sizes)  # noqa: E731
    elif (m := re.fullmatch(r"wrn-?(\d+)-([1-9]\d*)", name)) and (int(m[1]) - 4) % 6 == 0 and int(m[1]) > 4:
        fixed = lambda: wrn(int(m[1]), int(m[2]), classes, **sizes)  # noqa: E731
    elif (m := re.fullmatch(r"vgg(\d+)", name)) and int(m[1]) in VGG:
        fixed = lambda: vgg(int(m[1]), classes, **sizes)  # noqa: E731
    elif name in ("shufflenetv1", "shufflenetv2"):
        fixed = lambda: (shufflenet_v1 if name == "shufflenetv1" else shufflenet_v2)(classes, **sizes)  # noqa: E731
    if fixed is not None and width is not None:
        raise UserError(f"width={width} is not for {name}: its name says how wide it is")
    return fixed
