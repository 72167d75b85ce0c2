"""A command line in a real process of its own that is forked from one which has imported everything: seconds less each."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from unittest import mock

SECONDS = 240  # that a command may take
# what the commands import one after the other; none of it starts a thread, which would be missing after a fork
IMPORTED = [
    "srrl.pipeline",
    "srrl.train",
    "srrl.evaluate",
    "srrl.predict",
    "srrl.export",
    "torchvision.models",
    "torch._dynamo",
    "accelerate.utils.operations",
    "sklearn.datasets",
    "matplotlib.pyplot",
]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(IMPORTED)


def forked(
    name: str, *arguments: object, cwd: Path | None = None, largest_file: int | None = None
) -> tuple[int, str, str]:
    """Exit status (negative for a signal that ended it), standard output and standard error of ``python -m srrl.<name> …``.

    No file may get more than ``largest_file`` bytes: what a full disk is to it.
    """
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder, stream) for stream in ("out", "err")]
        with mock.patch.dict(
            os.environ, OMP_NUM_THREADS="1"
        ):  # the first call starts what imports torch, which reads it
            process = _context.Process(
                target=_run,
                args=(
                    name,
                    [str(a) for a in arguments],
                    cwd or Path.cwd(),
                    dict(os.environ),
                    said,
                    largest_file,
                ),
            )
            process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"{name} took more than {SECONDS} s: {said[1].read_text()[-2000:]}")
        out, error = (path.read_text(encoding="utf-8") for path in said)
        return process.exitcode, out, error


def _run(
    name: str,
    arguments: list[str],
    cwd: Path,
    environment: dict[str, str],
    said: list[Path],
    largest_file: int | None,
) -> None:
    """The body of ``python -m srrl.<name>``."""
    for number, path in enumerate(said, start=1):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, number)
        os.close(handle)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    os.chdir(cwd)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    module = import_module(f"srrl.{name}")
    sys.argv = [module.__file__, *arguments]
    from srrl.cli import main_of

    main_of(module.COMMAND)
