"""Convolution and linear layers of one-bit weights and activations, with straight-through gradients.

sign(x) is +1 for x ≥ 0 (−0.0 included) and −1 below, everywhere in this project: torch.sign gives 0 at 0.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Precision = Literal["real", "activations", "binary"]


def sign(x: Tensor) -> Tensor:
    """+1 where x ≥ 0, else −1, in x's own type."""
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


class _Sign(torch.autograd.Function):
    """sign(x); what its gradient is taken for, each estimator says."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return sign(x)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])


class _ClippedIdentity(_Sign):
    """The gradient passes where |x| ≤ 1 (Courbariaux et al. 2016, arXiv 1602.02830, Eq. 4)."""

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * (x.abs() <= 1)


class _ApproxSign(_Sign):
    """The gradient of a piecewise parabola: 2 − 2|x| for |x| < 1 (Bi-Real Net, arXiv 1808.00278, Eq. 8)."""

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * (2 - 2 * x.abs()).clamp(min=0)


def binarize_weight(weight: Tensor) -> Tensor:
    """sign of the weights, with the clipped identity as gradient."""
    return _ClippedIdentity.apply(weight)


def binarize_activation(x: Tensor) -> Tensor:
    """sign of the activations, with ApproxSign's gradient."""
    return _ApproxSign.apply(x)


class _Binary:
    """What both layers share: the precision, and one learnt scale α an output channel, applied after the product.

    Inside of it, ±1 would drift off its values in half precision. α starts at the mean of |weight| (XNOR-Net, arXiv
    1603.05279, Eq. 6) for binary weights, at 1 for real ones.
    """

    precision: Precision
    alpha: nn.Parameter

    def _begin(self, precision: Precision) -> None:
        self.precision = precision
        flat = self.weight.detach().flatten(1)
        start = flat.abs().mean(1) if precision == "binary" else torch.ones(len(flat))
        self.alpha = nn.Parameter(start.clone())

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Input and weight as they enter the product."""
        x = x if self.precision == "real" else binarize_activation(x)
        weight = binarize_weight(self.weight) if self.precision == "binary" else self.weight
        return x, weight.to(x.dtype)

    @torch.no_grad()
    def clip(self) -> None:
        """Latent weights back into [−1, 1], beyond which they get no gradient; for training with one-bit weights."""
        if self.precision == "binary":
            self.weight.clamp_(-1, 1)

    @torch.no_grad()
    def rescale(self) -> None:
        """α times the mean of |weight|: what keeps the output's size when real weights become signs."""
        self.alpha.mul_(self.weight.flatten(1).abs().mean(1))


class BinaryConv2d(nn.Conv2d, _Binary):
    """A convolution without bias of sign(x) with sign(weight), scaled by α a channel; padding is with zeros, not −1.

    precision: "real" (a plain convolution), "activations" (real weights: the first stage of training) or "binary".
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        precision: Precision = "binary",
    ):
        super().__init__(inputs, outputs, kernel, stride, padding, bias=False)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self._begin(precision)

    def forward(self, x: Tensor) -> Tensor:
        x, weight = self.operands(x)
        return F.conv2d(x, weight, None, self.stride, self.padding) * self.alpha.view(1, -1, 1, 1).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, precision={self.precision}"


class BinaryLinear(nn.Linear, _Binary):
    """A linear layer of sign(x) with sign(weight), scaled by α an output, then the bias."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True, precision: Precision = "binary"):
        super().__init__(inputs, outputs, bias)
        self._begin(precision)

    def forward(self, x: Tensor) -> Tensor:
        x, weight = self.operands(x)
        out = F.linear(x, weight) * self.alpha.to(x.dtype)
        return out if self.bias is None else out + self.bias.to(x.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, precision={self.precision}"


def binary_layers(model: nn.Module) -> list[nn.Module]:
    """Every BinaryConv2d and BinaryLinear of a network, in order."""
    return [m for m in model.modules() if isinstance(m, BinaryConv2d | BinaryLinear)]
