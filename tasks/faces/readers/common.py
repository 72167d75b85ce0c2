"""What the readers share: collecting problems, finding images, text files, splits, checks of one face."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import numpy as np

from srrl.errors import UserError

from ..records import IMAGE_EXTENSIONS, FaceRecord

SPLIT_ALIASES = {
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "valset"), "val"),
    **dict.fromkeys(("test", "testing", "testset"), "test"),
}


class Issues:
    """Where readers put what is wrong with one face: an error at once, or a line in `skipped`."""

    def __init__(self, on_error: str = "raise", layout: str = ""):
        self.on_error, self.layout = on_error, layout
        self.skipped: list[str] = []
        self.notes: list[str] = []

    def bad(self, message: str) -> None:
        """Report a bad face. Raises UserError under on_error="raise"."""
        if self.on_error == "raise":
            raise UserError(message)
        self.skipped.append(message)


class ImageFinder:
    """Finds an image by its relative name below the first of several folders that has it."""

    def __init__(self, roots: Iterable[Path]):
        self.roots = [root for root in dict.fromkeys(roots) if root.is_dir()]

    def find(self, name: str, where: str) -> Path:
        """The image's path. Raises UserError naming the image and the folders looked in."""
        for root in self.roots:
            try:
                if (root / name).is_file():
                    return root / name
            except OSError as error:
                raise UserError(
                    f"{where}: its image {name[:80]!r} cannot be looked up in {root} "
                    f"({error.strerror or error}); correct the name"
                ) from None
        looked = ", ".join(map(str, self.roots)) or "no folder at all"
        raise UserError(
            f"{where}: its image {name!r} is missing (looked in {looked}); restore it or correct the path"
        )


def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """os.walk, where a sub-folder that cannot be read raises UserError: os.walk itself says nothing."""

    def refuse(error: OSError) -> None:
        raise unreadable(error, folder) from None

    return os.walk(folder, onerror=refuse)


def unreadable(error: OSError, path: Path) -> UserError:
    """The error for a file or folder that the system does not let be read, `path` where it does not say which."""
    return UserError(
        f"{error.filename or path}: cannot be read ({error.strerror or error}); check the path and its rights"
    )


def is_image(path: Path) -> bool:
    """True when the name ends like an image, in any case."""
    return path.suffix.lower() in IMAGE_EXTENSIONS


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, byte order mark removed. Raises UserError naming it."""
    with _opened(path) as file:
        return file.read()


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line) one by one, so that a long list is never whole in memory; else as read_text."""
    with _opened(path) as file:
        yield from enumerate(file, start=1)


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield file
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file; expected annotations in UTF-8, check the file") from None
    except OSError as error:
        raise unreadable(error, path) from None


def numbers(tokens: list[str], where: str) -> np.ndarray:
    """Tokens as float64. Raises UserError naming the first that is no finite number."""
    try:
        values = np.array(tokens, dtype=np.float64)
    except ValueError:
        values = None
    if values is not None and np.isfinite(values).all():
        return values
    wrong = next(token for token in tokens if not _is_finite(token))
    raise UserError(f"{where}: {wrong[:40]!r} is not a finite number; correct or remove this annotation")


def _is_finite(token: str) -> bool:
    try:
        return math.isfinite(float(token))
    except ValueError:
        return False


def checked(record: FaceRecord, where: str) -> FaceRecord:
    """The record, when its points and rectangle make sense; else UserError beginning with `where`.

    NaN (both coordinates) means unlabelled; infinite points, no labelled point, all points in one place and
    an empty rectangle are errors, since no crop can be made of them.
    """
    points = record.points
    if np.isinf(points).any() or (np.isnan(points[:, 0]) != np.isnan(points[:, 1])).any():
        index = int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])
        raise UserError(
            f"{where}: point {index} is {points[index].tolist()}, expected finite pixels; correct it"
        )
    labelled = points[record.labelled]
    if not len(labelled):
        raise UserError(f"{where}: no point is labelled; remove this face")
    if len(labelled) > 1 and not np.ptp(labelled, axis=0).any():
        raise UserError(f"{where}: all points lie at {labelled[0].tolist()}; correct or remove this face")
    if record.rect is not None:
        xmin, ymin, xmax, ymax = record.rect
        if not (math.isfinite(sum(record.rect)) and xmax > xmin and ymax > ymin):
            raise UserError(
                f"{where}: the rectangle xmin={xmin:g} ymin={ymin:g} xmax={xmax:g} ymax={ymax:g} has no "
                "area; correct it or remove this face"
            )
    return record


def number_faces(records: list[FaceRecord]) -> list[FaceRecord]:
    """Give the faces that share one name the suffixes #1, #2, ... in file order."""
    totals, seen, result = Counter(record.name for record in records), Counter(), []
    for record in records:
        if totals[record.name] > 1:
            seen[record.name] += 1
            record = replace(record, name=f"{record.name}#{seen[record.name]}")
        result.append(record)
    return result


def split_of(stem: str) -> str | None:
    """The split that a file or folder name speaks of ("wflw_test" -> "test"), or None."""
    found = {SPLIT_ALIASES[word] for word in re.split(r"[^a-z]+", stem.lower()) if word in SPLIT_ALIASES}
    return found.pop() if len(found) == 1 else None


def annotation_files(path: Path, extension: str) -> list[Path]:
    """The files of that extension in a folder and in its annotations/, sorted within each."""
    folders = [path, path / "annotations"]
    files = [f for d in folders if d.is_dir() for f in sorted(d.iterdir()) if f.suffix.lower() == extension]
    return [f for f in files if f.is_file() and not f.name.startswith(".")]


def split_folders(path: Path) -> dict[str, Path]:
    """The sub-folders named after a split, by the split's canonical name."""
    named = [d for d in sorted(path.iterdir()) if d.name.lower() in SPLIT_ALIASES and d.is_dir()]
    return {SPLIT_ALIASES[d.name.lower()]: d for d in named}


def files_of_split(path: Path, extension: str, split: str | None, layout: str) -> list[Path]:
    """The annotation files to read: `path` itself, or those of a folder that belong to `split` (None: all).

    A folder whose files name no split is read whole. Raises UserError when the folder has no file of that
    extension, or names other splits only.
    """
    if path.is_file():
        return [path]
    files = annotation_files(path, extension)
    if not files:
        raise UserError(f"{path.resolve()}: no {extension} file in this folder; {layout}")
    splits = {f: split_of(f.stem) for f in files}
    if split is None or not any(splits.values()):
        return files
    chosen = [f for f in files if splits[f] == split]
    if not chosen:
        names = ", ".join(f.name for f in files)
        raise UserError(
            f"{path.resolve()}: no file for split {split!r} among {names}; name it or give the file itself"
        )
    return chosen
