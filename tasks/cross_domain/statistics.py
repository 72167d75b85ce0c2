"""BatchNorm statistics of another domain (AdaBN: Li et al. 2016, arXiv 1603.04779), and of two domains in one network."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from srrl.model import to_unit

BATCH = 64
SAMPLES = 1024  # for a mean and a variance a channel, each over all pixels


@torch.no_grad()
def estimate_statistics(model: nn.Module, dataset: Dataset, count: int = SAMPLES) -> None:
    """Replaces the running mean and variance of every BatchNorm by their averages over batches of ``dataset``.

    Up to ``count`` samples, evenly spread. Everything else stays as it is, dropout off; the modes are put back.
    """
    layers = batch_norms(model)
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
