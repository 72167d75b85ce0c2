"""``gr.Image`` as this app needs it: files come as they are, and a camera's pictures go without a file.

gradio opens every uploaded file itself, before our limits and words apply, and writes every picture that it shows to the
disk. A method of an instance does not last, because a component is made anew from its class at each update, and a subclass
is served as a custom component; so the class is changed, once, in the process of the app.
"""

from __future__ import annotations

import base64
from typing import Any

import cv2
import gradio as gr
import numpy as np
from gradio.data_classes import ImageData

QUALITY = 85  # of live pictures, JPEG


def prepare_images() -> None:
    """Changes the class. Called before the page is built; a second time does nothing."""
    if gr.Image.preprocess is not _as_it_came:
        gr.Image.preprocess = _as_it_came
        gr.Image.postprocess = _with(gr.Image.postprocess)


def _as_it_came(self: gr.Image, payload: ImageData | None) -> str | None:
    """The path of an uploaded file, which gradio has checked, or a data URL; nothing else that a request may name."""
    if payload is None:
        return None
    if payload.path:
        return payload.path
    return payload.url if payload.url and payload.url.startswith("data:image/") else None


def _with(usual: Any) -> Any:
    def postprocess(self: gr.Image, value: Any) -> Any:
        if isinstance(value, str) and value.startswith("data:image/jpeg;base64,"):
            return ImageData(url=value, orig_name="frame.jpg")
        return usual(self, value)

    return postprocess


def as_url(pixels: np.ndarray) -> str:
    """An RGB array as a data URL (JPEG)."""
    coded = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(coded).decode()
