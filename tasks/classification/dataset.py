"""The two kinds of data set: all pictures in memory as one tensor, or decoded from files when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from srrl.media import to_rgb

from .augment import crop_and_flip, keyed_uniform
from .settings import AugmentSettings


class MemoryImages(Dataset):
    """Pictures of one size in memory: a batch is one gather, without Python for each picture, on the pictures' device.

    images: (N, 3, S, S) uint8, quickest channels-last; labels: (N,) int64. Keys are sample numbers, or (epoch, number)
    for augmented ones.
    """

    in_memory = True

    def __init__(self, images: Tensor, labels: Tensor, seed: int = 0, augment: AugmentSettings | None = None):
        self.images, self.labels, self.seed, self.augment = images, labels, seed, augment
        self._drawn: tuple[int, Tensor] | None = None  # an epoch, and what was drawn for it

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        return {k: v[0] for k, v in self.__getitems__([key]).items()}

    def __getitems__(
        self, keys: Sequence[int | tuple[int, int]] | tuple[int, np.ndarray]
    ) -> dict[str, Tensor]:
        """A whole batch at once: ``image`` (B, 3, S, S) uint8, ``label`` and ``index`` (B,). What torch's loader calls.

        ``keys``: a list of them, or (epoch, sample numbers (B,)).
        """
        if isinstance(keys, tuple):
            epoch, numbers = keys
        else:
            epoch = keys[0][0] if isinstance(keys[0], tuple) else None
            numbers = np.array([k[1] if isinstance(k, tuple) else k for k in keys])
        index = torch.from_numpy(numbers).to(self.device)
        # in the order of memory, where a picture is one piece
        images = self.images.permute(0, 2, 3, 1).index_select(0, index).permute(0, 3, 1, 2)
        if self.augment is not None and epoch is not None:
            images = crop_and_flip(images, self.draws(epoch)[index], self.augment.pad, self.augment.flip)
        return {"image": images, "label": self.labels[index], "index": index}

    def draws(self, epoch: int) -> Tensor:
        """(N, 3) in [0, 1), a row a sample; of a whole epoch at once, as its thirty small operations cost a GPU more than a batch."""
        if self._drawn is None or self._drawn[0] != epoch:
            everything = torch.arange(len(self), device=self.device)
            self._drawn = epoch, keyed_uniform(self.seed, epoch, everything, 3)
        return self._drawn[1]

    @property
    def device(self) -> torch.device:
        """Where the pictures are, and batches are made."""
        return self.images.device

    @property
    def nbytes(self) -> int:
        """Memory that the pictures take."""
        return self.images.nbytes

    def to(self, device: torch.device) -> MemoryImages:
        """The same on another device; batches are the same there, bit for bit."""
        return MemoryImages(self.images.to(device), self.labels.to(device), self.seed, self.augment)

    def head(self, count: int) -> MemoryImages:
        """The first ``count`` samples."""
        return MemoryImages(self.images[:count], self.labels[:count], self.seed, self.augment)

    def plain(self) -> MemoryImages:
        """The same samples without augmentation."""
        return MemoryImages(self.images, self.labels, self.seed)

    @staticmethod
    def collate(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch as :meth:`__getitems__` made it."""
        return batch


class FileImages(Dataset):
    """Pictures on disk, decoded when they are needed: large ones.

    ``read`` turns an entry of ``files`` into what :func:`srrl.media.to_rgb` takes. Training pictures are random crops
    resized to ``size``, as in *Going Deeper with Convolutions*; others the middle of the picture resized to size/0.875.
    """

    decodes = True  # a picture takes milliseconds

    def __init__(
        self,
        files: Sequence[Path],
        labels: Sequence[int],
        size: int,
        seed: int = 0,
        augment: AugmentSettings | None = None,
        read: Callable[[Any], Any] = lambda file: file,
    ):
        self.files, self.labels, self.size = files, torch.as_tensor(labels), size
        self.seed, self.augment, self.read = seed, augment, read

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (None, key)
        image = to_rgb(self.read(self.files[index]))
        if self.augment is not None and epoch is not None:
            image = self._random(image, keyed_uniform(self.seed, epoch, torch.tensor([index]), 24)[0].numpy())
        else:
            image = central(image, self.size)
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        return {"image": pixels, "label": self.labels[index], "index": index}

    def head(self, count: int) -> FileImages:
        """The first ``count`` samples."""
        return FileImages(
            self.files[:count], self.labels[:count], self.size, self.seed, self.augment, self.read
        )

    def plain(self) -> FileImages:
        """The same samples without augmentation."""
        return FileImages(self.files, self.labels, self.size, self.seed, None, self.read)

    def _random(self, image: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """A crop of random area and aspect (3/4 to 4/3), ten tries, then the middle; mirrored by chance."""
        height, width = image.shape[:2]
        crop = None
        for k in range(10):
            area = height * width * (self.augment.smallest + uniform[2 * k] * (1 - self.augment.smallest))
            aspect = np.exp((2 * uniform[2 * k + 1] - 1) * np.log(4 / 3))
            w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
            if 0 < w <= width and 0 < h <= height:
                top, left = int(uniform[20] * (height - h + 1)), int(uniform[21] * (width - w + 1))
                crop = resize(image[top : top + h, left : left + w], self.size, self.size)
                break
        crop = central(image, self.size) if crop is None else crop
        return crop[:, ::-1] if uniform[22] < self.augment.flip else crop


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """An RGB array at another size: averaged over areas where it shrinks, else bilinear."""
    import cv2

    shrinks = width < image.shape[1] or height < image.shape[0]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def central(image: np.ndarray, size: int, share: float = 0.875) -> np.ndarray:
    """The middle square: the shorter side becomes size/share, then ``size`` pixels of it are kept."""
    height, width = image.shape[:2]
    short = round(size / share)
    scale = short / min(height, width)
    image = resize(image, max(short, round(width * scale)), max(short, round(height * scale)))
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[top : top + size, left : left + size]
