"""``gr.Image`` as this app needs it: files come as they are, pictures go out whole, and a camera's without a file.

gradio opens every uploaded file itself, before our limits and words apply, and writes every picture that it shows to the
disk, equal ones to one file, over which it writes while somebody may be fetching it. A method of an instance does not last, because a component is made anew from its class at each update, and a subclass
is served as a custom component; so the class is changed, once, in the process of the app.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import cv2
import gradio as gr
import numpy as np
from gradio import processing_utils
from gradio.data_classes import ImageData
from gradio.utils import get_upload_folder
from PIL import Image

from srrl.runs import atomic

from .files import is_address

QUALITY = 85  # of live pictures, JPEG


def prepare_images() -> None:
    """Changes the class. Called before the page is built; a second time does nothing."""
    processing_utils.save_pil_to_cache = _saved_whole
    if gr.Image.preprocess is not _as_it_came:
        gr.Image.preprocess = _as_it_came
        gr.Image.postprocess = _with(gr.Image.postprocess)


def _as_it_came(self: gr.Image, payload: ImageData | None) -> str | None:
    """The path of an uploaded file, or a data URL, or an address to say no to; nothing else that a request may name.

    gradio checks where a path leads only in a payload that says what it is, and fills in for one that does not.
    """
    if payload is None:
        return None
    if payload.path:
        return payload.path if is_address(payload.path) or _uploaded(payload.path) else None
    return payload.url if payload.url and payload.url.startswith("data:image/") else None


def _uploaded(path: str) -> bool:
    return Path(path).resolve().is_relative_to(Path(get_upload_folder()).resolve())


def _with(usual: Any) -> Any:
    def postprocess(self: gr.Image, value: Any) -> Any:
        if isinstance(value, str) and value.startswith("data:image/jpeg;base64,"):
            return ImageData(url=value, orig_name="frame.jpg")
        return usual(self, value)

    return postprocess


def _saved_whole(img: Image.Image, cache_dir: str, name: str = "image", format: str = "webp") -> str:
    """gradio's function of that name, but whoever is fetching the same picture just then gets all of it."""
    data = processing_utils.encode_pil_to_bytes(img, format)
    path = (Path(cache_dir) / processing_utils.hash_bytes(data) / f"{name}.{format}").resolve()
    with atomic(path, durable=False) as temporary:
        temporary.write_bytes(data)
    return str(path)


def as_url(pixels: np.ndarray) -> str:
    """An RGB array as a data URL (JPEG)."""
    coded = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(coded).decode()
