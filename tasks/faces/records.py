"""One annotated face: its landmarks, where its picture comes from, and safe decoding of that picture."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from srrl.errors import UserError
from srrl.media import DAMAGE
from srrl.sums import Sums

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")

# A picture for training has no more; Pillow refuses larger ones as well.
MAX_PIXELS = 178_956_970

# Pictures whose checks wait in the thread pool at a time.
CHUNK = 1024

# Most formats have none, and a million records need not hold a million empty ones.
_NO_ATTRIBUTES: Mapping[str, int] = {}

# Annotations were drawn on the stored pixels, so a camera's orientation tag must not turn the picture under
# them.
_DECODE_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


# What OpenCV says where memory runs out, in its own allocator and in C++'s.
_NO_MEMORY = ("Insufficient memory", "Failed to allocate", "bad_alloc")


@dataclass(frozen=True, eq=False, slots=True)
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
    attributes: for example the six bits of WFLW; not to be changed, as records share them.
    subsets: names of the evaluation subsets this face belongs to.
    undetected: the face detector missed this face (set for the evaluation protocol "detector"): it counts as a
    failure.
    sums: the SHA256SUMS of the data set, which the image is compared with when it is read, or None.
    """

    name: str
    points: np.ndarray
    image: Path | None = None
    pixels: Callable[[], np.ndarray] | None = None
    rect: tuple[float, float, float, float] | None = None
    crop_rect: tuple[float, float, float, float] | None = None
    visible: np.ndarray | None = None
    attributes: Mapping[str, int] = field(default_factory=lambda: _NO_ATTRIBUTES)
    subsets: tuple[str, ...] = ()
    undetected: bool = False
    sums: Sums | None = None

    @property
    def labelled(self) -> np.ndarray:
        """(K,) bool: True where the point has coordinates."""
        return np.isfinite(self.points).all(axis=1)

    def encoded(self) -> bytes | None:
        """The bytes of the image file, None for a record with a pixel loader. Raises UserError naming it."""
        if self.image is None:
            return None
        return read_bytes(self.image, self.sums)

    def load(self) -> np.ndarray:
        """Decode the picture and check the points against it: (H, W, 3) uint8 RGB, stored orientation.

        Raises UserError naming the file when it is missing, does not decode, or a point lies far out of the
        frame.
        """
        if self.image is not None:
            pixels = decode_image(self.encoded(), self.image)
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


def read_bytes(path: Path, sums: Sums | None = None) -> bytes:
    """The content of an image file; raises UserError naming it when it cannot be read, or is not what `sums` says."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: the image cannot be read ({error.strerror or error}); restore the file or remove "
            "its annotation"
        ) from None
    if sums is not None:
        sums.check(path, data)
    return data


def decode_image(data: bytes, source: object) -> np.ndarray:
    """Decode an encoded image to (H, W, 3) uint8 RGB, stored orientation; grey becomes three channels.

    Raises UserError naming `source` when the bytes are no image, are cut short or describe too large a
    picture, and MemoryError when there is too little memory for a good one.
    """
    problem = "it is empty" if not data else _too_large(data) or _cut_short(data)
    if not problem:
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), _DECODE_FLAGS)
            if pixels is not None:
                return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        except cv2.error as error:
            # The picture may be good: on_error=skip must not drop it.
            if any(words in str(error) for words in _NO_MEMORY):
                raise MemoryError(f"too little memory to decode {source}") from None
        problem = "not an image that OpenCV can decode"
    raise UserError(
        f"{source}: the image does not decode ({problem}); replace it, remove its annotation, or skip "
        "bad images with on_error=skip"
    )


def _too_large(data: bytes) -> str:
    """Why a picture has too many pixels, or "": what its header says, before memory is taken for them."""
    if data.startswith(b"\x89PNG") and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
    elif data.startswith(b"\xff\xd8"):
        width, height = _jpeg_size(data)
    else:  # rarer formats: Pillow's look at the header takes longer
        from PIL import Image

        try:
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
        except Image.DecompressionBombError:
            return f"it has more than {MAX_PIXELS // 10**6} megapixels"
        except DAMAGE:
            return ""  # the decoder judges
    if width * height <= MAX_PIXELS:
        return ""
    return f"its {width}x{height} pixels are more than {MAX_PIXELS // 10**6} megapixels"


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """(width, height) from the frame header of a JPEG file; (0, 0) where there is none."""
    at = 2
    for _ in range(1000):  # segments; files have a few dozen at most
        at = data.find(b"\xff", at)
        if at < 0 or at + 9 > len(data):
            break
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        if marker == 0xFF:  # filling
            at += 1
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # without a length
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0, 0


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
    except (*DAMAGE, Image.DecompressionBombError):
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
    except (*DAMAGE, Image.DecompressionBombError):
        # A format that only OpenCV knows, or a bad file: decoding decides, and names it.
        return decode_image(record.encoded(), record.image).shape[:2]


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
        for found in _mapped(pool, lambda members: _problems(records, members), list(groups.values())):
            problems.update(found)
    reasons = [problems[index] for index in sorted(problems)]
    if reasons and on_error != "skip":
        more = f" ({len(reasons) - 1} more faces are bad as well)" if len(reasons) > 1 else ""
        raise UserError(reasons[0] + more)
    good = [record for index, record in enumerate(records) if index not in problems]
    if reasons and not good:
        raise UserError(f"none of the {len(records)} faces has a usable picture; the first: {reasons[0]}")
    return Records(good, records.format, records.split, records.skipped + reasons, records.notes)


def _mapped(pool: ThreadPoolExecutor, call: Callable, items: Sequence) -> Iterator:
    """pool.map, a bounded number of items at a time: by itself it makes a future of each item at once."""
    for start in range(0, len(items), CHUNK):
        yield from pool.map(call, items[start : start + CHUNK])


def _problems(records: Records, members: list[int]) -> dict[int, str]:
    """What is wrong with the faces `members`, which share one picture: index -> reason."""
    first = records[members[0]]
    try:
        if first.image is None:
            first.load()
            return {}
        shape = decode_image(first.encoded(), first.image).shape
    except UserError as error:
        return dict.fromkeys(members, str(error))
    found = {}
    for index in members:
        try:
            check_points(records[index], shape)
        except UserError as error:
            found[index] = str(error)
    return found
