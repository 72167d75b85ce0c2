"""Order of samples keyed by (seed, epoch), the data loader, and data sets of other shapes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from srrl.interrupt import quiet_worker


class EpochBatches(Sampler):
    """Batches of (epoch, index) pairs: a permutation that depends on (seed, epoch) alone.

    ``start`` skips the first batches of an epoch, which is how a run goes on in the middle of one. The last batch is
    dropped where it is not full (BatchNorm cannot use a batch of one), unless it is the only one.
    """

    def __init__(self, length: int, batch_size: int, seed: int, limit: int | None = None):
        self.length, self.batch_size, self.seed, self.limit = length, batch_size, seed, limit
        self.epoch, self.start = 0, 0

    @property
    def total(self) -> int:
        """Batches in a whole epoch."""
        return min(max(1, self.length // self.batch_size), self.limit or self.length)

    def __len__(self) -> int:
        return self.total - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        for b in range(self.start, self.total):
            yield [(self.epoch, int(i)) for i in order[b * self.batch_size : (b + 1) * self.batch_size]]


class KeyedDataset(Dataset):
    """Any map-style data set of (image, label) pairs, as the trainer wants it.

    Samples become dictionaries with ``image``, ``label`` and ``index``. While a sample is made, torch's and NumPy's
    global generators are seeded with (seed, epoch, index), so that random transforms of torchvision repeat exactly.
    """

    def __init__(self, inner: Dataset, seed: int = 0):
        self.inner, self.seed = inner, seed

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        state = np.random.SeedSequence([self.seed, epoch, index]).generate_state(2)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(state[0]))
            saved = np.random.get_state()
            np.random.seed(int(state[1]))
            try:
                sample = self.inner[index]
            finally:
                np.random.set_state(saved)
        if isinstance(sample, dict):
            return {**sample, "index": index}
        image, label = sample
        return {"image": torch.as_tensor(image), "label": torch.as_tensor(label), "index": index}


def worker_count(setting: int | str) -> int:
    """``auto``: one helper process on a small CPU machine, up to eight beside a GPU."""
    if setting != "auto":
        return int(setting)
    return min(8, os.cpu_count() or 1) if torch.cuda.is_available() else 1


def train_loader(
    dataset: Dataset, batch_size: int, seed: int, workers: int | str, limit: int | None = None
) -> tuple[DataLoader, EpochBatches]:
    """Loader over keyed samples, and its sampler, whose ``epoch`` and ``start`` the trainer sets."""
    batches = EpochBatches(len(dataset), min(batch_size, len(dataset)), seed, limit)
    count = worker_count(workers)
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=count,
        persistent_workers=count > 0,
        worker_init_fn=quiet_worker,
        pin_memory=torch.cuda.is_available(),
    )
    return loader, batches


def eval_loader(dataset: Dataset, batch_size: int = 64) -> DataLoader:
    """Loader in order, without augmentation's epochs; in the calling process."""
    return DataLoader(dataset, batch_size=batch_size, shuffle=False)
