"""``python -m srrl_app.health``: whether the app of this container answers; a container that serves none is well."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from pathlib import Path

PORT = "7860"
PATIENCE = 8.0  # seconds


def port_of(command: list[str]) -> str | None:
    """The port that this command line serves the app at, None where it does something else."""
    if "app" not in command:
        return None
    for i, word in enumerate(command):
        if word == "--port" and i + 1 < len(command):
            return command[i + 1]
        if word.startswith("--port="):
            return word.partition("=")[2]
    return PORT


def healthy(command: list[str]) -> bool:
    """Whether the app that this command line serves answers on this machine, a request for a password included."""
    port = port_of(command)
    if port is None:
        return True
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE) as answer:
            return answer.status < 500
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False


if __name__ == "__main__":
    started = Path("/proc/1/cmdline").read_bytes().decode(errors="replace").split("\0")
    sys.exit(0 if healthy(started) else 1)
