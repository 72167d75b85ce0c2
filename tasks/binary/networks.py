"""ResNets of binary convolutions: one shortcut a convolution, real stem, downsampling and classifier (Bi-Real Net)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from srrl.errors import UserError

from ..classification.networks import CIFAR_DEPTHS, FOUR_STAGES, SmallNet, conv_bn_relu
from .layers import BinaryConv2d, Precision, binary_layers


class BinaryNet(SmallNet):
    """A small network that clips its latent weights after each update."""

    def updated(self) -> None:
        for layer in binary_layers(self):
            layer.clip()


class BinaryUnit(nn.Module):
    """BatchNorm(binary 3×3 convolution of x) + shortcut of x, then PReLU.

    The shortcut halves the size by an average pool and changes the channels by a real 1×1 convolution with BatchNorm.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, precision: Precision):
        super().__init__()
        self.conv = BinaryConv2d(inputs, outputs, 3, stride, 1, precision)
        self.bn = nn.BatchNorm2d(outputs)
        layers: list[nn.Module] = [nn.AvgPool2d(2, ceil_mode=True)] if stride == 2 else []
        if inputs != outputs:
            layers += [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.shortcut = nn.Sequential(*layers)
        self.activation = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.bn(self.conv(x)) + self.shortcut(x))


def _stages(
    counts: Sequence[int], widths: Sequence[int], channels: int, precision: Precision
) -> tuple[list[nn.Module], int]:
    """Stages of units, two for each block of the real network."""
    stages = []
    for level, (count, width) in enumerate(zip(counts, widths, strict=True)):
        units = []
        for i in range(2 * count):
            units.append(BinaryUnit(channels, width, 2 if level and not i else 1, precision))
            channels = width
        stages.append(nn.Sequential(*units))
    return stages, channels


def binary_resnet(
    name: str,
    classes: int,
    *,
    width: float | None = None,
    precision: Precision,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> BinaryNet:
    """The binary form of resnet10/18/34 (four stages) or of a CIFAR resnet8 … 110 (three stages).

    Pictures of up to 96 pixels get a 3×3 stem of stride 1, larger ones the 7×7 one of stride 2 with its pooling.
    Raises UserError for a network without a binary form here.
    """
    depth = int(name.removeprefix("resnet")) if name.removeprefix("resnet").isdigit() else 0
    if depth in CIFAR_DEPTHS:
        base, counts = int(width or 16), [(depth - 2) // 6] * 3
    elif depth in FOUR_STAGES and depth != 50:
        base, counts = int(width or 64), list(FOUR_STAGES[depth])
    else:
        known = ", ".join(f"resnet{d}" for d in (*CIFAR_DEPTHS, *(d for d in FOUR_STAGES if d != 50)))
        raise UserError(f"network {name!r} has no binary form: expected one of {known}")
    widths = [base * 2**level for level in range(len(counts))]
    if image_size > 96:
        stem: nn.Module = nn.Sequential(
            nn.Conv2d(3, base, 7, 2, 3, bias=False),
            nn.BatchNorm2d(base),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        )
    else:
        stem = conv_bn_relu(3, base)
    stages, channels = _stages(counts, widths, base, precision)
    return BinaryNet(stem, stages, channels, classes, mean, std)


def count_operations(model: nn.Module, image_size: int) -> dict[str, float]:
    """BOPs (binary multiply-adds), FLOPs (real multiply-adds) and OPs = BOPs/64 + FLOPs of one picture."""
    from srrl.inspection import count_macs

    binary = 0

    def add(module: BinaryConv2d, args: tuple, out: Tensor) -> None:
        nonlocal binary
        if module.precision == "binary":
            binary += out[0].numel() * module.weight[0].numel()

    handles = [m.register_forward_hook(add) for m in model.modules() if isinstance(m, BinaryConv2d)]
    try:
        total = count_macs(model, image_size)
    finally:
        for handle in handles:
            handle.remove()
    return {"bops": float(binary), "flops": float(total - binary), "ops": binary / 64 + total - binary}


def packed_size(model: nn.Module) -> int:
    """Bytes of the weights with one bit for each binary one and 32 for each other parameter and BatchNorm statistic."""
    bits = 0
    one_bit = {
        id(m.weight) for m in model.modules() if isinstance(m, BinaryConv2d) and m.precision == "binary"
    }
    for p in model.parameters():
        bits += p.numel() * (1 if id(p) in one_bit else 32)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            bits += 32 * (m.running_mean.numel() + m.running_var.numel())
    return -(-bits // 8)


@torch.no_grad()
def begin_second_stage(model: nn.Module) -> None:
    """Scales of a network trained with real weights made fit for their signs."""
    for layer in binary_layers(model):
        layer.rescale()
