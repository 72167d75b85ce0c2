"""A folder that belongs to one process at a time, and is free as soon as that process is gone, however it died."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where a run is not protected
    fcntl = None

NAME = ".lock"
TAKEN = (errno.EACCES, errno.EAGAIN)
TRIES, PAUSE = 10, 0.05  # seconds: somebody who only looks has it for a moment


@contextlib.contextmanager
def held(folder: Path, part: int | None = None) -> Iterator[bool]:
    """Holds ``folder``, or the part of it that has this number (0 to 2⁶²), within the block. Gives False where another process
    holds it: the caller says what that means.

    A POSIX record lock and not flock, on which filelock builds: that one is shared with forked children, so that a killed
    run would stay locked until its last data worker has noticed. On a file system without locks everything is free.
    Two blocks of one process do not keep each other out, and the one that ends first lets go for both.
    """
    if fcntl is None:
        yield True
        return
    try:
        handle = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except PermissionError:
        if part is None:
            raise
        yield True  # parts are work that is shared: with somebody whose file it is, each does all of it
        return
    try:
        for _ in range(TRIES if part is None else 1):  # who does not get a part asks again by himself
            free = _take(handle, fcntl.LOCK_EX, part)
            if free is not False:
                break
            time.sleep(PAUSE)
        yield free is not False
    finally:
        os.close(handle)


def is_held(folder: Path, part: int | None = None) -> bool | None:
    """Whether another process holds ``folder``, or the part of it that has this number, None where that cannot be known.

    Not to be asked by a process that holds any of it: it would let go of all.
    """
    if fcntl is None:
        return None
    try:
        handle = os.open(folder / NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # nobody ever did
        return False
    except OSError:
        return None
    try:
        free = _take(handle, fcntl.LOCK_SH, part)  # which reading is enough for
        return None if free is None else not free
    finally:
        os.close(handle)


def _take(handle: int, kind: int, part: int | None = None) -> bool | None:
    """Whether the lock could be had; None on a file system without locks."""
    # length and start in bytes, which need not exist; length 0: all of it
    where = (0, 0) if part is None else (1, part)
    try:
        fcntl.lockf(handle, kind | fcntl.LOCK_NB, *where)
    except OSError as error:
        return False if error.errno in TAKEN else None
    return True
