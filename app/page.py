"""The page: its tabs, and how it is served, which is to this machine alone unless it is told otherwise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from starlette.middleware import Middleware

from srrl.errors import UserError
from srrl.interrupt import GracefulStop
from srrl.shipped import PREFIX

from . import runs_tab
from .benchmark_tab import BenchmarkTab
from .compare_tab import NOBODY, CompareTab
from .files import download_nothing, swept
from .guard import UPLOAD, Guard
from .images import prepare_images
from .job import Job
from .live_tab import LiveTab
from .style import CSS, JS, theme
from .train_tab import TrainTab

if TYPE_CHECKING:
    from .shelf import Shelf

INTRODUCTION = """# Teacher and student, side by side
The **teacher** is the large network, the **student** the small one that learned from it. Choose a trained run and a
picture, and see whether the student is good enough. Pictures stay on this machine."""
NOTHING = "**There is no run of your own yet.**"
COMES = " What you see are the face landmarks that come with the program."
OFFER = " A quick run takes a few minutes: a teacher and a student for face landmarks, on faces that the program paints itself."
LOCAL = ("127.0.0.1", "localhost", "::1")
EVERY = 5.0  # seconds between two looks for new runs
# browser tabs whose last inputs gradio remembers: half a megabyte each, also of those that have left
SESSIONS = 64
# the runs of the Benchmark tab when another is chosen above, as the list of outputs that gradio wants of a script
FOLLOW = "(name, several) => [several?.length > 1 ? {__type__: 'update'} : name ? [name] : []]"
WAITING = 64  # requests in the queue; the next one is told to come again


def build(shelf: Shelf, job: Job | None) -> gr.Blocks:
    """The whole page for the runs of ``shelf``; without a ``job`` nobody can train from it."""
    prepare_images()
    download_nothing()
    quiet = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
    with gr.Blocks(title="SRRL: teacher and student", analytics_enabled=False) as page:
        gr.Markdown(INTRODUCTION)

        def busy() -> str:
            if job is not None and job.state().going:
                return " **A training is running, which makes all times longer.**"
            return " **A camera is on, which makes all times longer.**" if live.busy() else ""

        names = list(shelf.folders())
        with gr.Row(visible=not shelf.own(), elem_id="nothing", elem_classes="side-by-side") as nothing:
            gr.Markdown(NOTHING + COMES * bool(names) + OFFER * (job is not None))
            first = gr.Button(
                "Train one now",
                variant="secondary" if names else "primary",  # what is there already can be tried first
                visible=job is not None,
                scale=0,
                min_width=180,
                elem_id="first",
            )
        run = gr.Dropdown(
            names,
            value=names[0] if names else None,
            label="Trained run",
            info="Folders that python -m srrl.train made, the newest first; then what comes with the program",
            allow_custom_value=True,  # runs come while the page is open: the shelf knows which there are
            elem_id="run",
        )
        with gr.Tabs() as tabs:
            with gr.Tab("Compare", elem_id="tab-compare"):
                compared = CompareTab(shelf, run, busy)
            with gr.Tab("Live", elem_id="tab-live"):
                live = LiveTab(shelf, run)
            with gr.Tab("Benchmark", elem_id="tab-benchmark"):
                timed = BenchmarkTab(shelf, busy)
            with gr.Tab("Runs", elem_id="tab-runs") as tab:
                runs_tab.build(shelf, run, tab)
            if job is not None:
                with gr.Tab("Train", id="train", elem_id="tab-train"):
                    training = TrainTab(job)
                first.click(lambda: gr.Tabs(selected="train"), None, tabs, **quiet).then(
                    training.begin, [training.task, training.length], training.outputs, **quiet
                )

        def refreshed(
            chosen: str | None, second: str | None, several: list[str], known: list[str] | None
        ) -> list[Any]:
            names = list(shelf.folders())
            if names == known:
                return [gr.skip()] * len(outputs)
            # a value that is still there is left alone: it may just have been changed
            own = list(shelf.own())
            if known is None and chosen == run.value:
                # just opened, and built when there may have been other runs
                first = {"value": names[0] if names else None}
            elif known and chosen == known[0] and own and all(name.startswith(PREFIX) for name in known):
                first = {"value": own[0]}  # the first run of one's own is what was waited for
            else:
                first = {} if chosen in names else {"value": names[0] if names else None}
            other = {} if second in (NOBODY, *names) else {"value": NOBODY}
            kept = [name for name in several if name in names]
            some = {} if kept and kept == several else {"value": kept or names[:1]}
            return [
                gr.Dropdown(choices=names, **first),
                gr.Dropdown(choices=[NOBODY, *names], **other),
                gr.Dropdown(choices=names, **some),
                gr.Row(visible=not own),
                names,
            ]

        # in the browser: an answer that came late would undo a choice made meanwhile in the other tab, and so might this
        # itself, which comes after what else follows a choice; several runs were chosen there, and stay
        run.change(None, [run, timed.runs], timed.runs, js=FOLLOW, api_visibility="private")
        known = gr.State(None)
        timer = gr.Timer(EVERY)
        outputs = [run, compared.other, timed.runs, nothing, known]
        inputs = [run, compared.other, timed.runs, known]
        gr.on([page.load, timer.tick], refreshed, inputs, outputs, **quiet)

        def runs() -> list[dict[str, Any]]:
            """Every run with its task, networks and figures."""
            return [runs_tab.described(name, path) for name, path in shelf.folders().items()]

        gr.api(runs, api_name="runs")
    return page.queue(max_size=WAITING, default_concurrency_limit=1)


def serve(shelf: Shelf, *, host: str, port: int, auth: tuple[str, str] | None, folder: Path) -> None:
    """Serves the page until it is interrupted. Raises UserError where the address is not to be had.

    folder: where uploads and pictures that are shown are kept for a while.
    Training can be started from the page where it is for this machine alone, or asks for a password. Without a password, a page for
    this machine alone answers only to this machine's own names.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    # kept for the monitoring page, which there is not
    os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")
    for name in ("NO_PROXY", "no_proxy"):  # gradio asks itself whether it has begun
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "localhost,127.0.0.1,::1")))
    job = Job(shelf.root) if host in LOCAL or auth else None
    own = frozenset(LOCAL) if host in LOCAL and not auth else None
    page = build(shelf, job)
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
            max_file_size=UPLOAD,
            state_session_capacity=SESSIONS,
            app_kwargs={"middleware": [Middleware(Guard, hosts=own, folder=folder)]},
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            prevent_thread_lock=True,
            footer_links=["api"],
            theme=theme(),
            css=CSS,
            js=JS,
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{host}:{port} cannot be listened on ({error}): choose another --port") from None
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    print(f"http://{shown}:{port}  (Ctrl-C ends it)", flush=True)
    try:
        with GracefulStop(), swept(folder):
            page.block_thread()
    finally:
        if job is not None:
            job.close()
        page.close(verbose=False)
