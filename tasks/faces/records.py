"""One annotated face: its landmarks, where its picture comes from, and safe decoding of that picture."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from srrl.errors import UserError

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")

# What Pillow raises for a damaged file, depending on the format and the place of the damage.
_PILLOW_ERRORS = (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, struct.error)

# Annotations were drawn on the stored pixels, so a camera's orientation tag must not turn the picture under
# them.
_DECODE_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


@dataclass(frozen=True, eq=False)
class FaceRecord:
    """One face of a data set.

    name: stable id shown to people and in errors, for example "0--Parade/x.jpg#2" (the second face of that
    image).
    points: (K, 2) float64 x y, 0-based pixels, pixel centres at integers; NaN where unlabelled.
    image: file to decode, or
    pixels: a loader that returns (H, W, 3) uint8 RGB; it can be pickled when it comes from one of the
    readers.
    rect: (xmin, ymin, xmax, ymax) in pixels as the data set gives it, or None.
    crop_rect: a rectangle found in the picture (by a detector, around predicted points), to crop by in the place of `rect`.
    visible: (K,) bool, False where the point is occluded (still labelled) or unlabelled; None where unknown.
    attributes: for example the six bits of WFLW.
    subsets: names of the evaluation subsets this face belongs to.
    undetected: the face detector missed this face (set for the evaluation protocol "detector"): it counts as a
    failure.
    """

    name: str
    points: np.ndarray
    image: Path | None = None
    pixels: Callable[[], np.ndarray] | None = None
    rect: tuple[float, float, float, float] | None = None
    crop_rect: tuple[float, float, float, float] | None = None
    visible: np.ndarray | None = None
    attributes: dict[str, int] = field(default_factory=dict)
    subsets: tuple[str, ...] = ()
    undetected: bool = False

    @property
    def labelled(self) -> np.ndarray:
        """(K,) bool: True where the point has coordinates."""
        return np.isfinite(self.points).all(axis=1)

    def encoded(self) -> bytes | None:
        """The bytes of the image file, None for a record with a pixel loader. Raises UserError naming it."""
        if self.image is None:
            return None
        return read_bytes(self.image)

    def load(self) -> np.ndarray:
        """Decode the picture and check the points against it: (H, W, 3) uint8 RGB, stored orientation.

        Raises UserError naming the file when it is missing, does not decode, or a point lies far out of the
        frame.
        """
        if self.image is not None:
            pixels = decode_image(read_bytes(self.image), self.image)
        elif self.pixels is not None:
            pixels = self.pixels()
        else:
            raise UserError(
                f"{self.name}: the record has neither an image file nor a pixel loader; give one of them"
            )
        check_points(self, pixels.shape)
        return pixels


class Records(list):
    """A list of FaceRecord with how it came about.

    format: name of the format it was read as; split: the split asked for, or None;
    skipped: one line for each face left out under on_error="skip"; notes: other things worth telling the
    user.
    """

    def __init__(
        self,
        records: Iterable[FaceRecord] = (),
        format: str = "",
        split: str | None = None,
        skipped: Iterable[str] = (),
        notes: Iterable[str] = (),
    ):
        super().__init__(records)
        self.format, self.split = format, split
        self.skipped, self.notes = list(skipped), list(notes)


def read_bytes(path: Path) -> bytes:
    """The content of an image file; raises UserError naming it when it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: the image cannot be read ({error.strerror or error}); restore the file or remove "
            "its annotation"
        ) from None


def decode_image(data: bytes, source: object) -> np.ndarray:
    """Decode an encoded image to (H, W, 3) uint8 RGB, stored orientation; grey becomes three channels.

    Raises UserError naming `source` when the bytes are no image, are cut short or describe too large a
    picture.
    """
    problem = "it is empty" if not data else _cut_short(data)
    pixels = None
    if not problem:
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), _DECODE_FLAGS)
        except cv2.error:
            pixels = None
        problem = "not an image that OpenCV can decode"
    if pixels is None:
        raise UserError(
            f"{source}: the image does not decode ({problem}); replace it, remove its annotation, or skip "
            "bad images with on_error=skip"
        )
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _cut_short(data: bytes) -> str:
    """Why an encoded image is truncated, or "". OpenCV fills the missing part with grey and says nothing."""
    jpeg, png = data.startswith(b"\xff\xd8"), data.startswith(b"\x89PNG")
    complete = (jpeg and data.rstrip(b"\0\r\n").endswith(b"\xff\xd9")) or (png and b"IEND" in data[-64:])
    if complete or not (jpeg or png):
        return ""
    # No end mark in the usual place: a valid file may carry trailing data, so let a strict decoder judge.
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except _PILLOW_ERRORS:
        return "the file is cut short"
    return ""


def image_size(record: FaceRecord) -> tuple[int, int]:
    """(height, width) in pixels, from the header alone where there is a file. Raises UserError naming it."""
    if record.image is None:
        return record.load().shape[:2]
    from PIL import Image

    try:
        with Image.open(record.image) as image:
            return image.height, image.width
    except _PILLOW_ERRORS:
        # A format that only OpenCV knows, or a bad file: decoding decides, and names it.
        return decode_image(read_bytes(record.image), record.image).shape[:2]


def check_points(record: FaceRecord, image_shape: tuple[int, ...]) -> None:
    """Raise UserError when a point of `record` lies more than one image size away from the frame.

    image_shape: (H, W) or (H, W, C). Annotators do mark points a little outside of the frame (a cropped
    chin), so -W <= x <= 2 W and -H <= y <= 2 H is accepted; beyond that the file and the picture do not
    belong together.
    """
    height, width = image_shape[:2]
    size = np.array([width, height], dtype=np.float64)
    with np.errstate(invalid="ignore"):
        far = ((record.points < -size) | (record.points > 2 * size)).any(axis=1)
    if far.any():
        index = int(np.flatnonzero(far)[0])
        x, y = record.points[index]
        raise UserError(
            f"{record.name}: point {index} at ({x:.1f}, {y:.1f}) lies more than one image size outside of "
            "the "
            f"{width}x{height} picture {record.image or ''}".rstrip()
            + "; check that the annotation belongs to this image and is in pixels"
        )


def verify_images(
    records: Iterable[FaceRecord], on_error: str = "raise", workers: int | None = None
) -> Records:
    """Decode every picture once and check the points against it, in a thread pool, before training starts.

    Returns the usable records as Records (format, split, notes and earlier skips kept); under on_error="skip"
    the others are dropped and listed in `.skipped`, under "raise" the first bad one (in record order) raises
    UserError.
    """
    records = records if isinstance(records, Records) else Records(records)
    groups: dict[object, list[int]] = {}
    for index, record in enumerate(records):
        groups.setdefault(record.image if record.image is not None else ("loader", index), []).append(index)
    problems: dict[int, str] = {}
    with ThreadPoolExecutor(workers or min(16, 2 * (os.cpu_count() or 1))) as pool:
        for found in pool.map(lambda members: _problems(records, members), groups.values()):
            problems.update(found)
    reasons = [problems[index] for index in sorted(problems)]
    if reasons and on_error != "skip":
        more = f" ({len(reasons) - 1} more faces are bad as well)" if len(reasons) > 1 else ""
        raise UserError(reasons[0] + more)
    good = [record for index, record in enumerate(records) if index not in problems]
    if reasons and not good:
        raise UserError(f"none of the {len(records)} faces has a usable picture; the first: {reasons[0]}")
    return Records(good, records.format, records.split, records.skipped + reasons, records.notes)


def _problems(records: Records, members: list[int]) -> dict[int, str]:
    """What is wrong with the faces `members`, which share one picture: index -> reason."""
    first = records[members[0]]
    try:
        if first.image is None:
            first.load()
            return {}
        shape = decode_image(read_bytes(first.image), first.image).shape
    except UserError as error:
        return dict.fromkeys(members, str(error))
    found = {}
    for index in members:
        try:
            check_points(records[index], shape)
        except UserError as error:
            found[index] = str(error)
    return found
