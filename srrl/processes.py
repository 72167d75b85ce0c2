"""Several processes of one training (torchrun, accelerate launch): who is the first, and what it tells the others."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from srrl.errors import RunError, UserError

if TYPE_CHECKING:
    from accelerate import PartialState

T = TypeVar("T")


def world_size() -> int:
    """How many processes the launcher started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """True in the process that prints and writes files."""
    return world_size() == 1 or int(os.environ.get("RANK", "0")) == 0


def state() -> PartialState:
    """Accelerate's state, connected to the other processes: over gloo where there is no GPU."""
    from datetime import timedelta

    import torch
    from accelerate import PartialState

    if world_size() == 1:
        return PartialState()
    atexit.unregister(_leave)  # at most once
    atexit.register(_leave)
    # the others may have to wait while the first one makes the data
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(hours=12))


def _leave() -> None:
    """Ends the connection to the others while Python still runs.

    Left to the process's end, gloo now and then aborts a process that has done all its work ("terminate called without an
    active exception", pytorch issue 190489), and the launcher takes that for a failure. NCCL's end waits for the others, who may be gone.
    """
    import torch.distributed as dist

    if dist.is_initialized() and dist.get_backend() == "gloo":
        dist.destroy_process_group()


@contextlib.contextmanager
def together(what: str) -> Iterator[None]:
    """What the processes do together: where another has gone meanwhile, a RunError says so, and that of ``what``."""
    try:
        yield
    except RuntimeError as error:
        if world_size() > 1 and is_lost(error):
            raise RunError(
                f"{what}: another process of this training has gone; what was saved is intact, go on with --resume"
            ) from error
        raise


def is_lost(error: BaseException) -> bool:
    """Whether this is how the connection to another process broke, which is mostly because that one ended."""
    import torch.distributed as dist

    words = (
        "onnection closed by peer",
        "onnection reset by peer",
        "Broken pipe",
        "Socket closed",
        "NCCL communicator was aborted",
    )
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)


def restarted() -> bool:
    """Whether torchrun started these processes anew because one of this machine's had ended (``--max-restarts``)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def job() -> str | None:
    """torchrun's name for what it starts, however often and on how many machines (``--rdzv-id``); None without one.

    Machines that only wait for others to come back are started anew without a count of it, which :func:`restarted` goes by.
    """
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    return None if name in (None, "", "none") else name


def from_first(make: Callable[[], str], what: str = "data") -> str:
    """What ``make`` gives in the first process, in every process. What it raises there ends all, as a UserError in the others."""
    if world_size() == 1:
        return make()
    from accelerate.utils import broadcast_object_list

    state()
    answer: list[str | None] = [None, None]  # result, error
    try:
        if is_first():
            answer[0] = make()
    except Exception as error:
        answer[1] = str(error) or type(error).__name__
        raise
    finally:
        with together(what):
            broadcast_object_list(answer)
    if answer[1] is not None:
        raise UserError(answer[1])
    return str(answer[0])


def once(measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What the first process measures, in every process, to the last bit: the others wait meanwhile."""
    if world_size() == 1:
        return measure()
    return json.loads(from_first(lambda: json.dumps(measure(), default=float), "validation"))


def first_then_all(make: Callable[[], T]) -> T:
    """``make()`` in the first process, then in the others, which find what it left on the disk."""
    if world_size() == 1:
        return make()
    made: list[T] = []
    from_first(lambda: made.append(make()) or "")
    return made[0] if is_first() else make()
