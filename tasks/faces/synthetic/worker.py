"""A process that generates shards: started by `ensure`, it reads a JSON task from stdin and reports faces on stdout.

It is run as a file and loads this package by path, so it works from a checkout, from an install and from any script
that lacks a `__main__` guard. It never touches a GPU.
"""

import importlib.util
import json
import os
import signal
import sys
from pathlib import Path


def _package(root: Path, name: str):
    """Import the task package at `root` under `name`."""
    spec = importlib.util.spec_from_file_location(
        name, root / "__init__.py", submodule_search_locations=[str(root)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def main(task: dict) -> None:
    """Make the task's shards that are still missing; stops when the parent process has gone."""
    parent = os.getppid()
    report = os.dup(1)  # the pipe to the parent; libraries that print go to stderr from here on
    os.dup2(2, 1)

    def tick() -> None:
        if os.getppid() != parent:
            sys.exit(1)
        os.write(report, b"*")

    from srrl_tasks.faces.synthetic import face, store

    folder = Path(task["folder"])
    generator = face.Generator(task["size"], Path(task["cache"]))
    for split, shard in task["shards"]:
        if not store.shard_path(folder, split, shard).exists():
            store.write_shard(generator, folder, task["seed"], split, shard, tick)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides; it ends its workers itself
    for limit in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[limit] = "1"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    sys.path.pop(0)  # this folder: its module names must not shadow others
    if importlib.util.find_spec("srrl_tasks") is None:
        _package(Path(__file__).resolve().parents[2], "srrl_tasks")
    main(json.load(sys.stdin))
