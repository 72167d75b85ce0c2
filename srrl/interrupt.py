"""Ctrl-C, SIGTERM and a closed terminal: at once where nothing is lost, after a checkpoint while training."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import sys
import time
from types import FrameType

ECHO = 1.0
HANGUP = getattr(signal, "SIGHUP", None)  # not on Windows


class Interrupted(Exception):
    """Raised where a signal ends the work; ``signum`` decides the exit status (128 + signum)."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class GracefulStop:
    """Context that turns SIGINT, SIGTERM and SIGHUP (unless it is ignored, as nohup does) into :class:`Interrupted`.

    Outside of :meth:`deferred` the exception is raised on the spot. Within it the first signal only sets
    ``requested``, and the owner raises when its state is saved; a second signal raises at once. What comes within
    ``ECHO`` seconds of the first is the same signal once more: a terminal sends Ctrl-C to a launcher and to its
    processes, and the launcher passes it on.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._deferring = False
        self._since = 0.0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> GracefulStop:
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._previous[signum] = signal.signal(signum, self._handle)
        if HANGUP is not None and signal.getsignal(HANGUP) != signal.SIG_IGN:
            self._previous[HANGUP] = signal.signal(HANGUP, self._handle)
        return self

    def __exit__(self, *exc: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    @contextlib.contextmanager
    def deferred(self):
        """While the block runs, one signal waits for the owner's next safe point."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        if self.requested is not None:
            raise Interrupted(self.requested)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum == HANGUP:
            _leave_terminal()
        if self._deferring and self.requested is None:
            self.requested, self._since = signum, time.monotonic()
            return
        if self._deferring and time.monotonic() - self._since < ECHO:
            return
        raise Interrupted(signum)


@contextlib.contextmanager
def surviving_terminal():
    """Around output: a terminal that has gone is no error, since the signal that says so is on its way."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        _leave_terminal()


def _leave_terminal() -> None:
    """What is still said goes nowhere: writing to a terminal that is gone would be an error, and end us before we saved."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            if stat.S_ISCHR(os.fstat(stream.fileno()).st_mode):
                with open(os.devnull, "wb") as nothing:
                    os.dup2(nothing.fileno(), stream.fileno())


def quiet_worker(_worker_id: int) -> None:
    """For data-loader workers: the parent handles what a terminal sends to all, and SIGTERM ends the worker as usual."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if HANGUP is not None:
        signal.signal(HANGUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
