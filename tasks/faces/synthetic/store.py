"""Shards: fixed runs of faces in one file each, written atomically, read by offset."""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from srrl.errors import RunError, UserError
from srrl.lock import is_held

from .settings import SPLITS

SHARD = 32  # faces a shard
DIGEST = 16  # bytes at a shard's end: BLAKE2b of what stands before
_SCRATCH = re.compile(r"(\w+)-([0-9]{5,9})\.[0-9]+-[0-9a-f]{8}\.part")  # what a shard is written to
_LABELS = ("points98", "points68", "visible98", "visible68", "rect", "attributes", "lengths")


@dataclass(frozen=True)
class StoredImage:
    """Picklable loader of one picture: `image()` gives (S, S, 3) uint8 RGB."""

    path: str
    offset: int
    length: int

    def encoded(self) -> bytes:
        """The JPEG file's bytes."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                return file.read(self.length)
        except FileNotFoundError:
            raise UserError(f"{self.path} is no longer there: start again, and it is made again") from None

    def __call__(self) -> np.ndarray:
        image = cv2.imdecode(np.frombuffer(self.encoded(), np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise UserError(
                f"{self.path}: a picture in it cannot be decoded; delete the file to have it made again"
            )
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def shard_path(folder: Path, split: str, shard: int) -> Path:
    """File of one shard."""
    return Path(folder) / f"{split}-{shard:05d}.faces"


def shards_of(count: int) -> range:
    """Numbers of the shards that hold `count` faces; the last one is always whole."""
    return range((count + SHARD - 1) // SHARD)


def number_of(split: str, shard: int) -> int:
    """A number that no other shard of the cache has."""
    return (SPLITS.index(split) << 40) + shard


def is_being_written(scratch: Path) -> bool | None:
    """Whether another process is at work on the shard that this half-written file is of; None where that cannot be known.

    Workers hold a shard (:mod:`srrl.lock`) as long as they have a file of it.
    """
    found = _SCRATCH.fullmatch(scratch.name)
    if found is None or found[1] not in SPLITS:
        return None
    return is_held(scratch.parent, number_of(found[1], int(found[2])))


def write_shard(generator, folder: Path, seed: int, split: str, shard: int, tick=lambda: None) -> None:
    """Generate one shard and put it in place in one step; `tick` is called after each face.

    Raises RunError where the disk is full. Whoever calls it holds the shard.
    """
    faces, encoded = [], []
    for number in range(shard * SHARD, (shard + 1) * SHARD):
        face = generator.make((seed, SPLITS.index(split), number))
        good, data = cv2.imencode(".jpg", face.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, face.quality])
        if not good:
            raise RuntimeError(f"could not encode face {number} of {split}")
        faces.append(face)
        encoded.append(data.ravel())
        tick()
    labels = {
        "points98": np.stack([face.points[98] for face in faces]),
        "points68": np.stack([face.points[68] for face in faces]),
        "visible98": np.stack([face.visible[98] for face in faces]),
        "visible68": np.stack([face.visible[68] for face in faces]),
        "rect": np.array([face.rect for face in faces]),
        "attributes": np.array([list(face.attributes.values()) for face in faces], np.uint8),
        "lengths": np.array([len(data) for data in encoded], np.int64),
    }
    target = shard_path(folder, split, shard)
    content = io.BytesIO()
    for name in _LABELS:
        np.save(content, labels[name], allow_pickle=False)
    content.write(np.concatenate(encoded).tobytes())
    # process ids alone are not enough: two containers that share a cache both have a process 1
    scratch = target.with_suffix(f".{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with open(scratch, "wb") as file:
            file.write(content.getbuffer())
            file.write(_digest(content.getbuffer()))
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, target)
    except OSError as error:
        raise RunError(f"could not save {target}: {error.strerror or error}") from error
    finally:
        scratch.unlink(missing_ok=True)


def _digest(content: bytes | memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST).digest()


def read_shard(path: Path) -> tuple[dict[str, np.ndarray], list[StoredImage]]:
    """Labels and picture loaders of one shard. Raises UserError where the file is damaged, which its checksum tells."""
    content = Path(path).read_bytes()
    if len(content) < DIGEST or _digest(memoryview(content)[:-DIGEST]) != content[-DIGEST:]:
        raise UserError(f"{path}: a damaged shard of synthetic faces; delete it to have it made again")
    file = io.BytesIO(content)
    labels = {name: np.load(file, allow_pickle=False) for name in _LABELS}
    ends = file.tell() + np.cumsum(labels["lengths"])
    return labels, [StoredImage(str(path), int(e - n), int(n)) for e, n in zip(ends, labels["lengths"])]
