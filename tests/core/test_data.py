"""The order of samples, going on in mid-epoch, and random transforms that repeat whoever makes the sample."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from toys import Colours

from srrl.data import (
    EpochBatches,
    KeyedDataset,
    eval_loader,
    on_device,
    too_few_batches,
    train_loader,
    worker_count,
)
from srrl.errors import UserError


def epoch_of(batches, epoch, start=0):
    batches.epoch, batches.start = epoch, start
    return list(batches)


def flat(batches):
    return [i for batch in batches for _, i in batch]


def test_an_epoch_is_a_permutation_without_the_last_part_batch():
    batches = EpochBatches(23, 5, seed=1)
    found = epoch_of(batches, 0)
    assert [len(b) for b in found] == [5, 5, 5, 5]
    assert len(set(flat(found))) == 20
    assert set(flat(found)) <= set(range(23))
    assert all(epoch == 0 for batch in found for epoch, _ in batch)
    assert batches.total == len(batches) == 4


def test_order_depends_on_seed_and_epoch_only():
    first, other = EpochBatches(40, 8, seed=1), EpochBatches(40, 8, seed=1)
    orders = {e: flat(epoch_of(first, e)) for e in range(3)}
    np.random.seed(5)
    torch.manual_seed(5)
    for epoch in (2, 0, 1):  # in another order, after other random numbers
        assert flat(epoch_of(other, epoch)) == orders[epoch]
    assert flat(epoch_of(EpochBatches(40, 4, seed=1), 1)) == orders[1]  # nor on the batch size
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert flat(epoch_of(EpochBatches(40, 8, seed=2), 0)) != orders[0]


@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_start_skips_exactly(start):
    batches = EpochBatches(17, 4, seed=3)
    whole = epoch_of(batches, 2)
    assert epoch_of(batches, 2, start) == whole[start:]
    assert len(batches) == 4 - start
    assert batches.total == 4


def test_a_small_set_is_one_batch_and_a_limit_cuts_an_epoch():
    assert [len(b) for b in epoch_of(EpochBatches(3, 8, seed=0), 0)] == [3]
    limited = EpochBatches(40, 8, seed=0, limit=2)
    assert limited.total == 2
    assert epoch_of(limited, 0) == epoch_of(EpochBatches(40, 8, seed=0), 0)[:2]
    for (epoch, numbers), keys in zip(
        epoch_of(EpochBatches(40, 8, seed=0, arrays=True), 3), epoch_of(EpochBatches(40, 8, seed=0), 3)
    ):
        assert [(epoch, i) for i in numbers] == keys


def test_every_number_of_workers_gives_the_same_samples():
    inner, found = Colours(12, noise=1.0), {}
    for workers in (0, 1, 2):
        loader, batches = train_loader(KeyedDataset(inner, seed=4), 4, seed=4, workers=workers)
        found[workers] = []
        for epoch, start in ((0, 0), (1, 1)):
            batches.epoch, batches.start = epoch, start
            found[workers] += list(loader)
    assert len(found[0]) == 3 + 2
    for workers in (1, 2):
        for a, b in zip(found[0], found[workers], strict=True):
            assert all(torch.equal(a[k], b[k]) for k in ("image", "label", "index"))
    for batch in found[0]:
        assert torch.equal(batch["label"], batch["index"] % 3)  # an index names its own sample
    assert not torch.equal(found[0][0]["image"], found[0][3]["image"])


class Draws(Dataset):
    """Samples that are random numbers of each generator that a transform may use."""

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return torch.tensor([torch.rand(()).item(), np.random.rand(), random.random()]).view(3, 1, 1), i


def test_random_transforms_repeat_and_differ_by_seed_epoch_and_sample():
    keyed = KeyedDataset(Draws(), seed=7)
    reference = keyed[(2, 1)]["image"]
    torch.rand(3), np.random.rand(3), random.random()
    assert torch.equal(keyed[(2, 1)]["image"], reference)
    assert torch.equal(KeyedDataset(Draws(), seed=7)[(2, 1)]["image"], reference)
    for other in (keyed[(3, 1)], keyed[(2, 0)], KeyedDataset(Draws(), seed=8)[(2, 1)]):
        assert not (other["image"] == reference).any()
    assert torch.equal(keyed[1]["image"], keyed[(0, 1)]["image"])  # a bare index is epoch 0


def test_making_a_sample_leaves_the_global_generators_alone():
    keyed, found = KeyedDataset(Draws()), []
    for make in (lambda: None, lambda: keyed[0]):
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)
        make()
        found.append((torch.rand(()).item(), np.random.rand(), random.random()))
    assert found[0] == found[1]

    class Broken(Draws):
        def __getitem__(self, i):
            torch.rand(1), np.random.rand(), random.random()
            raise OSError("no file")

    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    with pytest.raises(OSError, match="no file"):
        KeyedDataset(Broken())[0]
    assert (torch.rand(()).item(), np.random.rand(), random.random()) == found[0]


def test_samples_of_other_shapes():
    class Named(Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, _):
            return {"image": torch.zeros(3, 2, 2), "points": torch.ones(2)}

    sample = KeyedDataset(Named())[0]
    assert sorted(sample) == ["image", "index", "points"]
    plain = KeyedDataset([(np.zeros((3, 4, 4), np.uint8), 2)])[0]
    assert plain["image"].dtype == torch.uint8
    assert plain["label"].item() == 2


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        ((object(), 1), "sample 0 holds an image of type object: expected a tensor or array"),
        ((torch.zeros(4, 4), 1), r"sample 0 holds an image of shape \(4, 4\): expected \(3, height, width\)"),
        ((np.zeros((8, 8, 3), np.uint8), 1), r"shape \(8, 8, 3\): expected \(3, height, width\)"),
        ((torch.zeros(1, 4, 4), 1), r"shape \(1, 4, 4\)"),
        (torch.zeros(3, 4, 4), r"sample 0 is a Tensor: expected \(image, label\)"),
    ],
)
def test_samples_that_are_no_pictures_are_named(sample, said):
    with pytest.raises(UserError, match=said):
        KeyedDataset([sample])[0]


def test_an_empty_training_set_is_named():
    with pytest.raises(UserError, match="training set is empty"):
        train_loader(KeyedDataset([]), 4, 0, 0)


def test_eval_loader_keeps_the_order_and_the_last_part_batch():
    loader = eval_loader(KeyedDataset(Colours(10)), 4)
    assert [b["index"].tolist() for b in loader] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


class InMemory:
    """As much of a data set in memory as decides where it lies."""

    in_memory = True

    def __init__(self, nbytes, device="cpu"):
        self.nbytes, self.device = nbytes, torch.device(device)

    def to(self, device):
        return InMemory(self.nbytes, device)


def test_a_set_in_memory_goes_to_a_gpu_that_has_four_times_its_size_free(monkeypatch):
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (4000, 9000))
    assert on_device(InMemory(1000), gpu).device == gpu
    for stays, device in ((InMemory(1001), gpu), (InMemory(1), torch.device("cpu")), (Colours(3), gpu)):
        assert on_device(stays, device) is stays


def test_worker_count():
    assert worker_count(3) == 3
    assert worker_count(0) == 0
    assert worker_count("auto") >= 1


def test_loading_does_not_move_the_global_generator():
    """What is drawn while an epoch starts would differ between a whole epoch and its second half."""
    for workers in (0, 1):
        loader, _ = train_loader(KeyedDataset(Colours(8)), 4, seed=0, workers=workers)
        torch.manual_seed(3)
        state = torch.get_rng_state()
        list(loader)
        assert torch.equal(torch.get_rng_state(), state)


def test_what_is_too_short_to_learn_from_is_said_with_what_is_not():
    """By hand: 60 samples are one whole batch of 32, seven of 8; 86 times 7 is the first multiple above 600."""
    said = too_few_batches(60, 32, 30)
    assert said.startswith("60 training samples are 1 batch an epoch and 30 in all, ")
    assert said.endswith(": batch_size=8 epochs=86 would be 602")
    assert too_few_batches(300, 10, 10) is None and too_few_batches(299, 10, 10) is not None
    assert too_few_batches(300, 10, 10, world=2).startswith(
        "300 training samples are 15 batches an epoch and 150"
    )
    assert too_few_batches(100, 4, 11).endswith("batch_size=4 epochs=24 would be 600")  # never a larger batch
