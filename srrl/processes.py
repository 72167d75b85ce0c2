"""Several processes of one training (torchrun, accelerate launch): who is the first, and what it tells the others."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from srrl.errors import UserError

if TYPE_CHECKING:
    from accelerate import PartialState


def world_size() -> int:
    """How many processes the launcher started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """True in the process that prints and writes files."""
    return world_size() == 1 or int(os.environ.get("RANK", "0")) == 0


def state() -> PartialState:
    """Accelerate's state, connected to the other processes: over gloo where there is no GPU."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=True) if world_size() > 1 and not torch.cuda.is_available() else PartialState()


def from_first(make: Callable[[], str]) -> str:
    """What ``make`` gives in the first process, in every process. A UserError there is raised in all."""
    if world_size() == 1:
        return make()
    from accelerate.utils import broadcast_object_list

    state()
    answer: list[str | None] = [None, None]  # result, error
    if is_first():
        try:
            answer[0] = make()
        except UserError as error:
            answer[1] = str(error)
    broadcast_object_list(answer)
    if answer[1] is not None:
        raise UserError(answer[1])
    return str(answer[0])
