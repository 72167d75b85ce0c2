"""Readers of the published landmark formats: `read` gives FaceRecords, `detect` names the format of a path.

Points come back 0-based, float64, NaN where unlabelled, whatever the file counts from. A reader and the
library it needs are imported when that format is read.
"""

from __future__ import annotations

import difflib
import importlib
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from srrl.errors import UserError
from srrl.media import expanded
from srrl.sums import sums_in

from ..records import Records
from ..schemes import SCHEMES
from .common import (
    SPLIT_ALIASES,
    Issues,
    annotation_files,
    split_folders,
    split_of,
    unreadable,
)


@dataclass(frozen=True)
class Format:
    """A format: the module that reads it, the layout it expects (for messages), the splits it knows."""

    module: str
    layout: str
    splits: tuple[str, ...]


FORMATS: dict[str, Format] = {
    "ibug": Format(
        "pts",
        "a folder of images, each with its .pts beside it (sub-folders train/, val/, test/ optional)",
        ("train", "val", "test"),
    ),
    "wflw": Format(
        "wflw",
        "a folder with WFLW_images/ and WFLW_annotations/list_98pt_rect_attr_train_test/"
        "list_98pt_rect_attr_{train,test}.txt, or one such list file",
        ("train", "test"),
    ),
    "300w": Format(
        "w300",
        "a folder with afw/, helen/{trainset,testset}/, lfpw/{trainset,testset}/ and ibug/ of images "
        "with .pts files",
        ("train", "test", "common", "challenging", "full"),
    ),
    "cofw": Format("cofw", "COFW_train_color.mat or COFW_test_color.mat, or their folder", ("train", "test")),
    "aflw": Format(
        "aflw",
        "AFLWinfo_release.mat, or its folder, with the image folders (0/, 2/, 3/) beside it",
        ("train", "test"),
    ),
    "coco": Format(
        "coco",
        "a .json file with images, annotations and keypoints (x, y, v), or a folder of such, images "
        "beside or in images/",
        ("train", "val", "test"),
    ),
    "csv": Format(
        "table",
        "a .csv file with an image name and x0, y0, x1, y1, ... a row, or a folder of such, images "
        "beside or in images/",
        ("train", "val", "test"),
    ),
}


def read(
    path: str | PathLike, format: str | None = None, split: str | None = None, on_error: str = "raise"
) -> Records:
    """Read the annotations at `path`.

    format: one of FORMATS, or None to detect it (the choice is in `.format` of the result).
    split: a split of that format ("train", "test", ..., see FORMATS), or None for everything at `path`.
    Formats without splits of their own (ibug, coco, csv) take a folder or file named after the split; a
    single file, or a folder that knows no splits, is read whole.
    on_error: "raise" stops at the first bad face; "skip" leaves bad faces out and lists each in `.skipped`.
    Pictures are not decoded here: see `records.verify_images`. Where the folder (or the file's folder) has a
    SHA256SUMS, the records hold it, and pictures are compared with it whenever they are read.
    Raises UserError, one line that names the file (and line), what was expected and what to do.
    """
    if on_error not in ("raise", "skip"):
        raise UserError(f"on_error={on_error!r} is unknown; choose raise or skip")
    if format is not None and format not in FORMATS:
        raise UserError(
            f"unknown data format {format!r}{_did_you_mean(format, FORMATS)}; known: {', '.join(FORMATS)}"
        )
    path = _existing(path, FORMATS[format].layout if format else "a folder or file of annotations")
    format = format or detect(path)
    split = _known_split(format, split)
    issues = Issues(on_error, f"the {format} layout is {FORMATS[format].layout}")
    module = importlib.import_module(f".{FORMATS[format].module}", __name__)
    with _rights(path):
        records = module.read(path, split, issues)
        sums = sums_in(path if path.is_dir() else path.parent)
    if sums is not None:
        records = [replace(record, sums=sums) for record in records]
    return _finish(Records(records, format, split), path, issues)


def has_split(path: str | PathLike, format: str, split: str) -> bool:
    """True where the folder `path` has annotations of its own for that split of that format."""
    path = expanded(path)
    with _rights(path):
        if not path.is_dir():
            return False
        if format == "ibug":
            return split in split_folders(path)
        if format in ("coco", "csv"):
            extension = {"coco": ".json", "csv": ".csv"}[format]
            return split in {split_of(file.stem) for file in annotation_files(path, extension)}
        return split in FORMATS[format].splits


def detect(path: str | PathLike) -> str:
    """The format of the annotations at `path`; raises UserError that lists the known ones when none fits."""
    from .detection import detect_format

    path = _existing(path, "a folder or file of annotations")
    with _rights(path):
        return detect_format(path)


@contextmanager
def _rights(path: Path) -> Iterator[None]:
    """A file or folder below `path` that the system does not let be read is a UserError naming it."""
    try:
        yield
    except OSError as error:
        raise unreadable(error, path) from None


def _existing(path: str | PathLike, expected: str) -> Path:
    """The path, ~ expanded; UserError that shows it resolved when nothing is there."""
    if not str(path).strip():
        raise UserError(f"the data path is empty; expected {expected}")
    path = expanded(path)
    with _rights(path):  # a name longer than the file system allows, a folder without rights
        found = path.exists()
    if not found:
        shown = os.path.abspath(path)  # Path.resolve fails at a link to itself
        raise UserError(f"{shown}: no such file or folder; expected {expected}; correct the data path")
    return path


def _known_split(format: str, split: str | None) -> str | None:
    """The canonical name of the split; UserError when the format has none of that name."""
    if split is None:
        return None
    name = SPLIT_ALIASES.get(split.lower(), split.lower())
    splits = FORMATS[format].splits
    if name not in splits:
        hint = "; set a part of train aside for it" if name == "val" else _did_you_mean(split, splits)
        raise UserError(f"{format} has no split {split!r}, only {', '.join(splits)}{hint}")
    return name


def _did_you_mean(word: str, known) -> str:
    close = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


def _finish(records: Records, path: Path, issues: Issues) -> Records:
    """Check what concerns all faces together: there are some, with one known number of points."""
    counts = Counter(len(record.points) for record in records)
    known = {k: n for k, n in counts.items() if k in SCHEMES}
    usual = max(known, key=known.get) if known else None
    kept = []
    for record in records:
        k = len(record.points)
        if k == usual:
            kept.append(record)
        elif usual is None:
            listed = ", ".join(map(str, SCHEMES))
            issues.bad(
                f"{record.name} in {path}: {k} points, expected {listed}; check the annotation or the format"
            )
        else:
            issues.bad(
                f"{record.name} in {path}: {k} points where the other faces have {usual}; keep one scheme "
                "a set"
            )
    if not kept:
        first = f"; the first: {issues.skipped[0]}" if issues.skipped else ""
        split = f" in split {records.split!r}" if records.split else ""
        raise UserError(f"{path.resolve()}: no usable face found{split}{first or '; ' + issues.layout}")
    return Records(kept, records.format, records.split, issues.skipped, issues.notes)
