"""A folder that belongs to one process at a time, and is free as soon as that process is gone, however it died."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where a run is not protected
    fcntl = None

NAME = ".lock"
TAKEN = (errno.EACCES, errno.EAGAIN)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Holds ``folder`` within the block. Gives False where another process holds it: the caller says what that means.

    A POSIX record lock and not flock, on which filelock builds: that one is shared with forked children, so that a killed
    run would stay locked until its last data worker has noticed. On a file system without locks everything is free.
    Two blocks of one process do not keep each other out.
    """
    if fcntl is None:
        yield True
        return
    handle = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        yield _taken(handle)
    finally:
        os.close(handle)


def is_held(folder: Path) -> bool:
    """Whether another process holds ``folder``. Not to be asked by a process that holds it: it would let go of it."""
    try:
        handle = os.open(folder / NAME, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # nobody ever did, or it is somebody else's
        return False
    try:
        return fcntl is not None and not _taken(handle)
    finally:
        os.close(handle)


def _taken(handle: int) -> bool:
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in TAKEN
    return True
