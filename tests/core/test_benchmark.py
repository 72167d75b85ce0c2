"""The training epoch against its floor, with networks and data that take a known time."""

import time

import pytest
import torch
from toys import Colours, tiny

from srrl.api import CrossEntropyCriterion
from srrl.benchmark import epoch_against_floor
from srrl.config import RunSettings
from srrl.data import KeyedDataset
from srrl.task import Task

PASS, SAMPLE = 0.03, 0.015  # seconds of a network's forward pass, and of one sample


class Pause(torch.nn.Module):
    """Makes a network's forward pass take ``PASS`` longer."""

    def forward(self, x):
        time.sleep(PASS)
        return x


class SlowColours(Colours):
    def __getitem__(self, index):
        time.sleep(SAMPLE)
        return super().__getitem__(index)


class Toys(Task):
    name = "toys"

    def build_student(self, cfg):
        network = tiny(4)
        network.features.insert(0, Pause())
        return network

    build_teacher = build_student

    def criterion(self, cfg):
        return CrossEntropyCriterion()


def test_an_epoch_is_measured_with_its_data_and_the_floor_without():
    model = {"arch": "tiny"}
    cfg = RunSettings(task="toys", teacher=model, student=model, data={"workers": 0}, precision="fp32")
    task, data = Toys(), KeyedDataset(SlowColours(40))
    found = epoch_against_floor(task, cfg, task.build_teacher(cfg), data, 4, batches=3, rounds=3)
    assert found["batches"] == 3 and found["batch_size"] == 4
    # a batch: two passes and four samples; the floor: two passes
    epoch, floor, loader = (found[f"{k} images/s"] for k in ("epoch", "floor", "loader"))
    assert 0.2 * 4 / (2 * PASS + 4 * SAMPLE) < epoch < 4 / (2 * PASS + 4 * SAMPLE)
    assert 0.2 * 4 / (2 * PASS) < floor < 4 / (2 * PASS)
    assert 0.2 / SAMPLE < loader < 1 / SAMPLE
    assert found["ratio"] == pytest.approx(epoch / floor, rel=0.3) and 0.35 < found["ratio"] < 0.75
