"""The command line of the app: ``python -m app [--run DIR] [--host H] [--port N] [--auth USER:PASSWORD]``."""

from __future__ import annotations

import argparse
import errno
import os
import socket
from pathlib import Path
from tempfile import TemporaryDirectory

from srrl.cli import Command
from srrl.errors import UserError

EPILOG = """examples:
  python -m app                                every run below runs/, on http://127.0.0.1:7860
  python -m app --run runs/faces/001
  python -m app --host 0.0.0.0 --auth name:password   for others on the network; without --auth, for anybody on it

Nothing is sent anywhere: pictures are looked at by this process and forgotten."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run", metavar="DIR", help="the run that is shown first; may lie anywhere, or shipped:NAME"
    )
    parser.add_argument(
        "--runs",
        metavar="DIR",
        default="runs",
        help="folder with the other runs to choose from (default runs)",
    )
    parser.add_argument(
        "--host",
        default=os.environ.get("SRRL_HOST") or "127.0.0.1",
        help="address to listen on (default 127.0.0.1, or the environment variable SRRL_HOST)",
    )
    parser.add_argument("--port", type=int, default=7860, help="port to listen on (default 7860)")
    parser.add_argument(
        "--auth",
        metavar="USER:PASSWORD",
        default=os.environ.get("SRRL_AUTH"),
        help="ask for these (also from the environment variable SRRL_AUTH, which other users cannot see)",
    )


def run(args: argparse.Namespace) -> int:
    auth = None
    if args.auth is not None:
        user, colon, password = args.auth.partition(":")
        if not (user and colon and password):
            raise UserError("--auth: expected USER:PASSWORD")
        auth = (user, password)
    if not 0 < args.port < 65536:
        raise UserError(f"--port {args.port}: expected 1 to 65535")
    _check_address(args.host, args.port)
    runs = Path(args.runs)
    if not next(p for p in (runs, *runs.absolute().parents) if p.exists()).is_dir():
        raise UserError(f"--runs {args.runs} is not a folder: expected one with runs in it, or a new one")
    from .shelf import Shelf

    shelf = Shelf(args.runs, args.run)
    try:
        import gradio  # noqa: F401 - asked for here, where its absence can be told plainly
    except ImportError:
        raise UserError("the app needs gradio: pip install 'srrl[app]'") from None
    from .page import serve

    with TemporaryDirectory(
        prefix="srrl-app-"
    ) as folder:  # what people upload and are shown: gone with the app
        serve(shelf, host=args.host, port=args.port, auth=auth, folder=Path(folder))
    return 0


def _check_address(host: str, port: int) -> None:
    """UserError where this machine cannot listen there: at once and in our words, before the page is built.

    No name at all is refused, as the system takes it for every address that the machine has.
    """
    if not host.strip():
        raise UserError("--host is empty: expected an address of this machine, or 0.0.0.0 for all of them")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:  # the second for a name that no network could have
        raise UserError(
            f"--host {host[:200]}: there is no such address ({getattr(error, 'strerror', None) or error}); expected one of this machine"
        ) from None
    family, kind, protocol, _, address = found[0]
    try:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        what = "port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "host"
        raise UserError(
            f"{host}:{port} cannot be listened on ({error.strerror}): choose another --{what}"
        ) from None


COMMAND = Command(
    "app",
    "See teacher and student side by side in the browser.",
    add_arguments,
    run,
    EPILOG,
    "python -m app",
    keeps_memory=False,
)
