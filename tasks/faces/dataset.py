"""Face crops for training and evaluation: one record in, one sample out, random only in (seed, epoch, index)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from srrl.errors import UserError

from .augment import Augment
from .crop import LANDMARK_SCALE, Crop
from .records import FaceRecord, check_points, decode_image
from .schemes import Scheme

BOXES = ("landmark", "given")
FILE_LIMIT = 1 << 20  # bytes; larger image files are read again each time
CACHE_LIMIT = 512 << 20  # bytes of image files kept by one data set (each worker process holds its own copy)


class FaceDataset(Dataset):
    """Square crops of size x size around each face, with landmarks in crop pixels (centres at integers).

    records: the faces; all must have scheme.n_points points.
    box: "landmark" (around the labelled points) or "given" (around record.crop_rect where there is one, else record.rect).
    scale: side of the crop / longer side of that box.
    augment: None gives the plain crop.
    seed: together with the epoch and the index it decides everything random, at any number of workers.
    on_error: what to do about faces that cannot be cropped, which is checked while the data set is built: "raise", or
        "skip": they are dropped, and `skipped` lists one line for each. Pictures are `records.verify_images`'s to check.

    `ds[i]` is epoch 0; `ds[epoch, i]` any other. Files of up to 1 MiB are kept in memory, still compressed, once
    read (512 MiB in all), so that later epochs do not touch the disk.
    Raises UserError naming the record when it cannot be used.
    """

    def __init__(
        self,
        records: Sequence[FaceRecord],
        scheme: Scheme,
        size: int,
        *,
        box: str = "landmark",
        scale: float = LANDMARK_SCALE,
        augment: Augment | None = None,
        seed: int = 0,
        on_error: str = "raise",
    ) -> None:
        if box not in BOXES:
            raise UserError(f"box '{box}': expected one of {', '.join(BOXES)}")
        if on_error not in ("raise", "skip"):
            raise UserError(f"on_error '{on_error}': expected raise or skip")
        self.scheme, self.size, self.box, self.scale = scheme, size, box, scale
        self.augment, self.seed = augment, seed
        self._encoded: dict[Path, bytes] = {}
        self._encoded_bytes = 0
        self.records = list(records)
        self.skipped: list[str] = []
        if on_error == "skip":
            self._drop_bad()
        else:
            for index in range(len(self.records)):
                self.crop(index)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """key: index, or (epoch, index).

        Returns image: uint8 (3, size, size) RGB; points: float32 (K, 2) crop pixels, NaN where unlabelled, possibly
        outside the crop; mask: bool (K,) labelled; index: int, the place in `records`.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        index = self._checked(int(index))
        record, crop = self.records[index], self.crop(index)
        rng = np.random.default_rng([self.seed, int(epoch), index])
        if self.augment is not None:
            crop = self.augment.jitter(crop, rng)
        image = crop.warp(self.image(index))
        points = crop.apply(record.points)
        if crop.flip:  # the mirrored left eye is a right eye
            points = points[self.scheme.flip_order]
        if self.augment is not None:
            image = self.augment.photometric(image, rng)
        points = torch.from_numpy(points.astype(np.float32))
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "points": points,
            "mask": torch.isfinite(points).all(dim=1),
            "index": index,
        }

    def crop(self, index: int) -> Crop:
        """The crop of one face without augmentation; its `invert` leads back to image coordinates."""
        record = self.records[self._checked(index)]
        if len(record.points) != self.scheme.n_points:
            raise UserError(
                f"{record.name}: {len(record.points)} landmarks, expected {self.scheme.n_points} "
                f"({self.scheme.name}); choose the scheme that fits the data"
            )
        rect = record.crop_rect or record.rect
        if self.box == "given" and rect is None:
            raise UserError(
                f"{record.name}: no rectangle is given with this face; use box=landmark, or data that has rectangles"
            )
        try:
            if self.box == "given":
                return Crop.around_rect(rect, self.size, self.scale)
            return Crop.around_points(record.points, self.size, self.scale)
        except UserError as error:
            raise UserError(f"{record.name}: {error}") from error

    def image(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB, the whole picture that holds the face."""
        record = self.records[self._checked(index)]
        if record.image is None:
            return record.load()
        data = self._encoded.get(record.image)
        if data is None:
            data = record.encoded()
            if len(data) <= FILE_LIMIT and self._encoded_bytes + len(data) <= CACHE_LIMIT:
                self._encoded[record.image] = data
                self._encoded_bytes += len(data)
        picture = decode_image(data, record.image)
        check_points(record, picture.shape)
        return picture

    def around(self, points: np.ndarray) -> FaceDataset:
        """The same faces, cropped around (N, K, 2) predicted points instead; a face whose points coincide keeps its crop."""
        other = copy.copy(self)
        other.box, other.records = "given", []
        for index, (record, found) in enumerate(zip(self.records, points, strict=True)):
            low, high = found.min(axis=0), found.max(axis=0)
            if (high > low).any():
                rect = (*low.tolist(), *high.tolist())
            else:
                crop = self.crop(index)
                half = crop.side / self.scale / 2
                (x, y) = crop.center
                rect = (x - half, y - half, x + half, y + half)
            other.records.append(replace(record, crop_rect=rect))
        return other

    def plain(self) -> FaceDataset:
        """The same faces without augmentation."""
        other = copy.copy(self)
        other.augment = None
        return other

    def head(self, count: int) -> FaceDataset:
        """The first ``count`` faces."""
        other = copy.copy(self)
        other.records = self.records[:count]
        return other

    def mean_shape(self) -> np.ndarray:
        """(K, 2) float64: the mean of the landmarks in the crops without augmentation; NaN where never labelled."""
        total, count = 0.0, 0
        for index, record in enumerate(self.records):
            points = self.crop(index).apply(record.points)
            labelled = np.isfinite(points)
            total, count = total + np.where(labelled, points, 0.0), count + labelled
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(total / count)

    def _checked(self, index: int) -> int:
        """The index itself, counted from the end when negative; IndexError outside (which ends a plain loop)."""
        if not -len(self.records) <= index < len(self.records):
            raise IndexError(f"index {index}: the data set has {len(self.records)} faces")
        return index % len(self.records)

    def _drop_bad(self) -> None:
        good = []
        for index, record in enumerate(self.records):
            try:
                self.crop(index)
                good.append(record)
            except UserError as error:
                self.skipped.append(str(error))
        if not good:
            raise UserError(
                f"none of the {len(self.records)} faces can be cropped; the first: {self.skipped[0]}"
            )
        self.records = good
