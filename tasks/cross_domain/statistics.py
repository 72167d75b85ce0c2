"""BatchNorm statistics of another domain (AdaBN: Li et al. 2016, arXiv 1603.04779), and of two domains in one network."""

from __future__ import annotations

import contextlib

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from srrl.model import to_unit

BATCH = 64
SAMPLES = 1024  # for a mean and a variance a channel, each over all pixels


@torch.no_grad()
def estimate_statistics(
    model: nn.Module, dataset: Dataset, count: int = SAMPLES, *, frozen: bool = True
) -> None:
    """Replaces the running mean and variance of every BatchNorm by their averages over batches of ``dataset``.

    At most ``count`` samples, evenly spread and then shuffled, in batches of about the same size: pictures often lie class
    by class, and a batch of one class knows nothing of the variance between classes. ``frozen=False`` leaves out layers
    whose weights do not learn while others' do, such as those of a teacher's head in a student. Everything else stays as
    it is, dropout off; the modes are put back.
    """
    layers = batch_norms(model)
    if not frozen and any(p.requires_grad for p in model.parameters()):
        layers = [m for m in layers if m.weight is None or m.weight.requires_grad]
    if not layers:
        return
    modes = {m: m.training for m in model.modules()}
    momenta = [m.momentum for m in layers]
    device = next(model.parameters()).device
    total = min(count, len(dataset))
    chosen = np.linspace(0, len(dataset) - 1, total).round().astype(int)
    shuffled = np.random.default_rng(0xADA).permutation(chosen)
    batches = [part.tolist() for part in np.array_split(shuffled, max(1, round(total / BATCH)))]
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


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """Every BatchNorm of a model that keeps statistics, in order."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return [m for m in layers if m.track_running_stats]


class _OfBothDomains:
    """A BatchNorm in eval mode with the source's statistics for the samples that are marked, its own for the others."""

    def forward(self, x: Tensor) -> Tensor:
        own, marked = super().forward(x), self.marks.get("labelled")
        if marked is None or len(marked) != len(x) or not bool(marked.any()):  # a look at noise has no marks
            return own
        kept = self.running_mean, self.running_var
        self.running_mean, self.running_var = self.source_mean, self.source_var
        try:
            other = super().forward(x)
        finally:
            self.running_mean, self.running_var = kept
        return torch.where(marked.view(-1, *[1] * (x.ndim - 1)), other, own)


def keep_both(model: nn.Module, source: nn.Module) -> nn.Module:
    """``model``, whose BatchNorms know the target, with the statistics of ``source``, the same network, beside them.

    Each sample of a batch that it ``see``s is normalised by those of its domain: the source's where ``labelled``. Only
    the layers' class changes, so that hooks, stages and heads are what they were.
    """
    marks: dict[str, Tensor] = {}
    for layer, other in zip(batch_norms(model), batch_norms(source), strict=True):
        layer.register_buffer("source_mean", other.running_mean.clone(), persistent=False)
        layer.register_buffer("source_var", other.running_var.clone(), persistent=False)
        layer.marks = marks
        kind = type(layer)
        layer.__class__ = type(kind.__name__, (_OfBothDomains, kind), {})
    model.see = lambda batch: (
        marks.update(labelled=batch["labelled"]) if "labelled" in batch else marks.clear()
    )
    return model
