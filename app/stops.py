"""Stop buttons: they end what their page waits for, also while that is still in the queue."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import gradio as gr


class Stops:
    """Whether a page has asked for the end of one kind of work, by browser tab."""

    def __init__(self):
        self._events: dict[str, threading.Event] = {}

    def asked(self, request: gr.Request) -> str:
        """The button was pressed, and the work is put into the queue; what the page says meanwhile."""
        self._events[request.session_hash] = threading.Event()
        return "Waiting for its turn."

    @contextlib.contextmanager
    def work(self, request: gr.Request) -> Iterator[Callable[[], bool]]:
        """Around the work, once it has its turn: gives the function that says whether it is to end."""
        event = self._events.setdefault(request.session_hash, threading.Event())
        try:
            yield event.is_set
        finally:
            if self._events.get(request.session_hash) is event:  # else the button was pressed again meanwhile
                del self._events[request.session_hash]

    def stop(self, request: gr.Request) -> None:
        """The page's Stop button."""
        if event := self._events.get(request.session_hash):
            event.set()
