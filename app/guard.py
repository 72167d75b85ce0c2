"""What the server refuses before gradio sees it: names that are not its own, bodies that are too large, routes that nobody needs."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

UPLOAD = 64 * 2**20  # bytes of a file
BODY = (
    8 * 2**20
)  # of any other request: a camera's picture is far smaller, and gradio remembers what a page last sent
ENVELOPE = 2**16  # bytes that a form adds to its file
KEPT = 2 * 2**30  # bytes of all files that are kept for a while (``files.swept``)
# gradio's routes of the same rank as /queue/join that this page does not use; some keep what they are sent for ever.
UNUSED = (
    "process_recording",
    "vibe-",
    "undo-vibe-",
    "profiling",
    "proxy=",
    "deep_link",
    "component_server",
    "custom_component",
    "run-history",
    "monitoring",
)


class Guard:
    """ASGI middleware. hosts: names that a request may give this machine (None: any); folder: where uploads are kept.

    A page of the web can have its own name point at 127.0.0.1 and then talk to whatever listens there; it cannot hide that name.
    """

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str] | None, folder: Path):
        self.app, self.hosts, self.folder = app, hosts, folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self.refused(scope) if scope["type"] in ("http", "websocket") else None
        await (refused or self.app)(scope, receive, send)

    def refused(self, scope: Scope) -> PlainTextResponse | None:
        """The answer to a request that goes no further."""
        headers, path = Headers(scope=scope), scope["path"].removeprefix("/gradio_api").lstrip("/")
        if self.hosts is not None and name_of(headers.get("host", "")) not in self.hosts:
            return PlainTextResponse(
                "This page is served under 127.0.0.1 and localhost alone: with --auth also under other names.",
                403,
            )
        if path.startswith(UNUSED):
            return PlainTextResponse("There is no such page.", 404)
        if "transfer-encoding" in headers:
            return PlainTextResponse("Say how long the request is (Content-Length).", 411)
        length = headers.get("content-length", "0")
        length = int(length) if length.isdecimal() else 0  # the server has refused anything else
        upload = path.startswith("upload")
        if length > (UPLOAD + ENVELOPE if upload else BODY):
            return PlainTextResponse("This is more than is taken at once (64 MB in a file).", 413)
        if upload and length + size_of(self.folder) > KEPT:
            return PlainTextResponse(
                "Too many files have been sent: wait until the old ones are deleted.", 507
            )
        return None


def name_of(host: str) -> str:
    """The name in a Host header, without its port; empty where it is none."""
    found = re.fullmatch(r"(?:\[([^\]]*)\]|([^:\[\]]*))(?::\d+)?", host)
    return (found[1] or found[2] or "").lower() if found else ""


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # just deleted
            total += path.stat().st_size if path.is_file() else 0
    return total
