"""Shards: fixed runs of faces in one file each, written atomically, read by offset."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from srrl.errors import UserError

from .settings import SPLITS

SHARD = 32  # faces a shard
_LABELS = ("points98", "points68", "visible98", "visible68", "rect", "attributes", "lengths")


@dataclass(frozen=True)
class StoredImage:
    """Picklable loader of one picture: `image()` gives (S, S, 3) uint8 RGB."""

    path: str
    offset: int
    length: int

    def encoded(self) -> bytes:
        """The JPEG file's bytes."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.length)

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


def write_shard(generator, folder: Path, seed: int, split: str, shard: int, tick=lambda: None) -> None:
    """Generate one shard and put it in place in one step; `tick` is called after each face."""
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
    scratch = target.with_suffix(f".{os.getpid()}.part")
    try:
        with open(scratch, "wb") as file:
            for name in _LABELS:
                np.save(file, labels[name], allow_pickle=False)
            file.write(np.concatenate(encoded).tobytes())
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)


def read_shard(path: Path) -> tuple[dict[str, np.ndarray], list[StoredImage]]:
    """Labels and picture loaders of one shard; UserError when the file is damaged."""
    try:
        with open(path, "rb") as file:
            labels = {name: np.load(file, allow_pickle=False) for name in _LABELS}
            start = file.tell()
            size = os.fstat(file.fileno()).st_size
    except (ValueError, EOFError) as error:
        raise UserError(
            f"{path}: not a shard of synthetic faces ({error}); delete it to have it made again"
        ) from error
    ends = start + np.cumsum(labels["lengths"])
    if size != ends[-1]:
        raise UserError(
            f"{path}: {size} bytes where {ends[-1]} were expected; delete it to have it made again"
        )
    return labels, [StoredImage(str(path), int(e - n), int(n)) for e, n in zip(ends, labels["lengths"])]
