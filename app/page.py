"""The page: its tabs, and how it is served, which is to this machine alone unless it is told otherwise."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import gradio as gr

from srrl.errors import UserError

from . import runs_tab
from .compare_tab import CompareTab

if TYPE_CHECKING:
    from .shelf import Shelf

INTRODUCTION = """# Teacher and student, side by side
The **teacher** is the large network, the **student** the small one that learned from it. Choose a trained run and a
picture, and see whether the student is good enough. Pictures stay on this machine."""
WAITING = 64  # requests in the queue; the next one is told to come again
CSS = """
.gradio-container {max-width: 1280px !important; margin: auto}
@media (max-width: 640px) {.side-by-side {flex-direction: column}}
"""


def build(shelf: Shelf) -> gr.Blocks:
    """The whole page for the runs of ``shelf``."""
    with gr.Blocks(title="SRRL: teacher and student", analytics_enabled=False) as page:
        gr.Markdown(INTRODUCTION)
        names = list(shelf.folders())
        run = gr.Dropdown(
            names,
            value=names[0] if names else None,
            label="Trained run",
            info="Folders that python -m srrl.train made, the newest first",
            elem_id="run",
        )
        with gr.Tab("Compare", elem_id="tab-compare"):
            CompareTab(shelf, run)
        with gr.Tab("Runs", elem_id="tab-runs"):
            runs_tab.build(shelf, run)

        def refreshed(chosen: str | None) -> Any:
            names = list(shelf.folders())
            return gr.Dropdown(names, value=chosen if chosen in names else (names[0] if names else None))

        page.load(refreshed, run, run, api_visibility="private")

        def runs() -> list[dict[str, Any]]:
            """Every run with its task, networks and figures."""
            return [runs_tab.described(name, path) for name, path in shelf.folders().items()]

        gr.api(runs, api_name="runs")
    return page.queue(max_size=WAITING, default_concurrency_limit=1)


def serve(
    shelf: Shelf, *, host: str, port: int, auth: tuple[str, str] | None, block: bool = True
) -> gr.Blocks:
    """Starts the server. Raises UserError where the address is not to be had."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    page = build(shelf)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            auth=auth,
            share=False,
            quiet=True,
            show_error=False,
            enable_monitoring=False,
            run_history=False,
            allowed_paths=[],
            max_file_size="64mb",
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            prevent_thread_lock=True,
            footer_links=["api"],
            css=CSS,
        )
    except OSError as error:
        raise UserError(f"{host}:{port} cannot be listened on ({error}): choose another --port") from None
    print(f"http://{host}:{port}  (Ctrl-C ends it)", flush=True)
    if block:
        page.block_thread()
    return page
