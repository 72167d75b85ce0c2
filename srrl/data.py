"""Order of samples keyed by (seed, epoch), the data loader, and data sets of other shapes."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from srrl.errors import UserError
from srrl.interrupt import quiet_worker

# batches of a whole training: with fewer than the first, networks that start from nothing hardly learn (60 pictures of three
# classes: 30 batches give 47 % right, 210 give 93 %, 420 all); the others are what is advised instead
FEW, ENOUGH, SMALL = 300, 600, 8


class EpochBatches(Sampler):
    """Batches of (epoch, index) pairs: a permutation that depends on (seed, epoch) alone.

    ``start`` skips the first batches of an epoch, which is how a run goes on in the middle of one. The last batch is
    dropped where it is not full (BatchNorm cannot use a batch of one), unless it is the only one. Of ``world`` processes
    the one of ``rank`` gets its part of every step; together they take the samples that one process with a batch
    ``world`` times as large would take. Where ``arrays``, a batch is (epoch, array of its samples' numbers) instead.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        limit: int | None = None,
        *,
        rank: int = 0,
        world: int = 1,
        arrays: bool = False,
    ):
        self.length, self.batch_size, self.seed, self.limit = length, batch_size, seed, limit
        self.rank, self.world, self.arrays = rank, world, arrays
        self.epoch, self.start = 0, 0

    @property
    def total(self) -> int:
        """Batches of one process in a whole epoch."""
        return min(max(1, self.length // (self.batch_size * self.world)), self.limit or self.length)

    def __len__(self) -> int:
        return self.total - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]] | tuple[int, np.ndarray]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        for b in range(self.start, self.total):
            first = (b * self.world + self.rank) * self.batch_size
            chosen = order[first : first + self.batch_size]
            yield (self.epoch, chosen) if self.arrays else [(self.epoch, int(i)) for i in chosen]


def too_few_batches(samples: int, batch_size: int, epochs: int, world: int = 1) -> str | None:
    """What to say where a training is so short that its networks hardly learn, and which settings are not; else None."""
    an_epoch = EpochBatches(samples, batch_size, 0, world=world).total
    if epochs * an_epoch >= FEW:
        return None
    small = min(batch_size, SMALL)
    more = EpochBatches(samples, small, 0, world=world).total
    longer = max(epochs, -(-ENOUGH // more))
    return (
        f"{samples} training samples are {an_epoch} batch{'es' * (an_epoch > 1)} an epoch and {epochs * an_epoch} in all, "
        f"which is little to learn from: batch_size={small} epochs={longer} would be {longer * more}"
    )


class KeyedDataset(Dataset):
    """Any map-style data set of (image, label) pairs, as the trainer wants it.

    Samples become dictionaries with ``image``, ``label`` and ``index``. While a sample is made, the global generators of
    torch, NumPy and Python are seeded with (seed, epoch, index), so that random transforms repeat exactly.
    Raises UserError for a sample that is not such a pair.
    """

    def __init__(self, inner: Dataset, seed: int = 0):
        self.inner, self.seed = inner, seed

    def __len__(self) -> int:
        return len(self.inner)

    @property
    def labels(self) -> object:
        """The label of every sample, where the inner data set tells them (as ``labels`` or ``targets``), else None."""
        return getattr(self.inner, "labels", getattr(self.inner, "targets", None))

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        with _seeded([self.seed, epoch, index]):
            sample = self.inner[index]
        if isinstance(sample, dict):
            return {**sample, "index": index}
        if not isinstance(sample, tuple | list) or len(sample) != 2:
            raise UserError(
                f"sample {index} is a {type(sample).__name__}: expected (image, label) or a dictionary"
            )
        image, label = sample
        return {"image": _picture(image, index), "label": torch.as_tensor(label), "index": index}


@contextlib.contextmanager
def _seeded(key: list[int]):
    """The three global generators seeded with ``key`` within the block, and put back after it."""
    state = np.random.SeedSequence(key).generate_state(3)
    saved_numpy, saved_python = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(state[0]))
        np.random.seed(int(state[1]))
        random.seed(int(state[2]))
        try:
            yield
        finally:
            np.random.set_state(saved_numpy)
            random.setstate(saved_python)


def _picture(image: object, index: int) -> torch.Tensor:
    if not isinstance(image, torch.Tensor | np.ndarray):
        raise UserError(
            f"sample {index} holds an image of type {type(image).__name__}: expected a tensor or array "
            "(3, height, width); torchvision's PILToTensor makes one"
        )
    if image.ndim != 3 or image.shape[0] != 3:
        raise UserError(
            f"sample {index} holds an image of shape {tuple(image.shape)}: expected (3, height, width), RGB"
        )
    return torch.as_tensor(image)


def worker_count(setting: int | str) -> int:
    """``auto``: one helper process on a small CPU machine, up to eight beside a GPU."""
    if setting != "auto":
        return int(setting)
    cores = max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return min(8, cores) if torch.cuda.is_available() else 1


def on_device(dataset: Dataset, device: torch.device) -> Dataset:
    """A data set that can move, on a CUDA ``device`` where it takes at most a quarter of what is free there.

    Others come back as they are: their batches are made by the CPU and moved.
    """
    if device.type != "cuda" or not _moves(dataset):
        return dataset
    free, _ = torch.cuda.mem_get_info(device)
    return dataset.to(device) if dataset.nbytes <= free // 4 else dataset


def _moves(dataset: Dataset) -> bool:
    return getattr(dataset, "in_memory", False) and hasattr(dataset, "to")


def train_loader(
    dataset: Dataset,
    batch_size: int,
    seed: int,
    workers: int | str,
    limit: int | None = None,
    *,
    rank: int = 0,
    world: int = 1,
) -> tuple[DataLoader, EpochBatches]:
    """Loader over keyed samples, and its sampler, whose ``epoch`` and ``start`` the trainer sets.

    It has a generator of its own: a draw from the global one at the start of a loop would make the second half of an
    epoch differ from the same half of a whole one. A data set that says it is ``in_memory`` is read in this process; if
    it has ``to(device)`` besides, then also ``device`` and ``nbytes``, and its ``__getitems__`` takes the (epoch, array)
    of :class:`EpochBatches`. Raises UserError for an empty data set, or one with fewer samples than there are processes.
    """
    if len(dataset) == 0:
        raise UserError("the training set is empty: look at data.train and what its format skips")
    if len(dataset) < world:
        raise UserError(f"{len(dataset)} training samples for {world} processes: start fewer of them")
    size = min(batch_size, len(dataset) // world)
    moves = _moves(dataset)
    batches = EpochBatches(len(dataset), size, seed, limit, rank=rank, world=world, arrays=moves)
    # a batch of what lies in memory is one gather: handing it over from another process would take longer
    count = 0 if getattr(dataset, "in_memory", False) else worker_count(workers)
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=count,
        persistent_workers=count > 0,
        worker_init_fn=quiet_worker,
        generator=torch.Generator(),
        collate_fn=getattr(dataset, "collate", None),
        pin_memory=torch.cuda.is_available() and not (moves and dataset.device.type == "cuda"),
    )
    return loader, batches


def eval_loader(dataset: Dataset, batch_size: int = 64) -> DataLoader:
    """Loader in order, without augmentation's epochs; in the calling process, unless the data set wants helpers (``decodes``)."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=False,
        num_workers=worker_count("auto") if getattr(dataset, "decodes", False) else 0,
        worker_init_fn=quiet_worker,
        collate_fn=getattr(dataset, "collate", None),
    )
