"""Random crops and flips of whole batches at once, on any device, drawn from (seed, epoch, sample) alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def keyed_uniform(seed: int, epoch: int, index: Tensor, draws: int) -> Tensor:
    """(N,) sample numbers → (N, draws) float64 in [0, 1): SplitMix64 (Steele et al. 2014) at the key of each draw.

    A sample gets the same numbers whatever batch, worker, process or device it comes in: the arithmetic is that of
    whole numbers, on the device of ``index``.
    """
    key = _mix(_mix(torch.tensor(_signed(seed + _GAMMA))) ^ epoch)
    key = _mix(key.item() ^ index)[:, None]
    step = torch.arange(1, draws + 1, device=index.device) * _signed(_GAMMA)
    return _shifted(_mix(key + step), 11).double() * 2.0**-53


def _signed(value: int) -> int:
    """The int64 of the same 64 bits: torch has hardly any arithmetic of unsigned ones, and that of int64 wraps alike."""
    return (value + 2**63) % 2**64 - 2**63


def _shifted(z: Tensor, bits: int) -> Tensor:
    """The unsigned shift to the right: that of int64 fills with the sign."""
    return (z >> bits) & (2 ** (64 - bits) - 1)


_GAMMA = 0x9E3779B97F4A7C15
_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shifted(z, 30)) * _FIRST
    z = (z ^ _shifted(z, 27)) * _SECOND
    return z ^ _shifted(z, 31)


def crop_and_flip(images: Tensor, uniform: Tensor, pad: int, flip: float) -> Tensor:
    """Each picture of (N, 3, H, W) moved by up to ``pad`` pixels over black and mirrored with probability ``flip``.

    uniform: (N, 3) in [0, 1): row, column, flip. One gather of pixels for the batch; the result is channels-last.
    """
    n, channels, height, width = images.shape
    padded = F.pad(images.permute(0, 2, 3, 1), (0, 0, pad, pad, pad, pad)).contiguous()
    top, left = (uniform[:, :2] * (2 * pad + 1)).long().T
    across = torch.arange(width, device=images.device)
    columns = left[:, None] + torch.where(uniform[:, 2:] < flip, width - 1 - across, across)
    first = torch.arange(n, device=images.device) * padded.shape[1]
    rows = (first + top)[:, None] + torch.arange(height, device=images.device)
    pixels = rows[:, :, None] * padded.shape[2] + columns[:, None, :]
    chosen = padded.view(-1, channels).index_select(0, pixels.flatten())
    return chosen.view(n, height, width, channels).permute(0, 3, 1, 2)
