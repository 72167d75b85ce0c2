"""Batches of labelled samples of one domain and unlabelled ones of another, at a fixed share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

Key = int | tuple[int, int]


def mixed(source: Dataset, target: Dataset, share: float, seed: int = 0) -> Mixture:
    """The mixture of the two, made a batch at a time where both lie in memory."""
    both = all(getattr(data, "in_memory", False) for data in (source, target))
    return (MemoryMixture if both else Mixture)(source, target, share, seed)


class Mixture(Dataset):
    """An epoch of it has as many samples as ``source``, of which ``share`` come from ``target``.

    Each part is gone through in a new random order before any of its samples comes again, so that over the epochs all
    have their turn, whatever the sizes. What comes at (epoch, place) depends on that and on ``seed`` alone. Samples say
    with ``labelled`` which of the two they are of; the labels of ``target`` are whatever that data set gives.
    """

    def __init__(self, source: Dataset, target: Dataset, share: float, seed: int = 0):
        self.source, self.target, self.share, self.seed = source, target, share, seed
        self.parts = (source, target)
        self._order = lru_cache(maxsize=4)(
            self._permutation
        )  # an epoch touches at most two orders of each part

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        epoch, number = key if isinstance(key, tuple) else (0, key)
        part, turn, sample = (int(found[0]) for found in self.places(epoch, np.array([number])))
        return {**self.parts[part][turn, sample], "labelled": part == 0, "index": number}

    def places(self, epoch: int, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What comes at these places (B,) of an epoch, an array (B,) each: 0 for the source or 1 for the target, how often
        all of that part's samples have been through, and which one it is."""
        before = np.floor(numbers * self.share).astype(np.int64)
        part = np.floor((numbers + 1) * self.share).astype(np.int64) - before
        targets = int(np.floor(len(self) * self.share))
        # place within the part, counted over all epochs
        rank = np.where(part, epoch * targets + before, epoch * (len(self) - targets) + numbers - before)
        turn, position = np.divmod(rank, np.where(part, len(self.target), len(self.source)))
        sample = np.empty_like(position)
        for p, t in set(zip(part.tolist(), turn.tolist())):
            here = (part == p) & (turn == t)
            sample[here] = self._order(p, t)[position[here]]
        return part, turn, sample

    def _permutation(self, part: int, turn: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 0xD0, part, turn]).permutation(len(self.parts[part]))

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_order"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._order = lru_cache(maxsize=4)(self._permutation)


class MemoryMixture(Mixture):
    """The same of two data sets in memory: whole batches, without Python for each sample, on the pictures' device."""

    in_memory = True

    def __getitems__(self, keys: Sequence[Key] | tuple[int, np.ndarray]) -> dict[str, Tensor]:
        """A batch at once. ``keys``: (epoch, places (B,)), or a list of keys of one epoch."""
        if isinstance(keys, tuple):
            epoch, numbers = keys
        else:
            epoch = keys[0][0] if isinstance(keys[0], tuple) else 0
            numbers = np.array([k[1] if isinstance(k, tuple) else k for k in keys])
        part, turn, sample = self.places(epoch, numbers)
        batches, order = [], []
        # by pass: the augmentation's draws of a batch are of one epoch
        for p, t in sorted(set(zip(part.tolist(), turn.tolist()))):
            at = np.flatnonzero((part == p) & (turn == t))
            batch = self.parts[p].__getitems__((t, sample[at]))
            batch["labelled"] = torch.full((len(at),), p == 0, device=self.device)
            batches.append(batch)
            order.append(at)
        back = torch.from_numpy(np.concatenate(order).argsort()).to(self.device)
        batch = {k: torch.cat([b[k] for b in batches])[back] for k in batches[0]}
        return {**batch, "index": torch.from_numpy(numbers).to(self.device)}

    @property
    def device(self) -> torch.device:
        """Where the pictures are, and batches are made."""
        return self.source.device

    @property
    def nbytes(self) -> int:
        """Memory that the pictures take."""
        return self.source.nbytes + self.target.nbytes

    def to(self, device: torch.device) -> MemoryMixture:
        """The same on another device."""
        return MemoryMixture(self.source.to(device), self.target.to(device), self.share, self.seed)

    @staticmethod
    def collate(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch as :meth:`__getitems__` made it."""
        return batch
