"""Looking into a model: pictures of noise that it takes, which of its weights count, their number, its operations."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from srrl.errors import UserError
from srrl.frozen import Frozen

PROBE_SIZES = (64, 224, 32, 256)  # after the size that a model itself names, if it does
T = TypeVar("T")


def on_noise(model: nn.Module, name: str, look: Callable[[Tensor], T]) -> T:
    """``look`` at noise pictures (2, 3, S, S) of a size that the model takes, in eval mode and without gradients.

    ``name`` is what messages call the model. Raises UserError where it takes none of the usual sizes.
    """
    inner = model.model if isinstance(model, Frozen) else model
    with probing(inner) as device:
        for size in dict.fromkeys((getattr(inner, "probe_size", PROBE_SIZES[0]), *PROBE_SIZES)):
            noise = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
            try:
                return look(noise)
            except (RuntimeError, AssertionError, ValueError) as error:
                refused = error
    raise UserError(
        f"the {name} takes no picture of {', '.join(map(str, PROBE_SIZES))} pixels ({str(refused).splitlines()[0]}): "
        "give it an attribute probe_size"
    )


def part_of(model: nn.Module, name: str, *, head: bool) -> nn.Module:
    """A copy of a model that keeps only the weights of its head, or only those of its features."""
    inner = copy.deepcopy(model.model if isinstance(model, Frozen) else model)
    trained = {n: p.requires_grad for n, p in inner.named_parameters()}
    inner.requires_grad_(True)

    def cut(noise: Tensor) -> None:
        features = inner.forward_features(noise)
        if head:
            features = features.detach()
        keep_used(inner, lambda: inner.forward_head(features) if head else inner.forward_features(noise))

    on_noise(inner, name, cut)
    for n, p in inner.named_parameters():
        p.requires_grad_(trained[n])
    return inner


def keep_used(model: nn.Module, run: Callable[[], Tensor]) -> None:
    """Replaces the modules of ``model`` whose weights ``run()`` does not depend on by nothing."""
    named = dict(model.named_parameters())
    with torch.enable_grad():
        gradients = torch.autograd.grad(run().sum(), list(named.values()), allow_unused=True)
    used = {name.rpartition(".")[0] for name, g in zip(named, gradients) if g is not None}
    for owner in {name.rpartition(".")[0] for name in named} - used - {""}:
        if not list(model.get_submodule(owner).children()):
            model.set_submodule(owner, nn.Identity())


def training_format(model: nn.Module) -> torch.memory_format:
    """The memory format to train in: channels_last, which convolutions like, unless it would crash.

    oneDNN's backward of a strided 1×1 convolution with fewer than 8 input channels writes outside its buffer in that
    format on CPUs with AVX2 (seen with torch 2.15), so that such a model keeps the default format.
    """
    risky = any(
        isinstance(m, nn.Conv2d) and m.in_channels < 8 and m.kernel_size == (1, 1) and max(m.stride) > 1
        for m in model.modules()
    )
    return torch.contiguous_format if risky else torch.channels_last


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, frozen ones included, buffers not."""
    return sum(p.numel() for p in model.parameters())


def count_macs(model: nn.Module, image_size: int) -> int:
    """Multiply-adds of one image (3, S, S): torch's operation counter counts each as two, so half of it."""
    from torch.utils.flop_counter import FlopCounterMode

    parameter = next(model.parameters())
    was = model.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, image_size, image_size, device=parameter.device))
    model.train(was)
    return counter.get_total_flops() // 2


def probe_channels(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Channels of the map that a model gives of a zero image (C, H, W)."""
    with probing(model) as device:
        return model.forward_features(torch.zeros(1, *shape, device=device)).shape[1]


@contextlib.contextmanager
def probing(model: nn.Module):
    """Eval mode without gradients for a look at the model, on its device; every module's mode is put back."""
    modes = {m: m.training for m in model.modules()}
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if hasattr(model, "normalize"):
        model.normalize.to(device)
    try:
        with torch.no_grad():
            model.eval()
            yield device
    finally:
        for module, mode in modes.items():
            module.training = mode
