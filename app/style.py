"""How the page looks, and what it tells a screen reader: colours that can be read, sizes for a phone, spoken messages."""

from __future__ import annotations

import gradio as gr

CSS = """
.gradio-container {max-width: 1280px !important; margin: auto}
.gradio-container, .gradio-container > .main {width: 100%; min-width: 0}  /* else a wide table widens a phone's page */
.gradio-container :is(button, input, textarea, a, [role=tab], [role=slider]):focus-visible,
.gradio-container label:has(input:focus-visible) {outline: 3px solid #2563eb !important; outline-offset: 2px}
footer .divider {display: none}
#plots .grid-wrap {height: auto !important; max-height: none !important; overflow: visible !important}  /* every picture of the report */
#plots .grid-container {grid-auto-rows: auto; row-gap: 16px; padding-top: 36px}
#plots .thumbnail-item {aspect-ratio: auto; height: auto; width: 100%}  /* as high as its picture is, and not a square */
#plots .thumbnail-item img {height: auto; max-height: 560px}
#plots .caption-label {position: static; max-width: none; white-space: normal; text-align: left; border: none}
#report table {display: block; overflow-x: auto}
#report :is(th, td) {word-break: normal; overflow-wrap: normal}
.unseen {position: absolute !important; width: 1px !important; height: 1px !important; overflow: hidden; clip-path: inset(50%)}
@media (max-width: 640px) {
  #bars {flex-direction: row !important; flex-wrap: wrap}
  #bars > * {width: calc(50% - 8px) !important; min-width: 0 !important; flex: 0 0 calc(50% - 8px)}
  :is(#cost, #table) .cell-menu-button {display: none}
  #cost th * {white-space: nowrap !important; overflow: visible !important}
  :is(#cost, #table) :is(th, td), :is(#cost, #table) :is(th, td, .body-cell) * {font-size: 11px !important; padding: 2px !important; min-width: 0 !important}
  .side-by-side {flex-direction: column; flex-wrap: nowrap}
  .side-by-side > * {width: 100% !important; min-width: 0 !important; max-width: 100%}
}
"""

# The parts of a tab are made when it is first opened, and places for pictures anew with every picture. Messages that come
# by themselves are of the class "spoken", but for those that change every second, which have an "unseen" one beside them.
JS = """() => {
  const set = (element, values) => {
    for (const [name, value] of Object.entries(values))
      if (element && element.getAttribute(name) !== value) element.setAttribute(name, value);
  };
  // gradio's slider follows a pointer alone: an arrow key pulls it with one, by a part of the picture's width
  const drag = (line, step) => {
    const handle = line.getBoundingClientRect(), picture = document.getElementById("slider").getBoundingClientRect();
    const y = handle.y + handle.height / 2, from = handle.x + handle.width / 2;
    const to = Math.min(Math.max(from + step * picture.width, picture.x), picture.right);
    const at = (x) => ({bubbles: true, cancelable: true, view: window, button: 0, clientX: x, clientY: y});
    line.dispatchEvent(new MouseEvent("mousedown", at(from)));
    for (const kind of ["mousemove", "mouseup"]) window.dispatchEvent(new MouseEvent(kind, at(to)));
    set(line, {"aria-valuenow": String(Math.round(100 * (to - picture.x) / picture.width))});
  };
  const tell = () => {
    for (const message of document.querySelectorAll(".block.spoken")) set(message, {role: "status", "aria-live": "polite"});
    const slider = "Teacher's picture on the left, student's on the right of a line that can be dragged";
    set(document.getElementById("slider"), {role: "group", "aria-label": slider});
    for (const image of document.querySelectorAll("#slider img")) if (!image.alt) image.alt = "The picture with the points of a network";
    const line = document.querySelector("#slider .outer");
    if (line && !line.hasAttribute("tabindex")) {
      const says = "Where the teacher's picture ends and the student's begins, in percent: arrow keys move it";
      set(line, {role: "slider", tabindex: "0", "aria-label": says, "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": "50"});
      line.addEventListener("keydown", (event) => {
        const step = {ArrowLeft: -0.05, ArrowRight: 0.05}[event.key];
        if (step) { event.preventDefault(); drag(line, step); }
      });
    }
    for (const empty of document.querySelectorAll("div.empty[aria-label]")) set(empty, {role: "img"});
  };
  let asked = false;
  new MutationObserver(() => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; tell(); });
  }).observe(document.body, {childList: true, subtree: true});
  tell();
}"""


def theme() -> gr.themes.Base:
    """gradio's own with more contrast: at least 4.5 to 1 between words and what is behind them (WCAG 2, AA)."""
    return gr.themes.Default().set(
        body_text_color_subdued="*neutral_500",
        block_info_text_color="*neutral_500",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        button_cancel_background_fill="#b91c1c",
        button_cancel_background_fill_hover="#991b1b",
        button_cancel_background_fill_dark="#b91c1c",
        button_cancel_background_fill_hover_dark="#991b1b",
        button_cancel_text_color="white",
        button_cancel_text_color_dark="white",
    )
