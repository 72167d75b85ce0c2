"""Pictures and videos in and out: whatever is given becomes upright RGB arrays, and arrays become files."""

from __future__ import annotations

import contextlib
import io
import re
import struct
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from srrl.errors import RunError, UserError

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
SPLITS = ("train", "val", "test")
SPLIT_ALIASES = {"valid": "val", "validation": "val", "training": "train", "testing": "test"}
VIDEO_EXTENSIONS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
ROWS = 256  # of a picture that are converted at a time
# what Pillow raises for a damaged file, depending on the format and the place of the damage
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    NotImplementedError,
    struct.error,
)


def expanded(path: str | Path) -> Path:
    """The path, ~ expanded. Raises UserError where it names a user that is not there."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no such user's folder here; write the path without ~") from None


def split_named(folder: str) -> str | None:
    """The split (train, val or test) that a folder's name means, if any."""
    name = SPLIT_ALIASES.get(folder.lower(), folder.lower())
    return name if name in SPLITS else None


def learnable(parts: Sequence[Sequence[str]]) -> list[bool]:
    """Which pictures, named by their path's parts, may be learned from: those of train/ where it is there.

    Otherwise all but those of val/ and test/, which are kept to measure with.
    """
    splits = [split_named(p[0]) if len(p) > 1 else None for p in parts]
    return [s == "train" if "train" in splits else s is None for s in splits]


@contextlib.contextmanager
def opened(source: Path | bytes, formats: Sequence[str] | None = None):
    """A picture file, or its bytes, as a PIL image of which no pixel is decoded yet; a PNG fits its own checksums.

    Pillow compares none of the checksums of a PNG's pixels while it decodes them. Raises what Pillow raises
    (:data:`DAMAGE`), and its DecompressionBombError for a picture that is too large.
    """
    from PIL import Image

    handle = lambda: io.BytesIO(source) if isinstance(source, bytes) else source  # noqa: E731 - verify() ends its own
    with Image.open(handle(), formats=formats) as image:
        if image.format == "PNG":
            with Image.open(handle(), formats=("PNG",)) as whole:
                whole.verify()
        yield image


def to_rgb(image: Any, name: str | None = None) -> np.ndarray:
    """A path (str or Path), a file's bytes, a PIL image or an RGB array -> (H, W, 3) uint8 RGB, as a viewer shows it.

    The EXIF orientation of files and PIL images is applied; grey, palette, CMYK and 16-bit pictures are converted, and
    transparency is laid over white. Raises UserError naming the picture (as ``name``, where given) where it cannot be used.
    """
    from PIL import Image

    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise UserError(
                f"an array of {image.dtype} {image.shape} is no picture: expected uint8 RGB (height, width, 3)"
            )
        return image
    if isinstance(image, Image.Image):
        return _decoded(image, name or "the PIL image")
    if isinstance(image, bytes):
        return _from_file(image, name or "the picture")
    if not isinstance(image, (str, Path)):
        raise UserError(
            f"a {type(image).__name__} is no picture: expected a path, a PIL image or an RGB array"
        )
    path = Path(image)
    if not path.is_file():
        raise UserError(
            f"image {path} is a folder: give a file" if path.is_dir() else f"image {missing(image)}"
        )
    return _from_file(path, name or f"image {path}")


def missing(name: str | Path) -> str:
    """What is said of a path where nothing is: an address is none."""
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(name), re.IGNORECASE):
        return f"{name} is an address: fetch it, and give the file"
    return f"{Path(name).absolute()} does not exist"


def _from_file(source: Path | bytes, name: str) -> np.ndarray:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata is no concern of the pixels
            with opened(source) as image:
                return _decoded(image, name)
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise UserError(f"{name} does not decode ({_line(error)}): replace it or leave it out") from None


def _decoded(image: Image, name: str) -> np.ndarray:
    from PIL import Image as pil
    from PIL import ImageOps

    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode == "F" or upright.mode.startswith("I"):
            upright = pil.fromarray(_eight_bits(np.asarray(upright)))
        if upright.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in upright.info:
            upright = upright.convert("RGBA")
            upright = pil.alpha_composite(pil.new("RGBA", upright.size, "white"), upright)
        return np.array(upright.convert("RGB"))
    except DAMAGE as error:
        raise UserError(f"{name} does not decode ({_line(error)}): replace it or leave it out") from None


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Grey values of more than 8 bits, or real ones (0–1 or 0–255), as uint8."""
    top = np.nanmax(values, initial=0)
    scale = 255.0 if top <= 1 else 1.0 if top <= 255 else 255 / 65535
    out = np.empty(values.shape, np.uint8)
    for start in range(
        0, len(values), ROWS
    ):  # in float64 the whole would take eight times the memory of the result
        part = np.nan_to_num(values[start : start + ROWS].astype(np.float64))
        out[start : start + ROWS] = np.clip(np.round(part * scale), 0, 255)
    return out


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def read_video(path: Path) -> Iterator[tuple[np.ndarray, float]]:
    """(frame (H, W, 3) uint8 RGB, frames a second) one after the other. Raises UserError where not one decodes."""
    import cv2

    capture = cv2.VideoCapture(str(path))
    try:
        rate = _rate(capture)
        empty = True
        while True:
            there, frame = capture.read()
            if not there:
                break
            empty = False
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), rate
        if empty:
            raise UserError(f"video {path} does not decode: convert it, for example to MP4 (H.264)")
    finally:
        capture.release()


def video_length(path: Path) -> tuple[int, float]:
    """Frames, 0 where the file does not say how many, and frames a second, as :func:`read_video` gives it."""
    import cv2

    capture = cv2.VideoCapture(str(path))
    try:
        return max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))), _rate(capture)
    finally:
        capture.release()


def video_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels as the file says them, before anything is decoded; 0 where it does not."""
    import cv2

    capture = cv2.VideoCapture(str(path))
    try:
        return tuple(int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    finally:
        capture.release()


def _rate(capture: Any) -> float:
    import cv2

    rate = capture.get(cv2.CAP_PROP_FPS)
    return rate if 0 < rate <= 1000 else 25.0  # streams without a rate say 0 or nonsense


class VideoFile:
    """A video of frames of one size: WebM (VP8) for ``.webm``, which browsers play, else MPEG-4 part 2, faster to write.

    They are the codecs that OpenCV's wheels always write.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], rate: float):
        import cv2

        self.path, self.frames = path, 0
        codec = "VP80" if path.suffix == ".webm" else "mp4v"
        self.writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate, (shape[1], shape[0]))
        if not self.writer.isOpened():
            raise RunError(f"could not write {path}: OpenCV has no {codec} encoder here; use --no-overlay")

    def add(self, image: np.ndarray) -> None:
        """One RGB frame."""
        self.frames += 1
        self.writer.write(image[..., ::-1].copy())

    def close(self) -> None:
        """Ends the file. Raises RunError where it cannot be played: the writer says nothing of a full disk."""
        import cv2

        self.writer.release()
        if self.frames:
            capture = cv2.VideoCapture(str(self.path))
            try:
                if not capture.read()[0]:
                    raise RunError(f"could not save {self.path}: is the disk full?")
            finally:
                capture.release()


def write_jpeg(path: Path, image: np.ndarray) -> None:
    """An RGB array (H, W, 3) uint8 as JPEG. Raises RunError where the disk is full."""
    from PIL import Image

    from srrl.runs import atomic

    with atomic(path) as temporary:
        Image.fromarray(image).save(temporary, format="JPEG", quality=92, subsampling=0)
