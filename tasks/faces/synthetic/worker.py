"""A process that generates shards: started by `ensure`, it reads a JSON task from stdin and reports faces on stdout.

It is run as a file and loads this package by path, so it works from a checkout, from an install and from any script
that lacks a `__main__` guard. It never touches a GPU.
"""

import importlib.util
import json
import os
import signal
import sys
import time
from collections import deque
from pathlib import Path


def _package(root: Path, name: str):
    """Import the task package at `root` under `name`."""
    spec = importlib.util.spec_from_file_location(
        name, root / "__init__.py", submodule_search_locations=[str(root)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


LATER = 0.2  # seconds between two looks at what others are making


def main(task: dict) -> None:
    """Make the task's shards that are still missing; stops when the parent process has gone.

    Workers of several programs that fill one cache share the shards: what another one is making is left to it, and taken over
    where it ends before it is done.
    """
    parent = os.getppid()
    report = os.dup(1)  # the pipe to the parent; libraries that print go to stderr from here on
    os.dup2(2, 1)

    def tick(count: int = 1) -> None:
        if os.getppid() != parent:
            sys.exit(1)
        os.write(report, b"*" * count)

    from srrl_tasks.faces.synthetic import face, store

    from srrl.lock import held

    folder = Path(task["folder"])
    generator = face.Generator(task["size"], Path(task["cache"]))
    left, busy = deque(task["shards"]), 0
    while left:
        split, shard = left.popleft()
        with held(folder, store.number_of(split, shard)) as mine:
            there = store.shard_path(folder, split, shard).exists()
            if mine and not there:
                store.write_shard(generator, folder, task["seed"], split, shard, tick)
            elif there:
                tick(store.SHARD)
            else:
                left.append((split, shard))
        busy = 0 if there or mine else busy + 1
        if busy and busy >= len(left):
            tick(0)
            time.sleep(LATER)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides; it ends its workers itself
    for limit in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[limit] = "1"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    sys.path.pop(0)  # this folder: its module names must not shadow others
    if importlib.util.find_spec("srrl_tasks") is None:
        _package(Path(__file__).resolve().parents[2], "srrl_tasks")
    from srrl.cli import guarded

    sys.exit(guarded(lambda: main(json.load(sys.stdin)) or 0))  # the parent passes its one line on
