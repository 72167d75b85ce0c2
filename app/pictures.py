"""Pictures from strangers: opened only where they are pictures, and small enough to be held."""

from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import numpy as np

from srrl.errors import UserError
from srrl.media import to_rgb

MOST_PIXELS = 50_000_000  # of a file, decoded: 150 MB
LONGEST = 2048  # pixels; larger pictures are shrunk to this before anything looks at them
KINDS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


def open_picture(path: str | Path | None) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright, at most ``LONGEST`` pixels a side; of an animation its first frame.

    Raises UserError in words for the person who chose the file. The size is read from the header, before any pixel.
    """
    from PIL import Image, UnidentifiedImageError

    if not path:
        raise UserError("No picture yet: choose one, paste one, or take one with the camera.")
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the limit below is ours
            with Image.open(path, formats=KINDS) as opened:
                width, height = opened.size
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        if isinstance(error, Image.DecompressionBombError):
            raise UserError(_too_large("far more")) from None
        raise UserError(
            "This file is not a picture that can be opened here: use JPEG, PNG, WebP, BMP, GIF or TIFF."
        ) from None
    if width * height > MOST_PIXELS:
        raise UserError(_too_large(f"{width} × {height} pixels"))
    try:
        pixels = to_rgb(path)
    except UserError:
        raise UserError(
            "This picture is damaged and cannot be opened: save it again, or choose another."
        ) from None
    shrink = LONGEST / max(pixels.shape[:2])
    if shrink >= 1:
        return pixels
    size = (max(1, round(pixels.shape[1] * shrink)), max(1, round(pixels.shape[0] * shrink)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _too_large(size: str) -> str:
    return f"This picture has {size}, more than the {MOST_PIXELS // 10**6} megapixels that are allowed: make it smaller."
