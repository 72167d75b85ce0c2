"""Latency of networks on the CPU, interleaved so that a busy machine slows every model alike."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn


@contextlib.contextmanager
def threads(count: int):
    """torch's intra-op threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Autocast(nn.Module):
    """A network under CPU autocast to bfloat16, with its prediction in float32."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.model(x).float()


@torch.no_grad()
def latency(
    models: dict[str, nn.Module],
    image_size: int,
    *,
    thread_count: int = 1,
    rounds: int = 50,
    warmup: int = 5,
    batch_size: int = 1,
    after: Callable[[int], None] = lambda done: None,
) -> dict[str, dict[str, float]]:
    """Milliseconds a forward pass of random images (N, 3, S, S) takes on the CPU: name → ``p50`` and ``p95``.

    The network alone, without decoding of pictures and predictions. Models take turns, one pass each a round; ``after``
    is called with the number of rounds done, and may raise to end it.
    """
    x = torch.rand(batch_size, 3, image_size, image_size).contiguous(memory_format=torch.channels_last)
    ready = {k: _on_cpu(m) for k, m in models.items()}
    times: dict[str, list[float]] = {k: [] for k in models}
    with threads(thread_count):
        for i in range(warmup + rounds):
            for name, model in ready.items():
                start = time.perf_counter()
                model(x)
                if i >= warmup:
                    times[name].append((time.perf_counter() - start) * 1000)
            after(i + 1)
    return {k: {"p50": float(np.median(v)), "p95": float(np.percentile(v, 95))} for k, v in times.items()}


def _on_cpu(model: nn.Module) -> nn.Module:
    import copy

    if next(model.parameters()).device.type != "cpu":
        model = copy.deepcopy(model).cpu()
    return model.eval().to(memory_format=torch.channels_last)
