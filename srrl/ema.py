"""A running average of a network's weights and BatchNorm statistics."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class MovingAverage:
    """EMA with the usual ramp min(decay, (1 + n)/(10 + n)), so that short runs do not remember their first weights.

    torch's AveragedModel does the same but walks the module tree at every step, which costs a small network 5 % of its
    time; here the tensors are listed once. ``module`` is the averaged copy; integer buffers follow the network's.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.decay, self.count = decay, 0
        self._model, self._listed = model, None

    @torch.no_grad()
    def update(self) -> None:
        """One step: average ← average + (1 − decay)·(weights − average); the first one copies."""
        weight = 1 - min(self.decay, (1 + self.count) / (10 + self.count)) if self.count else 1.0
        self.count += 1
        if (
            self._listed is None
        ):  # only now: DDP, which comes later than this object, puts other buffers in their place
            self._listed = _pairs(self.module, self._model)
        floats, integers = self._listed
        torch._foreach_lerp_(*floats, weight)
        if integers[0]:
            torch._foreach_copy_(*integers)

    def state_dict(self) -> dict:
        """What a checkpoint needs."""
        return {"count": self.count, "module": self.module.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """The inverse of :meth:`state_dict`."""
        self.count = state["count"]
        self.module.load_state_dict(state["module"])


def _pairs(average: nn.Module, model: nn.Module) -> tuple[tuple[list[Tensor], list[Tensor]], ...]:
    names = zip(average.state_dict(keep_vars=True).values(), model.state_dict(keep_vars=True).values())
    both = list({id(a): (a, b) for a, b in names}.values())  # tied weights stand there twice
    return tuple(
        ([a for a, _ in chosen], [b for _, b in chosen])  # themselves: DDP gives parameters new storage
        for chosen in (
            [p for p in both if p[0].is_floating_point()],
            [p for p in both if not p[0].is_floating_point()],
        )
    )
