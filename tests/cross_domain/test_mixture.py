"""Batches of two domains: shares, full passes through either part, keyed order; losses of unlabelled samples; statistics."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data import DataLoader, Dataset

from srrl.api import CrossEntropyCriterion
from srrl.data import train_loader
from srrl.task import get_task

get_task("cross_domain")  # makes srrl_tasks importable in a checkout
from srrl_tasks.classification.dataset import MemoryImages  # noqa: E402
from srrl_tasks.classification.settings import AugmentSettings  # noqa: E402
from srrl_tasks.cross_domain.criterion import DomainCriterion  # noqa: E402
from srrl_tasks.cross_domain.mixture import Mixture, mixed  # noqa: E402
from srrl_tasks.cross_domain.statistics import estimate_statistics, keep_both  # noqa: E402


class Numbers(Dataset):
    """Samples that say which data set and sample they are, one by one."""

    def __init__(self, count: int, offset: int):
        self.count, self.offset = count, offset

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: tuple[int, int]) -> dict:
        turn, i = key
        return {"image": torch.full((3, 2, 2), float(self.offset + i)), "turn": turn, "index": i}


def pictures(count: int, value: int, label: int) -> MemoryImages:
    images = (torch.arange(count)[:, None, None, None] + value).to(torch.uint8).expand(count, 3, 8, 8)
    return MemoryImages(images.contiguous(), torch.full((count,), label), 0, AugmentSettings(pad=0, flip=0))


@pytest.mark.parametrize("share, expected", [(0.0, 0), (0.25, 10), (0.5, 20), (0.3, 12), (1.0, 40)])
def test_every_epoch_has_the_share_of_the_target(share, expected):
    mixture = Mixture(Numbers(40, 0), Numbers(7, 100), share)
    for epoch in range(3):
        found = [mixture[epoch, i] for i in range(40)]
        assert sum(not s["labelled"] for s in found) == expected
        assert all((s["image"][0, 0, 0] >= 100) == (not s["labelled"]) for s in found)


def test_no_sample_comes_again_before_all_others_have():
    """40 places an epoch, 24 of the source: after 5 epochs each of 40 sources 3 times, each of 7 targets 11 or 12 times."""
    mixture = Mixture(Numbers(40, 0), Numbers(7, 100), 0.4)
    found = [int(mixture[epoch, i]["image"][0, 0, 0]) for epoch in range(5) for i in range(40)]
    counts = Counter(found)
    assert {counts[i] for i in range(40)} == {3}
    assert sorted({counts[100 + i] for i in range(7)}) == [11, 12]
    targets = [f for f in found if f >= 100]
    for start in range(0, 77, 7):  # each pass a permutation, and they differ
        assert sorted(targets[start : start + 7]) == list(range(100, 107))
    assert targets[:7] != targets[7:14]


def test_order_depends_on_seed_epoch_and_place_alone():
    one, two = (Mixture(Numbers(40, 0), Numbers(7, 100), 0.5, seed=3) for _ in range(2))
    other = Mixture(Numbers(40, 0), Numbers(7, 100), 0.5, seed=4)
    keys = [(e, i) for e in range(3) for i in range(40)]
    forwards = [float(one[k]["image"][0, 0, 0]) for k in keys]
    backwards = [float(two[k]["image"][0, 0, 0]) for k in reversed(keys)][::-1]
    assert forwards == backwards
    assert forwards != [float(other[k]["image"][0, 0, 0]) for k in keys]


def test_batches_from_memory_are_the_samples_one_by_one():
    mixture = mixed(pictures(20, 0, 1), pictures(6, 100, -100), 0.5)
    assert mixture.in_memory
    keys = [(2, i) for i in (5, 0, 13, 19, 8, 1, 2, 3)]
    batch = mixture.__getitems__(keys)
    for i, key in enumerate(keys):
        single = mixture[key]
        for name in ("image", "label", "labelled", "index"):
            assert torch.equal(batch[name][i], torch.as_tensor(single[name])), name
    assert batch["index"].tolist() == [5, 0, 13, 19, 8, 1, 2, 3]
    assert set(batch["label"][batch["labelled"]].tolist()) == {1}
    assert set(batch["label"][~batch["labelled"]].tolist()) == {-100}
    arrays = mixture.__getitems__((2, np.array([i for _, i in keys])))  # as the trainer asks
    assert all(arrays[name].equal(batch[name]) for name in batch)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 1 / 3, 0.5, 0.9, 1.0])
def test_places_by_a_loop(share):
    """Place after place, a counter for each part that runs on over the epochs."""
    mixture = Mixture(Numbers(40, 0), Numbers(7, 100), share, seed=3)
    sizes, seen, orders = (40, 7), [0, 0], {}
    for epoch in range(4):
        found = np.stack(mixture.places(epoch, np.arange(40))).T.tolist()
        for i in range(40):
            part = int((i + 1) * share) - int(i * share)
            turn, position = divmod(seen[part], sizes[part])
            if (part, turn) not in orders:
                orders[part, turn] = np.random.default_rng([3, 0xD0, part, turn]).permutation(sizes[part])
            assert found[i] == [part, turn, orders[part, turn][position]], (epoch, i)
            seen[part] += 1


def test_a_mixture_moves_to_where_its_pictures_move():
    """torch's pretended CUDA tensors: an operation that mixed devices, or read a value back, would raise."""
    mixture = mixed(pictures(20, 0, 1), pictures(6, 100, -100), 0.5)
    assert mixture.nbytes == 26 * 3 * 8 * 8
    with FakeTensorMode(allow_non_fake_inputs=True):
        batch = mixture.to(torch.device("cuda")).__getitems__((2, np.arange(8)))
    assert {v.device.type for v in batch.values()} == {"cuda"} and batch["image"].shape == (8, 3, 8, 8)


def test_the_trainers_loader_takes_both_kinds():
    for mixture in (
        mixed(pictures(20, 0, 1), pictures(6, 100, -100), 0.5),
        mixed(Numbers(20, 0), Numbers(6, 100), 0.5),
    ):
        loader, _ = train_loader(mixture, 4, 0, workers=2)
        batches = list(loader)
        assert len(batches) == 5 and all(len(b["image"]) == 4 for b in batches)
        assert sorted(int(i) for b in batches for i in b["index"]) == list(range(20))


def test_supervised_loss_is_the_mean_over_labelled_samples():
    logits = torch.randn(4, 3, requires_grad=True)
    batch = {"label": torch.tensor([2, -100, 0, -100]), "labelled": torch.tensor([True, False, True, False])}
    loss = DomainCriterion(CrossEntropyCriterion()).supervised(logits, batch)
    p = logits.detach().double().softmax(1)
    assert float(loss.detach()) == pytest.approx(-(p[0, 2].log() + p[2, 0].log()).item() / 2, rel=1e-5)
    loss.backward()
    assert torch.all(logits.grad[[1, 3]] == 0)
    none = DomainCriterion(CrossEntropyCriterion()).supervised(
        logits, batch | {"labelled": torch.zeros(4, dtype=torch.bool)}
    )
    assert float(none.detach()) == 0 and none.requires_grad


def test_confidence_weighs_samples_by_their_largest_probability():
    teacher = torch.log(torch.tensor([[0.9, 0.1], [0.5, 0.5]]))
    found = DomainCriterion(CrossEntropyCriterion(), confidence=2.0).weight(teacher)
    each = np.array([0.9**2, 0.5**2])
    assert found.tolist() == pytest.approx((each / each.mean()).tolist(), rel=1e-5)
    assert DomainCriterion(CrossEntropyCriterion()).weight(teacher) is None


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.9)

    def forward(self, x):
        return self.drop(self.bn(self.conv(x))).mean((2, 3))


def test_statistics_are_those_of_the_given_pictures():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, 3, 8, 8), generator=generator, dtype=torch.uint8)
    net = Net()
    net.bn.running_mean.fill_(5.0)
    weights = {k: v.clone() for k, v in net.state_dict().items() if "running" not in k and "num" not in k}
    net.train()
    estimate_statistics(net, MemoryImages(images, torch.zeros(64).long()))
    maps = nn.functional.conv2d(images.double() / 255, net.conv.weight.double(), net.conv.bias.double())
    flat = maps.permute(1, 0, 2, 3).flatten(1)
    assert torch.allclose(net.bn.running_mean.double(), flat.mean(1), atol=1e-5)
    assert torch.allclose(net.bn.running_var.double(), flat.var(1), rtol=1e-4)
    assert net.training and net.bn.momentum == 0.1
    assert all(torch.equal(net.state_dict()[k], v) for k, v in weights.items())


def test_statistics_of_many_pictures_come_from_an_even_selection():
    class Seen(MemoryImages):
        asked: list[int] = []

        def __getitems__(self, keys):
            self.asked.extend(keys)
            return super().__getitems__(keys)

    data = Seen(torch.zeros(1990, 3, 8, 8, dtype=torch.uint8), torch.zeros(1990).long())
    estimate_statistics(Net(), data, count=1000)
    asked = sorted(data.asked)
    assert len(set(asked)) == 1000 and (asked[0], asked[-1]) == (0, 1989)
    assert max(b - a for a, b in zip(asked, asked[1:])) <= 2 and asked != data.asked


def test_statistics_of_pictures_that_lie_class_by_class_are_those_of_all():
    """Ten grey levels, 64 pictures each, sorted: a batch of one class would have no variance at all."""
    images = (
        torch.arange(10).mul(25).repeat_interleave(64).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    )
    net = Net()
    estimate_statistics(net, MemoryImages(images.contiguous(), torch.zeros(640).long()))
    maps = nn.functional.conv2d(images.double() / 255, net.conv.weight.double(), net.conv.bias.double())
    flat = maps.permute(1, 0, 2, 3).flatten(1)
    assert torch.allclose(net.bn.running_mean.double(), flat.mean(1), atol=1e-4)
    assert torch.allclose(net.bn.running_var.double(), flat.var(1), rtol=0.05)


def test_statistics_of_a_frozen_head_can_be_left_alone():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3))
    net[1].requires_grad_(False)
    images = torch.full((64, 3, 8, 8), 128, dtype=torch.uint8)
    estimate_statistics(net, MemoryImages(images, torch.zeros(64).long()), frozen=False)
    assert net[0].running_mean.mean() > 0.4 and net[1].running_mean.abs().max() == 0
    net.requires_grad_(False)  # a teacher
    estimate_statistics(net, MemoryImages(images, torch.zeros(64).long()), frozen=False)
    assert net[1].num_batches_tracked == 1


def test_workers_get_the_same_mixture():
    mixture = Mixture(Numbers(12, 0), Numbers(5, 100), 0.5)
    keys = [[(1, i) for i in range(12)]]
    alone = next(iter(DataLoader(mixture, batch_sampler=keys)))
    helped = next(iter(DataLoader(mixture, batch_sampler=keys, num_workers=1)))
    assert torch.equal(alone["image"], helped["image"])


def test_each_sample_is_judged_with_the_statistics_of_its_domain():
    """A teacher of both against two plain ones, in prediction, stages and what the distiller makes of it."""
    from srrl_tasks.classification.networks import build_network

    from srrl.distillers import build_distiller
    from srrl.distillers.base import MethodSettings

    def network(seed):
        torch.manual_seed(seed)
        return build_network("resnet8", 5, width=4, pretrained=False, mean=(0.5,) * 3, std=(0.25,) * 3).eval()

    source = network(0)
    pictures = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8)
    estimate_statistics(source, MemoryImages(torch.randint(0, 60, (64, 3, 16, 16)).byte(), torch.zeros(64)))
    target, both = network(0), network(0)
    other = MemoryImages(torch.randint(120, 256, (64, 3, 16, 16)).byte(), torch.zeros(64))
    estimate_statistics(target, other)
    estimate_statistics(both, other)
    both = keep_both(both, source)
    marked = torch.tensor([True, False, False, True, True, False])
    x = pictures.float() / 255
    with torch.no_grad():
        expected = torch.where(marked[:, None], source(x), target(x))
        assert not torch.allclose(source(x), target(x), atol=1e-3)
        assert torch.equal(both(x), target(x))
        both.see({"labelled": marked})
        assert torch.equal(both(x), expected)
        maps = both.forward_intermediates(x)
        for found, a, b in zip(maps, source.forward_intermediates(x), target.forward_intermediates(x)):
            assert torch.equal(found, torch.where(marked[:, None, None, None], a, b))
        assert torch.equal(both(x[:4]), target(x[:4]))  # not the batch that was announced
        both.see({})
        assert torch.equal(both(x), target(x))
    batch = {"image": pictures, "label": torch.tensor([1, -100, -100, 2, 3, -100]), "labelled": marked}
    settings = MethodSettings(kd_weight=1.0)
    loss = build_distiller("kd", network(1), both, DomainCriterion(CrossEntropyCriterion()), settings)(batch)
    student = network(1)
    output = student(x).double() / 4
    kl = (expected.double() / 4).softmax(1) * ((expected.double() / 4).log_softmax(1) - output.log_softmax(1))
    assert float(loss["kd"]) == pytest.approx(float(16 * kl.sum(1).mean().detach()), rel=1e-4)
