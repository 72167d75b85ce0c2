"""BatchNorm statistics of another domain (AdaBN: Li et al. 2016, arXiv 1603.04779)."""

from __future__ import annotations

import contextlib

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from srrl.model import to_unit

BATCH = 64
SAMPLES = 1024  # for a mean and a variance a channel, each over all pixels


@torch.no_grad()
def estimate_statistics(model: nn.Module, dataset: Dataset, count: int = SAMPLES) -> None:
    """Replaces the running mean and variance of every BatchNorm by their averages over batches of ``dataset``.

    Up to ``count`` samples, evenly spread. Everything else stays as it is, dropout off; the modes are put back.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    layers = [m for m in layers if m.track_running_stats]
    if not layers:
        return
    modes = {m: m.training for m in model.modules()}
    momenta = [m.momentum for m in layers]
    device = next(model.parameters()).device
    chosen = range(0, len(dataset), max(1, len(dataset) // count))
    batches = [list(chosen[i : i + BATCH]) for i in range(0, len(chosen), BATCH)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches.pop()  # the variance of one sample is nothing where a map is 1×1
    loader = DataLoader(dataset, batch_sampler=batches, collate_fn=getattr(dataset, "collate", None))
    with contextlib.ExitStack() as after:
        after.callback(lambda: [setattr(m, "training", was) for m, was in modes.items()])
        after.callback(lambda: [setattr(m, "momentum", was) for m, was in zip(layers, momenta, strict=True)])
        model.eval()
        for m in layers:
            m.reset_running_stats()
            m.train()
            m.momentum = None  # a plain average over the batches
        for batch in loader:
            model(to_unit(batch["image"]).to(device))
