"""The app as a process of its own, for the tests that talk to it."""

import contextlib
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def served(*arguments):
    """Gives the address and the process of ``python -m app`` with these arguments."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "app", *map(str, arguments), "--port", str(port)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("http://") and f":{port}" in line, line + process.stdout.read()
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        process.wait(60)
