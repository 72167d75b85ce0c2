"""Random crops and flips of whole batches at once, drawn from (seed, epoch, sample) alone."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def keyed_uniform(seed: int, epoch: int, index: np.ndarray, draws: int) -> np.ndarray:
    """(N,) sample numbers → (N, draws) float64 in [0, 1): SplitMix64 (Steele et al. 2014) at the key of each draw.

    A sample gets the same numbers whatever batch, worker or process it comes in.
    """
    with np.errstate(over="ignore"):
        key = _mix(_mix(np.uint64(seed) + _GAMMA) ^ np.uint64(epoch))
        key = _mix(key ^ index.astype(np.uint64))[:, None]
        return (_mix(key + _GAMMA * np.arange(1, draws + 1, dtype=np.uint64)) >> np.uint64(11)) * 2.0**-53


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def crop_and_flip(images: Tensor, uniform: np.ndarray, pad: int, flip: float) -> Tensor:
    """Each picture of (N, 3, H, W) moved by up to ``pad`` pixels over black and mirrored with probability ``flip``.

    uniform: (N, 3) in [0, 1): row, column, flip. One gather for the batch; the result is channels-last.
    """
    n, _, height, width = images.shape
    padded = F.pad(images, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
    top, left = (torch.from_numpy((uniform[:, i] * (2 * pad + 1)).astype(np.int64)) for i in (0, 1))
    mirrored = torch.from_numpy(uniform[:, 2] < flip)
    rows = top[:, None] + torch.arange(height)
    columns = left[:, None] + torch.where(
        mirrored[:, None], torch.arange(width - 1, -1, -1), torch.arange(width)
    )
    rows, columns = rows.to(images.device), columns.to(images.device)
    sample = torch.arange(n, device=images.device)[:, None, None]
    return padded[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
