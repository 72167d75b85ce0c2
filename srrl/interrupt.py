"""Ctrl-C and SIGTERM: at once where nothing is lost, after a checkpoint while training."""

from __future__ import annotations

import contextlib
import signal
import time
from types import FrameType

ECHO = 1.0


class Interrupted(Exception):
    """Raised where a signal ends the work; ``signum`` decides the exit status (128 + signum)."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class GracefulStop:
    """Context that turns SIGINT and SIGTERM into :class:`Interrupted`.

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
        if self._deferring and self.requested is None:
            self.requested, self._since = signum, time.monotonic()
            return
        if self._deferring and time.monotonic() - self._since < ECHO:
            return
        raise Interrupted(signum)


def quiet_worker(_worker_id: int) -> None:
    """For data-loader workers: the parent handles Ctrl-C, and SIGTERM ends the worker as usual."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
