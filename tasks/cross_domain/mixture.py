"""Batches of labelled samples of one domain and unlabelled ones of another, at a fixed share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import floor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

Key = int | tuple[int, int]


class Mixture(Dataset):
    """An epoch of it has as many samples as ``source``, of which ``share`` come from ``target``.

    Each part is gone through in a new random order before any of its samples comes again, so that over the epochs all
    have their turn, whatever the sizes. What comes at (epoch, place) depends on that and on ``seed`` alone. Samples say
    with ``labelled`` which of the two they are of; the labels of ``target`` are whatever that data set gives.
    """

    def __init__(self, source: Dataset, target: Dataset, share: float, seed: int = 0):
        self.source, self.target, self.share, self.seed = source, target, share, seed
        self.in_memory = getattr(source, "in_memory", False) and getattr(target, "in_memory", False)
        self.parts = (source, target)
        self._order = lru_cache(maxsize=4)(
            self._permutation
        )  # an epoch touches at most two orders of each part

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        part, inner = self.place(key)
        return {**self.parts[part][inner], "labelled": part == 0, "index": _number(key)}

    def __getitems__(self, keys: Sequence[Key]) -> Any:
        """A whole batch: as one dictionary where both data sets lie in memory, else a list of samples."""
        if not self.in_memory:
            return [self[key] for key in keys]
        found = [self.place(key) for key in keys]
        batches, order = [], []
        for part, data in enumerate(self.parts):
            # by pass: the augmentation's draws of a batch are of one epoch
            for turn in sorted({inner[0] for p, inner in found if p == part}):
                at = [i for i, (p, inner) in enumerate(found) if p == part and inner[0] == turn]
                batch = data.__getitems__([found[i][1] for i in at])
                batch["labelled"] = torch.full((len(at),), part == 0)
                batch["index"] = torch.tensor([_number(keys[i]) for i in at])
                batches.append(batch)
                order += at
        back = torch.tensor(order).argsort()
        return {k: torch.cat([b[k] for b in batches])[back] for k in batches[0]}

    @property
    def collate(self) -> Any:
        """What the loader does with that: nothing for a dictionary; None is torch's own way."""
        return _as_it_is if self.in_memory else None

    def place(self, key: Key) -> tuple[int, tuple[int, int]]:
        """(0 for the source or 1 for the target, (how often its samples have all been through, sample)) of a key."""
        epoch, i = key if isinstance(key, tuple) else (0, key)
        before, until = floor(i * self.share), floor((i + 1) * self.share)
        part = until - before
        rank, count = (before, floor(len(self) * self.share)) if part else (i - before, 0)
        count = count if part else len(self) - floor(len(self) * self.share)
        turn, position = divmod(epoch * count + rank, len(self.parts[part]))
        return part, (turn, int(self._order(part, turn)[position]))

    def _permutation(self, part: int, turn: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 0xD0, part, turn]).permutation(len(self.parts[part]))

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_order"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._order = lru_cache(maxsize=4)(self._permutation)


def _number(key: Key) -> int:
    return key[1] if isinstance(key, tuple) else key


def _as_it_is(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return batch
