"""What becomes of the memory that a process frees: kept for the next training step, or given back by a server."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_")


def keep_freed_memory() -> bool:
    """Tells glibc to serve blocks of up to 1 GiB from its heap and to give that back only beyond 2 GiB; True where it does.

    As it comes, blocks of 32 MiB or more are mapped when they are taken and unmapped when they are freed, and the end of
    the heap goes back as well: every step of a training then waits for the kernel to find and clear the same pages
    again. Nothing happens with another C library, or where an environment variable has set malloc (mallopt(3)).
    """
    if not _is_glibc():
        return False
    if any(name in os.environ for name in _OWN) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_MMAP_THRESHOLD, 2**30) and libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def give_back() -> None:
    """Hands freed pages of every thread's heap to the system; nothing with another C library than glibc."""
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _is_glibc() -> bool:
    names = getattr(os, "confstr_names", {})
    return "CS_GNU_LIBC_VERSION" in names and bool(os.confstr("CS_GNU_LIBC_VERSION"))
