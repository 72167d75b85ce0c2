"""Binary networks for inference: layers on packed signs that compute exactly what the float simulation computes.

The float simulation (:mod:`layers`) multiplies ±1 in float32, which is as slow as a real network. Here the signs of
inputs and weights are counted or looked up by Numba (:mod:`kernels`); what stays real is torch's, or rounds as torch
does. One thread; the CPU alone.
"""

from __future__ import annotations

import copy
import functools

import numpy as np
import torch
from torch import Tensor, nn

from srrl.errors import UserError
from srrl.model import Normalize

from .layers import BinaryConv2d, BinaryLinear
from .networks import BinaryUnit


@functools.cache
def obstacle() -> str | None:
    """Why packed layers cannot run here, or None where they can."""
    try:
        from llvmlite.binding import get_host_cpu_features
        from numba import njit  # noqa: F401 - llvmlite alone is not enough
    except ImportError:
        return "Numba is missing (pip install 'srrl[fast]')"
    if not get_host_cpu_features().get("avx2"):
        return "packed kernels need an x86 processor with AVX2"
    return None


class PackedConv2d(nn.Module):
    """A BinaryConv2d of binary precision, packed: float32 (N, C, H, W) → (N, K, H', W'), channels last in memory."""

    def __init__(self, layer: BinaryConv2d):
        super().__init__()
        self.kernel, self.stride, self.padding = layer.kernel_size[0], layer.stride[0], layer.padding[0]
        self.inputs, self.outputs = layer.in_channels, layer.out_channels
        self._pack(layer.weight, layer.alpha)

    def _pack(self, weight: Tensor, alpha: Tensor) -> None:
        from . import kernels

        terms = weight[0].numel()
        if terms > kernels.LARGEST:
            raise UserError(f"a sum of {terms} signs has no packed form: expected {kernels.LARGEST} at most")
        # numpy arrays, since nothing in them is for .to(): the kernels read plain memory of the CPU
        self.weights, self.plan, factor = kernels.packed(weight.detach().numpy(), self.padding)
        self.alpha = (alpha.detach() * factor).numpy()  # exact: the factor is 1 or 2

    def room(self, x: Tensor) -> Tensor:
        """An output map for x, not filled. Raises ValueError for an x that does not fit."""
        if x.shape[1] != self.inputs:
            raise ValueError(f"{x.shape[1]} channels, expected {self.inputs}")
        n, _, h, w = x.shape
        h, w = ((side + 2 * self.padding - self.kernel) // self.stride + 1 for side in (h, w))
        if min(h, w) < 1:
            raise ValueError(f"a map of {tuple(x.shape[2:])} is smaller than the kernel")
        return torch.empty(n, self.outputs, h, w, memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        from . import kernels

        out = self.room(x)
        kernels.convolve(
            rows_of(x),
            self.padding,
            self.weights,
            self.plan,
            self.stride,
            self.alpha,
            rows_of(out),
        )
        return out

    def extra_repr(self) -> str:
        return f"{self.inputs}, {self.outputs}, kernel={self.kernel}, stride={self.stride}, padding={self.padding}"


class PackedLinear(PackedConv2d):
    """A BinaryLinear of binary precision, packed: (…, C) → (…, K)."""

    def __init__(self, layer: BinaryLinear):
        nn.Module.__init__(self)
        self.kernel, self.stride, self.padding = 1, 1, 0
        self.inputs, self.outputs, self.bias = layer.in_features, layer.out_features, layer.bias
        self._pack(layer.weight[:, :, None, None], layer.alpha)

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x.reshape(-1, self.inputs, 1, 1)).reshape(*x.shape[:-1], self.outputs)
        return out if self.bias is None else out + self.bias


class PackedUnit(nn.Module):
    """A BinaryUnit, packed: everything behind the convolution is done while its sums are at hand."""

    def __init__(self, unit: BinaryUnit):
        super().__init__()
        self.conv, self.shortcut = PackedConv2d(unit.conv), unit.shortcut
        self.scale, self.shift = affine_of(unit.bn)
        self.slope = unit.activation.weight.detach().numpy().copy()

    def forward(self, x: Tensor) -> Tensor:
        from . import kernels

        conv, out = self.conv, self.conv.room(x)
        kernels.convolve_unit(
            rows_of(x),
            conv.padding,
            conv.weights,
            conv.plan,
            conv.stride,
            conv.alpha,
            self.scale,
            self.shift,
            self.slope,
            batchnorm_rounds_once(),
            rows_of(self.shortcut(x)),
            rows_of(out),
        )
        return out


class PooledStem(nn.Module):
    """The stem of large pictures: its convolution in torch, then BatchNorm, ReLU and pooling in one pass."""

    def __init__(self, stem: nn.Sequential):
        super().__init__()
        self.conv = stem[0]
        self.scale, self.shift = affine_of(stem[1])

    def forward(self, x: Tensor) -> Tensor:
        from . import kernels

        x = self.conv(x)
        n, c, h, w = x.shape
        out = torch.empty(n, c, (h + 1) // 2, (w + 1) // 2, memory_format=torch.channels_last)
        kernels.pool_stem(rows_of(x), self.scale, self.shift, batchnorm_rounds_once(), rows_of(out))
        return out


class NormalizeRows(nn.Module):
    """(x − mean) / std a channel, row by row of a channels-last map: long vectors instead of three numbers."""

    def __init__(self, layer: Normalize):
        super().__init__()
        self.mean, self.std = layer.mean.flatten(), layer.std.flatten()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
        n, h, w, c = rows.shape
        out = (rows.reshape(n, h, w * c) - self.mean.repeat(w)).div_(self.std.repeat(w))
        return out.view(n, h, w, c).permute(0, 3, 1, 2)


def rows_of(x: Tensor) -> np.ndarray:
    """x (N, C, H, W) as an array (N, H, W, C), without a copy where channels are last in memory."""
    if x.dtype != torch.float32 or x.device.type != "cpu":
        raise ValueError(f"packed layers take float32 on the CPU, not {x.dtype} on {x.device}")
    return x.detach().permute(0, 2, 3, 1).contiguous().numpy()


@torch.no_grad()
def affine_of(bn: nn.BatchNorm2d) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift of a BatchNorm in evaluation, to the last bit, by asking torch's: it is one and zero that go in."""
    centred = copy.deepcopy(bn).eval()
    shift = centred(torch.zeros(1, bn.num_features, 1, 1))
    centred.running_mean.zero_()
    centred.bias.zero_()
    scale = centred(torch.ones(1, bn.num_features, 1, 1))
    return scale.flatten().numpy(), shift.flatten().numpy()


@functools.cache
def batchnorm_rounds_once() -> bool:
    """Whether torch's BatchNorm multiplies and adds with one rounding here, which depends on the processor and the build."""
    x = torch.linspace(-3, 3, 4001).view(1, 1, 1, -1)
    bn = nn.BatchNorm2d(1).eval()
    with torch.no_grad():
        bn.weight.fill_(1 / 3)
        bn.bias.fill_(0.1)
        y = bn(x)
    scale, shift = (torch.from_numpy(v) for v in affine_of(bn))
    return not torch.equal(y, x * scale + shift)


def pack(model: nn.Module) -> nn.Module:
    """A copy of a binary network on packed layers, for inference on the CPU. UserError where they cannot run.

    It gives the numbers of the float simulation to the last bit, which is to be run with channels last in memory.
    """
    if why := obstacle():
        raise UserError(f"no packed inference here: {why}")
    model = copy.deepcopy(model).cpu().eval().to(memory_format=torch.channels_last)
    for old, new in ((BinaryUnit, PackedUnit), (BinaryConv2d, PackedConv2d), (BinaryLinear, PackedLinear)):
        for name, module in list(model.named_modules()):
            if isinstance(module, old):
                model.set_submodule(name, new(module))
    model.normalize = NormalizeRows(model.normalize)
    if isinstance(model.stem[-1], nn.MaxPool2d):
        model.stem = PooledStem(model.stem)
    return model
