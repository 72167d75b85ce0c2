"""The one training that the page may run: ``python -m srrl.train`` in a process of its own, as from a terminal."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from srrl.errors import UserError
from srrl.lock import is_held

from .shelf import PLACES, modified

LINES = 200  # of its output that are kept
PATIENCE = 60.0  # seconds that a stopped training has to save its checkpoint
QUIET = (
    900.0  # seconds without a sign of life after which a run counts as stopped, where its lock says nothing
)
# exit statuses after a signal; the negative ones before it could be heeded
STOPPED = (129, 130, 143, -1, -2, -15)
EPOCH = re.compile(r"^([\w-]+)\s+epoch (\d+)/(\d+)\b")


@dataclass(frozen=True)
class State:
    """What there is to say of the training: its run, whether it is going on, and what it printed last."""

    name: str | None = None
    path: Path | None = None
    going: bool = False
    stopping: bool = False
    status: int | None = None
    seconds: float = 0.0
    lines: tuple[str, ...] = ()
    after: str | None = None  # the run that can go on once nothing is being trained

    def said(self) -> str:
        """A sentence for a person."""
        if self.name is None:
            return "Nothing is being trained." + (
                f" Continue goes on with {self.after}." if self.after else ""
            )
        if self.going:
            after = f"Training {self.name} for {_duration(self.seconds)}"
            if self.stopping:
                return f"{after}: stopping, the checkpoint is being saved."
            return f"{after}: {self.stage()}."
        if self.status == 0:
            return f"Finished {self.name} in {_duration(self.seconds)}. It now stands in the list of trained runs."
        more = f" Continue goes on with {self.after}." if self.after else ""
        if self.status in STOPPED:
            return f"Stopped {self.name}.{more}"
        return f"{self.name} failed: {self.lines[-1] if self.lines else f'exit status {self.status}'}.{more}"

    def spoken(self) -> str:
        """`said` for those who hear it: while it trains another sentence comes with each phase, not each second."""
        if self.name is None:
            return ""
        if not self.going:
            return self.said()
        if self.stopping:
            return f"Stopping {self.name}."
        found = self._epoch()
        return f"Training {self.name}: {f'the {found[1]}' if found else 'getting ready'}."

    def stage(self) -> str:
        """The phase and epoch of the last line that names them."""
        found = self._epoch()
        return f"{found[1]}, epoch {found[2]} of {found[3]} done" if found else "getting ready"

    def _epoch(self) -> re.Match | None:
        return next((found for line in reversed(self.lines) if (found := EPOCH.match(line))), None)


class Job:
    """At most one training at a time, below ``root``."""

    def __init__(self, root: Path):
        self.root = root
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._lines: deque[str] = deque(maxlen=LINES)
        self._path: Path | None = None
        self._name: str | None = None
        self._began = self._ended = 0.0
        self._stopping = False

    def start(self, task: str, quick: bool) -> None:
        """Trains ``task`` with its defaults, or its quick settings, in the next free folder. Raises UserError while one is going on."""
        from srrl.runs import RunFolder

        with self._lock:
            self._free()
            folder = RunFolder.create(task, root=self.root).path
            self._run(folder, ["--task", task, "--run-dir", str(folder), *(["--quick"] if quick else [])])

    def unfinished(self) -> Path | None:
        """The newest run that can go on: without results, and not in the hands of a training, here or in a terminal.

        Where that cannot be known, it counts as training until it has been left alone for ``QUIET`` seconds.
        """
        found: dict[Path, float] = {}
        for config in (c for place in PLACES for c in self.root.glob(place)):
            path = config.parent
            when = max(modified(path / "metrics.csv"), modified(path / "checkpoints"), modified(config))
            if (path / "results.json").is_file() or (path / "finished").is_file():  # a comparison's teacher
                continue
            taken = is_held(path)
            if taken is None:
                taken = time.time() - when < QUIET
            if not taken:
                found[path] = when
        return max(found, key=found.get, default=None)

    def resume(self) -> None:
        """Goes on with the training that was stopped last, also before the app began. Raises UserError where there is none."""
        with self._lock:
            self._free()
            path = self.unfinished()
            if path is None:
                raise UserError("There is nothing to go on with: start a training.")
            self._run(path, ["--resume", str(path)])

    def stop(self) -> None:
        """The training saves a checkpoint and ends. Nothing where none is going on."""
        with self._lock:
            if self._going():
                self._stopping = True
                self._process.terminate()

    def close(self) -> None:
        """Stops the training and waits until it has saved what it has."""
        self.stop()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE)

    def state(self) -> State:
        """How it stands."""
        with self._lock:
            waiting = self.unfinished()
            after = str(waiting.relative_to(self.root)) if waiting is not None else None
            if self._process is None:
                return State(after=after)
            going = self._going()
            if not going and not self._ended:
                self._ended = time.monotonic()
            until = time.monotonic() if going else self._ended
            return State(
                self._name,
                self._path,
                going,
                self._stopping and going,
                self._process.poll(),
                until - self._began,
                tuple(self._lines),
                after,
            )

    def _free(self) -> None:
        if self._going():
            raise UserError(f"{self._name} is being trained: stop it first, or wait until it is finished.")

    def _going(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _run(self, folder: Path, arguments: list[str]) -> None:
        self._path, self._name = folder, str(folder.relative_to(self.root))
        self._began, self._ended, self._stopping = time.monotonic(), 0.0, False
        self._lines.clear()
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-m", "srrl.train", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C in the app's terminal reaches it through close(), once
        )
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    def _read(self, process: subprocess.Popen) -> None:
        for line in process.stdout:
            if process is self._process and line.strip():
                self._lines.append(line.rstrip())


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
