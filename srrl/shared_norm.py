"""BatchNorm over the samples of all processes: each sees a part of a step's batch, and its statistics alone are noisier."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; so is its gradient, which reaches every process's own part."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class _Shared:
    """What replaces the forward pass of a BatchNorm in training; mixed into its class by :func:`share_batchnorm`."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            y = self._normalised(x.float()).to(x.dtype)
        return _activated(self, y)

    def _normalised(self, x: Tensor) -> Tensor:
        around = [0, *range(2, x.ndim)]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        count = x.new_full((1,), x.numel() / x.shape[1])
        sums = _SumOverProcesses.apply(torch.cat([x.sum(around), count]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - mean.view(shape)  # before it is squared: E[x²] − E[x]² would lose digits
        variance = _SumOverProcesses.apply(centred.square().sum(around)) / count
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked += 1
                share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), share)
                unbiased = variance.detach() * (count / (count - 1).clamp(min=1))
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)
        y = centred * (variance + self.eps).rsqrt().view(shape)
        return y * self.weight.view(shape) + self.bias.view(shape) if self.affine else y


def _activated(module: nn.Module, y: Tensor) -> Tensor:
    """What timm's BatchNorm with an activation does after it."""
    for part in ("drop", "act"):
        y = getattr(module, part)(y) if isinstance(getattr(module, part, None), nn.Module) else y
    return y


class _Alone(_BatchNorm):
    """In the place of torch's SyncBatchNorm, and of timm's with an activation."""

    def forward(self, x: Tensor) -> Tensor:
        return _activated(self, super().forward(x))

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions, as SyncBatchNorm takes them."""


def unshare_batchnorm(model: nn.Module) -> None:
    """The inverse of :func:`share_batchnorm`, in place: for a network that one process works with while others do not."""
    for module in model.modules():
        if isinstance(module, _Shared):
            module.__class__ = type(module).__bases__[1]
        elif isinstance(module, nn.SyncBatchNorm):
            module.__class__ = _Alone


def share_batchnorm(model: nn.Module, skip: str = "teacher.") -> None:
    """Makes every BatchNorm of a model, in place, one over the samples of all processes; names and weights stay.

    Those whose names begin with ``skip`` are left as they are. On GPUs it is torch's SyncBatchNorm, which exists there alone; on CPUs, over gloo, one that does the same here.
    """
    for name, module in list(model.named_modules()):
        if not isinstance(module, _BatchNorm) or isinstance(module, (nn.SyncBatchNorm, _Shared)):
            continue
        if name.startswith(skip):
            continue
        if any(tensor.is_cuda for tensor in module.state_dict().values()):
            from timm.layers import convert_sync_batchnorm  # torch's own knows none with an activation

            model.set_submodule(name, convert_sync_batchnorm(module))
        else:
            module.__class__ = type(f"Shared{type(module).__name__}", (_Shared, type(module)), {})
