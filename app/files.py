"""Files that the app keeps for a while: uploads, and pictures and videos that it shows."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Set
from pathlib import Path

AGE = 3600.0  # seconds that a file is kept
EVERY = 60.0  # seconds between two looks


@contextlib.contextmanager
def swept(folder: Path, age: float = AGE, every: float = EVERY) -> Iterator[None]:
    """Within the block, a thread deletes the files below ``folder`` that are older than ``age`` and came after its begin.

    What is there before are the page's own files, such as its examples. (gradio's own deleting forgets the files of
    components that it has made anew.)
    """
    ended, kept = threading.Event(), frozenset(folder.rglob("*"))

    def work() -> None:
        while not ended.wait(every):
            sweep(folder, age, kept)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def sweep(folder: Path, age: float, kept: Set[Path] = frozenset()) -> None:
    """Deletes the files that are older than ``age`` seconds and not ``kept``, and the folders that are empty by then."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what is inside comes before the folder
        with contextlib.suppress(OSError):
            if path not in kept and time.time() - path.stat().st_mtime > age:
                path.rmdir() if path.is_dir() else path.unlink()
