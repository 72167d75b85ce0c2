"""Finds out which landmark format lies at a path, from file names and first bytes."""

from __future__ import annotations

import os
from pathlib import Path

from srrl.errors import UserError

from .common import annotation_files, is_image, walk
from .wflw import N_TOKENS, find_list

SIGNS = (
    "ibug (.pts files beside images), wflw (WFLW_annotations/), 300w (afw/ helen/ lfpw/ ibug/), cofw "
    "(COFW_*.mat), "
    "aflw (AFLWinfo_release.mat), coco (.json with keypoints), csv (.csv)"
)
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
BLOCK = 1 << 20


def detect_format(path: Path) -> str:
    """The format's name; raises UserError with the signs of each format when none fits."""
    found = _of_file(path) if path.is_file() else _of_folder(path)
    if found:
        return found
    if path.is_dir() and not any(path.iterdir()):
        what = "the folder is empty"
    elif path.is_dir() and (n := sum(is_image(Path(f)) for _, _, names in walk(path) for f in names)):
        what = f"the folder holds {n} images but no annotations"
    else:
        what = "no known annotation format"
    raise UserError(f"{path.resolve()}: {what}; correct the path or name the format, known are {SIGNS}")


def _of_file(path: Path) -> str | None:
    suffix = path.suffix.lower()
    if suffix == ".mat":
        return "cofw" if _is_hdf5(path) else "aflw"
    if suffix == ".txt":
        with path.open("rb") as file:
            line = next((line for line in file if line.strip()), b"")
        return "wflw" if len(line.split()) >= N_TOKENS else None
    return {".pts": "ibug", ".json": "coco", ".csv": "csv"}.get(suffix)


def _is_hdf5(path: Path) -> bool:
    """True for HDF5; MATLAB puts a 512-byte header of its own in front."""
    with path.open("rb") as file:
        start = file.read(520)
    return start.startswith(HDF5_SIGNATURE) or start[512:].startswith(HDF5_SIGNATURE)


def _of_folder(path: Path) -> str | None:
    """The most telling names first: a data set's own, then any .pts, .csv or .json."""
    folders = {entry.name.lower() for entry in path.iterdir() if entry.is_dir()}
    names = {entry.name.lower() for entry in path.iterdir() if entry.is_file()}
    if find_list(path, "train") or find_list(path, "test"):
        return "wflw"
    if {"helen", "lfpw"} & folders or {"afw", "ibug"} <= folders:
        return "300w"
    if "aflwinfo_release.mat" in names:
        return "aflw"
    if any(name.startswith("cofw") and name.endswith(".mat") for name in names):
        return "cofw"
    if any(file.lower().endswith(".pts") for _, _, files in os.walk(path) for file in files):
        return "ibug"
    if any(name.endswith(".csv") for name in names):
        return "csv"
    if any(map(_is_coco, annotation_files(path, ".json"))):
        return "coco"
    return None


def _is_coco(file: Path) -> bool:
    """True when the file speaks of keypoints: other JSON files often lie about in a data folder.

    It is read block by block, no further than needed.
    """
    wanted, tail = {b'"annotations"', b'"keypoints"'}, b""
    with file.open("rb") as opened:
        if not opened.read(BLOCK).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
            return False
        opened.seek(0)
        while wanted and (block := opened.read(BLOCK)):
            wanted = {word for word in wanted if word not in tail + block}
            tail = block[-16:]  # a word may lie across two blocks
    return not wanted
