"""Pictures from strangers: opened only where they are pictures, and small enough to be held."""

from __future__ import annotations

import base64
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from srrl.allocator import give_back
from srrl.errors import UserError
from srrl.media import DAMAGE, to_rgb
from srrl.media import opened as opened_picture

from .files import refuse_addresses

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 50_000_000  # of a file, decoded: 150 MB
LONGEST = 2048  # pixels; larger pictures are shrunk to this before anything looks at them
LARGE = 20_000_000  # bytes of a decoded picture after which memory is handed back
TOO_LARGE = (
    f"This picture has {{}} than the {MOST_PIXELS // 10**6} megapixels that are allowed: make it smaller."
)
DAMAGED = "This picture is damaged and cannot be opened: save it again, or choose another."
KINDS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


def open_picture(source: str | Path | None) -> np.ndarray:
    """:func:`opened` without the scale."""
    return opened(source)[0]


def opened(source: str | Path | None) -> tuple[np.ndarray, float]:
    """(H, W, 3) uint8 RGB, upright, at most ``LONGEST`` pixels a side, of an animation its first frame; and by what it was scaled.

    ``source``: a file, or a data URL, which is how a camera's frames come. Raises UserError in words for the person who
    chose it. The size is read from the header, before any pixel.
    """
    if not source:
        raise UserError("No picture yet: choose one, paste one, or take one with the camera.")
    refuse_addresses(source)
    pixels = _read(source)
    large, longest = pixels.size > LARGE, max(pixels.shape[:2])
    pixels = shrunk(pixels, LONGEST)
    if large:
        give_back()  # Pillow takes its memory in blocks that the C library would keep
    return pixels, max(pixels.shape[:2]) / longest


def _read(source: str | Path) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the limit below is ours
            with opened_picture(_readable(source), KINDS) as picture:
                width, height = picture.size
                if width * height > MOST_PIXELS:
                    raise UserError(TOO_LARGE.format(f"{width} × {height} pixels, more"))
                return _decoded(picture)
    except Image.DecompressionBombError:
        raise UserError(TOO_LARGE.format("far more pixels")) from None
    except UnidentifiedImageError:
        raise UserError(
            "This file is not a picture that can be opened here: use JPEG, PNG, WebP, BMP, GIF or TIFF."
        ) from None
    except DAMAGE:
        raise UserError(DAMAGED) from None


def shrunk(pixels: np.ndarray, longest: int) -> np.ndarray:
    """The picture with its longer side at most ``longest`` pixels."""
    shrink = longest / max(pixels.shape[:2])
    if shrink >= 1:
        return pixels
    size = (max(1, round(pixels.shape[1] * shrink)), max(1, round(pixels.shape[0] * shrink)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _readable(source: str | Path) -> Path | bytes:
    if isinstance(source, str) and source.startswith("data:image/"):
        return base64.b64decode(source.partition(",")[2])
    return Path(source)


def _decoded(picture: Image) -> np.ndarray:
    try:
        return to_rgb(picture)
    except UserError:
        raise UserError(DAMAGED) from None
