"""A command as a user without root runs it, in a fork of the tests' process, and a folder that this user may only read."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

NOBODY = 65534
SECONDS = 120  # after which the command is ended


@contextlib.contextmanager
def readable_folder() -> Iterator[Path]:
    """A new folder that every user may read and enter, as may be what stands above it; pytest's own are its user's alone."""
    folder = Path(tempfile.mkdtemp(prefix="nur lesen é "))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def close(folder: Path) -> Path:
    """Takes the right to write in the folder and in all folders below it from everybody; root has it all the same."""
    for path in (folder, *(p for p in folder.rglob("*") if p.is_dir())):
        path.chmod(0o555)
    return folder


def reopen(folder: Path) -> None:
    """Gives it back to its owner, so that it can be removed."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)


def listing(folder: Path) -> list[str]:
    """All that is in the folder, by its path."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def as_nobody(command: Callable[[], int | None], cwd: Path) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of ``command`` in ``cwd``, without root; 99 where it raised.

    What it imports is best imported before: the user may be unable to read where that lies.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as error:
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            status = 99
            try:
                os.dup2(out.fileno(), 1)
                os.dup2(error.fileno(), 2)
                sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(SECONDS)
                os.chdir(cwd)
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setgid(NOBODY)
                    os.setuid(NOBODY)
                if "torch" in sys.modules:
                    # the threads of OpenMP are not there after a fork, and would be waited for
                    sys.modules["torch"].set_num_threads(1)
                status = command() or 0
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 98
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out.seek(0)
        error.seek(0)
        return status, out.read(), error.read()
