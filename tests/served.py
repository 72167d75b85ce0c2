"""The app as a process of its own, for the tests that talk to it."""

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 120  # seconds until it listens


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def served(*arguments):
    """Gives the address and the process of ``python -m app`` with these arguments; ``process.said()`` is its output."""
    port = free_port()
    with tempfile.TemporaryFile("w+") as log:  # a pipe that nobody reads would fill up
        process = subprocess.Popen(
            [sys.executable, "-m", "app", *map(str, arguments), "--port", str(port)],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        process.said = lambda: (log.seek(0), log.read())[1]
        try:
            end = time.monotonic() + PATIENCE
            while "(Ctrl-C ends it)" not in process.said():
                assert process.poll() is None and time.monotonic() < end, process.said()
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
