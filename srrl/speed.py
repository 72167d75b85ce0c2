"""Latency of networks on the CPU, interleaved so that a busy machine slows every model alike."""

from __future__ import annotations

import contextlib
import copy
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

_lock, _inside, _before = threading.Lock(), 0, 1


@contextlib.contextmanager
def threads(count: int):
    """torch's intra-op threads within the block; blocks of several Python threads may overlap."""
    global _inside, _before
    with _lock:
        if _inside == 0:
            _before = torch.get_num_threads()
        _inside += 1
    torch.set_num_threads(count)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
        torch.set_num_threads(_before)


class BFloat16(nn.Module):
    """A copy of a network with weights and activations in bfloat16, and its prediction in float32."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = copy.deepcopy(model).to(torch.bfloat16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x.to(torch.bfloat16)).float()


def latency(
    models: dict[str, nn.Module], image_size: int, *, thread_count: int = 1, rounds: int = 50, warmup: int = 5
) -> dict[str, dict[str, float]]:
    """Milliseconds a forward pass of one random image (3, S, S) takes on the CPU: name → ``p50`` and ``p95``.

    The network alone, without decoding of pictures and predictions. Models take turns, one pass each a round.
    """
    turns = take_turns(models, image_size, thread_count=thread_count, rounds=rounds, warmup=warmup)
    *_, times = turns
    return {k: percentiles(v) for k, v in times.items()}


def percentiles(milliseconds: list[float]) -> dict[str, float]:
    """``p50`` and ``p95``."""
    return {"p50": float(np.median(milliseconds)), "p95": float(np.percentile(milliseconds, 95))}


def take_turns(
    models: dict[Any, nn.Module],
    image_size: int,
    *,
    thread_count: int = 1,
    rounds: int = 50,
    warmup: int = 5,
    batch_size: int = 1,
) -> Iterator[dict[Any, list[float]]]:
    """The milliseconds of each model's forward passes so far, after every round, those of the warm-up left out.

    Batches are of random images (N, 3, S, S) with channels last.
    """
    x = torch.rand(batch_size, 3, image_size, image_size).contiguous(memory_format=torch.channels_last)
    ready = {k: _on_cpu(m) for k, m in models.items()}
    times: dict[Any, list[float]] = {k: [] for k in models}
    for i in range(warmup + rounds):
        with threads(thread_count), torch.no_grad():
            for name, model in ready.items():
                start = time.perf_counter()
                model(x)
                if i >= warmup:
                    times[name].append((time.perf_counter() - start) * 1000)
        yield times


def _on_cpu(model: nn.Module) -> nn.Module:
    if next(model.parameters()).device.type != "cpu":
        model = copy.deepcopy(model).cpu()
    return model.eval().to(memory_format=torch.channels_last)
