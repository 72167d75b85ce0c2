"""Several processes of one training (torchrun, accelerate launch): who is the first, and what it tells the others."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from srrl.errors import RunError, UserError
from srrl.interrupt import Interrupted

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
def together(what: str | None = None) -> Iterator[None]:
    """What the processes do together: where another has gone meanwhile, a RunError says so, and in which phase, where there is one."""
    try:
        yield
    except RuntimeError as error:
        if world_size() > 1 and is_lost(error):
            gone = f"{f'{what}: ' if what else ''}another process of this training has gone"
            raise RunError(
                f"{gone}; what was saved is intact, go on with --resume"
                if what
                else f"{gone}: give the command again, or go on with --resume where the run has begun"
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


def from_first(make: Callable[[], str], what: str | None = None) -> str:
    """What ``make`` gives in the first process, in every process. What ends it there ends all, and in the same way.

    ``what``: the phase, for the message where another process has gone meanwhile.
    """
    if world_size() == 1:
        return make()
    from accelerate.utils import broadcast_object_list

    state()
    answer: list[Any] = [None, None]  # result, (kind of what ended it, its text or number)
    try:
        if is_first():
            answer[0] = make()
    except BaseException as error:
        answer[1] = _told(error)
        raise
    finally:
        with together(what):
            broadcast_object_list(answer)
    if answer[1] is not None:
        kind, content = answer[1]
        raise _KINDS[kind](content)
    return str(answer[0])


_KINDS = {kind.__name__: kind for kind in (UserError, RunError, Interrupted)}


def _told(error: BaseException) -> tuple[str, str | int]:
    """What ended the first process, as the others are told it."""
    if isinstance(error, Interrupted):
        return "Interrupted", error.signum
    if isinstance(error, KeyboardInterrupt):
        return "Interrupted", int(signal.SIGINT)
    kind = "UserError" if isinstance(error, UserError) else "RunError"
    return kind, str(error) or type(error).__name__


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
