"""Files that the app keeps for a while: uploads, and pictures and videos that it shows."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Set
from pathlib import Path

import gradio as gr
from starlette.responses import Response

from srrl.errors import UserError

AGE = 3600.0  # seconds that a file is kept
EVERY = 60.0  # seconds between two looks


def download_nothing() -> None:
    """From now on an address where a file is expected stays an address: gradio would have this machine fetch it.

    Called before the page is built; a second time does nothing. :func:`refuse_addresses` then says no to it. Under
    ``/gradio_api/file=`` the server would even pass on what an address holds, to anybody.
    """
    gr.routes.secure_url_stream_response = _not_found
    block = gr.blocks.Block
    if block.async_move_resource_to_block_cache.__name__ != _moved_if_file.__name__:
        _moved_if_file.usual = block.async_move_resource_to_block_cache
        block.async_move_resource_to_block_cache = _moved_if_file


async def _moved_if_file(self: gr.blocks.Block, source: str | Path | None) -> str | None:
    if is_address(source):
        return str(source)
    return await _moved_if_file.usual(self, source)


async def _not_found(*_: object) -> Response:
    return Response(status_code=404)


def is_address(source: object) -> bool:
    """Whether this is ``http://…`` or ``https://…``, also with the one slash that a Path leaves of the two."""
    return str(source).startswith(("http:/", "https:/"))


def refuse_addresses(source: object) -> None:
    """Raises UserError for an address of the web."""
    if is_address(source):
        raise UserError("Addresses are not opened, because nothing is fetched from outside: choose a file.")


@contextlib.contextmanager
def swept(folder: Path, age: float = AGE, every: float = EVERY) -> Iterator[None]:
    """Within the block, a thread deletes the files below ``folder`` that are older than ``age`` and came after its begin.

    What is there before are the page's own files, such as its examples. (gradio's own deleting forgets the files of
    components that it has made anew.)
    """
    ended, kept = threading.Event(), frozenset(folder.rglob("*"))
    seen: dict[Path, tuple[float, int]] = {}

    def work() -> None:
        while not ended.wait(every):
            sweep(folder, age, seen, time.monotonic(), kept)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def sweep(
    folder: Path,
    age: float,
    seen: dict[Path, tuple[float, int]],
    now: float,
    kept: Set[Path] = frozenset(),
) -> None:
    """Deletes the files that came into sight, or were written or touched anew, more than ``age`` seconds ago and are not ``kept``, and folders empty by then.

    ``seen``, which calls hand on, says when that was, by a clock that nobody sets: files bear the time of one that may jump.
    """
    found = sorted(folder.rglob("*"), reverse=True)  # what is inside comes before the folder
    for gone in seen.keys() - set(found):
        del seen[gone]
    for path in found:
        if path in kept:
            continue
        with contextlib.suppress(OSError):
            # equal pictures are one file, which is handed out again; a folder's time changes with what is deleted from it
            written = 0 if path.is_dir() else path.stat().st_mtime_ns
            if path not in seen or seen[path][1] != written:
                seen[path] = now, written
            if now - seen[path][0] > age:
                path.rmdir() if path.is_dir() else path.unlink()
