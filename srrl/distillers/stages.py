"""Stages of teacher and student brought together: which belong to each other, at which size, and their maps before a ReLU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from srrl.errors import UserError
from srrl.frozen import Frozen
from srrl.inspection import on_noise
from srrl.model import stages_of


def pairs(student: list, teacher: list) -> list[tuple]:
    """Stages of both, from the last one backwards, as many as the network with fewer has; in forward order."""
    n = min(len(student), len(teacher))
    return list(zip(student[-n:], teacher[-n:], strict=True))


def same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps (N, C, H, W), (N, C', H', W') at the smaller of their sizes: the other is averaged over areas."""
    size = tuple(min(a, b) for a, b in zip(student.shape[2:], teacher.shape[2:], strict=True))
    student, teacher = (
        m if m.shape[2:] == size else F.adaptive_avg_pool2d(m, size) for m in (student, teacher)
    )
    return student, teacher


def check_stages(model: nn.Module, name: str) -> None:
    """UserError where a stage writes into the map of the one before it, which would then be compared as it is left behind."""
    inner = model.model if isinstance(model, Frozen) else model
    stages = inner.stage_modules() if hasattr(inner, "stage_modules") else []

    def kept(noise: Tensor) -> bool:
        copies: list[Tensor] = []
        keep = lambda module, args, out: copies.append(out.clone())  # noqa: E731 - of each stage
        handles = [stage.register_forward_hook(keep) for stage in stages]
        try:
            maps = stages_of(model, noise)
        finally:
            for handle in handles:
                handle.remove()
        if len(copies) != len(maps):
            return True  # its maps are not these modules' outputs as they are: the adapter made them
        # what becomes of the last one is for head_of to see
        return all(c.equal(m) for c, m in list(zip(copies, maps, strict=True))[:-1] if c.shape == m.shape)

    if not on_noise(model, name, kept):
        raise UserError(
            f"a stage of the {name} writes into the map of the stage before it: begin it with an operation that does not, "
            "such as ReLU() instead of ReLU(inplace=True)"
        )


def stage_channels(model: nn.Module, name: str) -> list[int]:
    """Channels of each stage's map, seen on noise pictures. ``name`` is what messages call the model.

    Raises UserError for stages that overwrite each other's maps.
    """
    check_stages(model, name)
    return on_noise(model, name, lambda noise: [m.shape[1] for m in stages_of(model, noise)])


def stages_non_negative(model: nn.Module, name: str) -> list[bool]:
    """Whether each stage's map could come from a ReLU, seen on noise pictures."""
    return on_noise(model, name, lambda noise: [bool(m.min() >= 0) for m in stages_of(model, noise)])


class PreReLU:
    """The maps of a network's stages before the ReLU (or ReLU6) that ends each of them.

    The last ReLU module of a stage may run several times in one pass (torchvision's blocks share one): its last input
    counts. A stage without a ReLU at its end (a linear bottleneck's, say) gives its map as it is where ``linear``.
    Raises UserError for other stages.
    """

    def __init__(self, model: nn.Module, name: str, method: str, *, linear: bool = False):
        inner = model.model if isinstance(model, Frozen) else model
        stages = inner.stage_modules() if hasattr(inner, "stage_modules") else []
        found = [[m for m in stage.modules() if isinstance(m, (nn.ReLU, nn.ReLU6))] for stage in stages]
        self.last = {i: relus[-1] for i, relus in enumerate(found) if relus}
        # of a network of ReLUs; what others have at an end means something else
        self.linear = frozenset(self.last) if linear else frozenset()
        self.channels = on_noise(model, name, lambda noise: self._checked(model, noise)) if stages else []
        if not self.channels:
            raise UserError(
                f"method {method} needs stages that end in a ReLU, which the {name} does not have"
            )

    def _checked(self, model: nn.Module, noise: Tensor) -> list[int]:
        """Channels of each stage, none where one does not fit; stages that end without a ReLU are left out of ``last``."""
        with self.seen() as before:
            maps = stages_of(model, noise)
        for i, m in enumerate(maps):
            if i in before and before[i].shape == m.shape:
                top = 6 if isinstance(self.last[i], nn.ReLU6) else None
                if before[i].clamp(0, top).allclose(m):
                    continue
            if i not in self.linear or bool(m.min() >= 0):  # what came out of some ReLU is not before one
                return []
            self.last.pop(i, None)
        return [m.shape[1] for m in maps]

    def of(self, before: dict[int, Tensor], maps: list[Tensor]) -> list[Tensor]:
        """The maps of all stages, from what :meth:`seen` gave and what the stages gave."""
        return [before.get(i, m) for i, m in enumerate(maps)]

    @classmethod
    def where_found(cls, model: nn.Module, name: str) -> PreReLU | None:
        """Those of a network all of whose stages end in a ReLU, else None."""
        try:
            return cls(model, name, "")
        except UserError:
            return None

    @contextlib.contextmanager
    def seen(self) -> Iterator[dict[int, Tensor]]:
        """Within the block, a pass of the network leaves its maps here, by stage."""
        before: dict[int, Tensor] = {}

        def keep(i: int):
            # a ReLU in place would overwrite what is kept
            return lambda module, args: before.__setitem__(i, args[0].clone() if module.inplace else args[0])

        handles = [relu.register_forward_pre_hook(keep(i)) for i, relu in self.last.items()]
        try:
            yield before
        finally:
            for handle in handles:
                handle.remove()
