"""``python -m srrl_app.health``: whether the app of this container answers; a container that serves none is well."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

PATIENCE = 8.0  # seconds
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def address_of(command: list[str]) -> str | None:
    """Where this command line serves the app, None where it does something else."""
    places = [i for i, word in enumerate(command) if os.path.basename(word) == "srrl"]
    if not places or command[places[0] + 1 : places[0] + 2] != ["app"]:
        return None
    given = {"--host": os.environ.get("SRRL_HOST") or "127.0.0.1", "--port": "7860"}
    for i, word in enumerate(command[places[0] :], places[0]):
        option, equals, value = word.partition("=")
        if option in given:
            given[option] = value if equals else command[i + 1] if i + 1 < len(command) else ""
    host = EVERYWHERE.get(given["--host"], given["--host"])
    return f"http://[{host}]:{given['--port']}/" if ":" in host else f"http://{host}:{given['--port']}/"


def healthy(command: list[str]) -> bool:
    """Whether the app that this command line serves answers on this machine, a request for a password included."""
    address = address_of(command)
    if address is None:
        return True
    direct = urllib.request.build_opener(
        urllib.request.ProxyHandler({})
    )  # whatever proxy the container is given
    try:
        with direct.open(address, timeout=PATIENCE) as answer:
            return answer.status < 500
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False


if __name__ == "__main__":
    started = Path("/proc/1/cmdline").read_bytes().decode(errors="replace").split("\0")
    sys.exit(0 if healthy(started) else 1)
