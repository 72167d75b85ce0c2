"""From settings to the three data sets of a classification run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from srrl.errors import UserError
from srrl.media import expanded
from srrl.processes import is_first
from srrl.task import Data

from .dataset import FileImages, MemoryImages, central, resize
from .settings import FORMATS, ClassificationData, ClassificationSettings
from .sources import Samples, cut, digits, few, folder, picture, size_of, torchvision_set

SMALL = 96  # pictures up to this side are kept in memory
DIGITS_SIZE = 16
LARGE_SIZE = 224
DECODED_FIRST = 50_000  # training pictures up to which all are decoded once before anything is trained
CHUNK = 1024  # pictures that wait to be checked at a time
PATIENCE = 10.0  # seconds until it is said how many have been read


def prepare(cfg: ClassificationSettings, say: Callable[[str], None], *, evaluation: bool = False) -> Data:
    """The data sets of ``cfg``; only the test set where ``evaluation``. Raises UserError for anything unusable."""
    d = cfg.data
    d.format = d.format or ("folder" if d.train or d.val or d.test else "digits")
    splits, name, scored = _splits(cfg, evaluation, say)
    classes = next(iter(splits.values())).classes
    if evaluation and d.classes is not None and list(classes) != d.classes:
        if unknown := [c for c in classes if c not in d.classes]:
            raise UserError(
                f"{name} has a class {unknown[0]!r} that this run was not trained for: it knows {_some(d.classes)}"
            )
        classes = tuple(d.classes)
        splits = {split: renumbered(samples, classes, split) for split, samples in splits.items()}
    for split, samples in splits.items():
        if absent := [c for i, c in enumerate(classes) if not (samples.labels == i).any()]:
            say(f"data: {split} has no pictures of {_some(absent)}: its figures say nothing of them")
    if len(classes) < 2:
        raise UserError(f"{name} has one class, {classes[0]!r}: expected two or more")
    d.classes, d.n_classes = list(classes), len(classes)
    if d.per_class and "train" in splits:
        splits["train"] = few(splits["train"], d.per_class, d.split_seed)
    cfg.image_size = cfg.image_size or _own_size(splits, d.format, say)
    sets = {s: build_dataset(cfg, v, s, say, evaluation=evaluation) for s, v in splits.items()}
    if not evaluation and "val" not in sets:
        raise UserError(f"{name} has no pictures to choose the epoch with: give data.val")
    if "test" not in sets:
        sets["test"] = sets["val"]
        why = "score=val" if cfg.score == "val" else "no test pictures"
        say(f"data: {why}: the final figures are those of the validation split, which also chose the epoch")
    shown = {k: v for k, v in sets.items() if k != "test" or scored != "val" or evaluation}
    counts = ", ".join(f"{split} {len(v)} pictures" for split, v in shown.items())
    say(f"data: {name}, {counts}, {len(classes)} classes, {cfg.image_size} pixels")
    details = {"split": scored, "label": name, "n_classes": len(classes)}
    return Data(sets.get("train"), sets.get("val"), sets["test"], name, "top-1", cfg.image_size, details)


def probe_data(source: str, cfg: ClassificationSettings, say: Callable[[str], None]) -> Data:
    """Another labelled data set at the picture size of ``cfg``: a folder or .tar file, ``digits``, or ``FORMAT:ROOT``.

    Without a val/ part a fifth of train is cut off, the same for every network. Raises UserError without a test part.
    """
    name, _, root = source.partition(":")
    known = name in FORMATS
    own = ClassificationSettings(
        image_size=cfg.image_size,
        seed=cfg.seed,
        data=ClassificationData(
            train=(root or None) if known else source,
            format=name if known else "folder",
            val_fraction=0.2,
            download=cfg.data.download,
            on_error=cfg.data.on_error,
        ),
    )
    if known and name != "digits" and not root:
        raise UserError(f"expected {name}:ROOT, ROOT being the folder that holds it")
    data = prepare(own, say)
    if data.details["split"] != "test":
        raise UserError(f"{data.name} has no test pictures: expected the parts train/ and test/")
    return data


def _splits(
    cfg: ClassificationSettings, evaluation: bool, say: Callable[[str], None]
) -> tuple[dict[str, Samples], str, str]:
    """The splits that the settings name, the data set's name, and which split the final figures are of."""
    d = cfg.data
    if d.format == "digits":
        if d.train or d.val or d.test:
            raise UserError("data.format=digits needs no path: leave the paths out, or choose another format")
        found, name = digits(), "digits"
    elif d.format == "folder":
        found, name = _folders(cfg, say)
    else:
        found, name = _published(cfg, evaluation), d.format
    if evaluation and not d.train and d.format != "digits":  # other data than the run's own
        split = next((s for s in ("test", "val") if s in found), "train")
        return {"test": found[split]}, name, "all" if split == "train" else split
    if "train" not in found:
        raise UserError(f"{name} has no training pictures: give data.train")
    if "val" not in found:
        found["train"], found["val"] = cut(found["train"], d.val_fraction, d.split_seed)
    if cfg.score == "val":
        found.pop("test", None)
    scored = "test" if "test" in found else "val"
    return {"test": found[scored]} if evaluation else found, name, scored


def _published(cfg: ClassificationSettings, evaluation: bool) -> dict[str, Samples]:
    """Both splits of a data set that torchvision reads, or the one that is wanted."""
    d = cfg.data
    if d.val or (d.train and d.test):
        raise UserError(
            f"data.format={d.format} has splits of its own: give its folder as data.train, and no other path"
        )
    root = d.train or d.test
    if root is None:
        raise UserError(
            f"data.train is missing: the folder with {d.format}, or an empty one for data.download=true"
        )
    wanted = ("test",) if evaluation and not d.train else ("train", "test")
    if d.train and cfg.score == "val":
        wanted = ("train",)
    return {split: torchvision_set(d.format, root, split, d.download) for split in wanted}


def _folders(cfg: ClassificationSettings, say: Callable[[str], None]) -> tuple[dict[str, Samples], str]:
    """Splits of data.train, over which those of data.val and data.test go where they are given."""
    d = cfg.data
    if not (d.train or d.test):
        raise UserError("data.train is missing: a folder or .tar file with a sub-folder a class")
    main = expanded(d.train or d.test)
    found = folder(main, say)
    for split, path in (("val", d.val), ("test", d.test if cfg.score == "test" else None)):
        if path and d.train:
            own = folder(expanded(path), say)
            if split not in own and "train" not in own:
                raise UserError(f"data.{split}={path} has no {split} pictures, only {', '.join(own)}")
            found[split] = own.get(split) or own["train"]
    classes = next(iter(found.values())).classes
    for split, samples in found.items():
        if samples.classes != classes:
            found[split] = renumbered(samples, classes, split)
    return found, data_name(main)


def data_name(path: Path) -> str:
    """A data set's name for results: the folder, less a split's own name."""
    path = expanded(path).resolve()
    return path.parent.name if path.name in ("train", "val", "test") else path.stem


def renumbered(samples: Samples, classes: tuple[str, ...], split: str) -> Samples:
    """Samples under the numbers that the classes have in the training set."""
    other = [c for c in samples.classes if c not in classes]
    if other:
        raise UserError(f"data.{split} has a class {other[0]!r} that data.train does not have")
    numbers = np.array([classes.index(c) for c in samples.classes])
    return replace(samples, labels=numbers[samples.labels], classes=classes)


def _own_size(splits: dict[str, Samples], format: str, say: Callable[[str], None]) -> int:
    """The usual side of the pictures where most of a sample are small, else 224; says it where the sample has both kinds."""
    if format == "digits":
        return DIGITS_SIZE
    samples = next(iter(splits.values()))
    if isinstance(samples.entries, np.ndarray):
        return samples.entries.shape[1]
    spread = np.linspace(0, len(samples) - 1, min(len(samples), 200)).astype(int)
    sizes = [size_of(samples, samples.entries[i]) for i in spread]
    sizes = [size for size in sizes if size is not None]
    if not sizes:
        return LARGE_SIZE
    small, longer = [min(size) for size in sizes if max(size) <= SMALL], sorted(map(max, sizes))
    size = Counter(small).most_common(1)[0][0] if 2 * len(small) > len(sizes) else LARGE_SIZE
    if 0 < len(small) < len(sizes):
        say(
            f"data: the pictures' longer sides are {longer[0]} to {longer[-1]} pixels, most of them "
            f"{'up to' if size <= SMALL else 'above'} {SMALL}: all are brought to {size} (image_size={size})"
        )
    return size


def build_dataset(
    cfg: ClassificationSettings,
    samples: Samples,
    split: str,
    say: Callable[[str], None],
    *,
    evaluation: bool = False,
) -> MemoryImages | FileImages:
    """One split at the run's image size: small pictures in memory, large ones as files; augmented for ``train``.

    Large ones are decoded once all the same, so that a bad picture is named before anything is trained: not for an
    ``evaluation``, which decodes them right away, nor for a training set that is very large, whose first epoch does.
    """
    size, augment = cfg.image_size, cfg.augment if split == "train" else None
    if size > SMALL:
        skips = cfg.data.on_error == "skip"
        later = split == "train" and len(samples) > DECODED_FIRST
        if later and not skips:
            say(f"data: train: {len(samples)} pictures, which the first epoch is the first to decode")
        elif skips or not evaluation and is_first():
            nothing = lambda number, image: None  # noqa: E731
            samples = _checked(samples, lambda image: None, nothing, say, split, cfg.data.on_error)
        read = lambda entry: picture(samples, entry)  # noqa: E731 - what a worker calls
        return FileImages(samples.entries, samples.labels, size, cfg.seed, augment, read)
    images = _room(len(samples), size, split)
    samples = _checked(
        samples, lambda image: _fitted(image, size), images.__setitem__, say, split, cfg.data.on_error
    )
    pixels = torch.from_numpy(images[: len(samples)]).permute(0, 3, 1, 2)
    return MemoryImages(pixels, torch.from_numpy(samples.labels), cfg.seed, augment)


def _room(count: int, size: int, split: str) -> np.ndarray:
    """(N, S, S, 3) uint8 for the pictures of a split. Raises UserError where there is not that much memory."""
    needed, free = count * size * size * 3, psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f"{split}: {count} pictures of {size} pixels take {needed / 1e9:.3g} GB of memory, and {free / 1e9:.3g} GB are free: "
            f"choose a smaller image_size, or one above {SMALL}, for which pictures are read from their files every time"
        )
    return np.empty((count, size, size, 3), np.uint8)


def _fitted(image: np.ndarray, size: int) -> np.ndarray:
    """A small picture at the side that the networks take: enlarged whole where square, else its middle."""
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    return resize(image, size, size) if height == width else central(image, size, 1.0)


def _checked(
    samples: Samples,
    use: Callable[[np.ndarray], Any],
    keep: Callable[[int, Any], None],
    say: Callable[[str], None],
    split: str,
    on_error: str,
) -> Samples:
    """Every picture decoded and given to ``use``, on threads; ``keep`` gets what that gives with its place among the samples returned.

    Pictures that do not decode end it, or are left out and told.
    """

    def one(entry):
        try:
            return use(picture(samples, entry)), None
        except UserError as error:
            if on_error != "skip":
                raise
            return None, str(error)

    good, bad, said = np.ones(len(samples), bool), [], time.monotonic()
    with ThreadPoolExecutor() as pool:
        for i, (image, message) in enumerate(_mapped(pool, one, samples.entries)):
            if message is None:
                keep(i - len(bad), image)
            else:
                good[i] = False
                bad.append(message)
            if time.monotonic() - said > PATIENCE:
                said = time.monotonic()
                say(f"data: {split}: {i + 1} of {len(samples)} pictures read")
    if bad:
        say(f"data: {split}: {len(bad)} pictures skipped; the first: {bad[0]}")
        samples = samples.take(np.flatnonzero(good))
        if not len(samples):
            raise UserError(f"none of the {len(bad)} pictures of {split} can be decoded; the first: {bad[0]}")
    return samples


def _mapped(pool: ThreadPoolExecutor, call: Callable, entries: Sequence | np.ndarray) -> Iterator:
    """pool.map, a bounded number of entries at a time: by itself it makes a future of each entry at once."""
    for start in range(0, len(entries), CHUNK):
        yield from pool.map(call, entries[start : start + CHUNK])


def _some(names: list[str] | tuple[str, ...]) -> str:
    return f"{len(names)} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
