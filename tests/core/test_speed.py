"""Counting and timing: multiply-adds by hand, latency of a network that sleeps."""

import time

import pytest
import torch
from torch import nn

from srrl.inspection import count_macs, count_parameters
from srrl.speed import latency


class Sleeper(nn.Module):
    """Takes the given time and one parameter."""

    def __init__(self, seconds):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seconds = seconds

    def forward(self, x):
        time.sleep(self.seconds)
        return x


def test_multiply_adds_and_parameters_by_hand():
    # 3x3 convolution, 3 -> 8, 16² outputs: 16·16·8·27; 1x1, 8 -> 4, stride 2: 8·8·4·8; linear 4 -> 10
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 4, 1, stride=2, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 10),
    )
    assert count_macs(net, 16) == 16 * 16 * 8 * 27 + 8 * 8 * 4 * 8 + 40
    assert count_parameters(net) == (8 * 27 + 8) + 32 + (40 + 10)


def test_latency_measures_the_network():
    found = latency({"slow": Sleeper(0.02), "fast": Sleeper(0.002)}, 8, rounds=9, warmup=1)
    assert 20 <= found["slow"]["p50"] < 40
    assert 2 <= found["fast"]["p50"] < found["slow"]["p50"]
    assert found["slow"]["p95"] >= found["slow"]["p50"]


def test_latency_restores_the_number_of_threads():
    before = torch.get_num_threads()
    latency({"m": Sleeper(0)}, 8, thread_count=2, rounds=1, warmup=0)
    assert torch.get_num_threads() == before


def test_multiply_adds_of_a_published_network():
    import torchvision

    # ResNet-18 at 224²: 1.81 GFLOPs in torchvision's table, which counts multiply-adds
    assert count_macs(torchvision.models.resnet18(), 224) / 1e9 == pytest.approx(1.814, abs=0.005)
