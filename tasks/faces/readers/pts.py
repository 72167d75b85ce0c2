"""Reader of iBUG `.pts` files: a folder of images, each with its points beside it. The files count from 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from srrl.errors import UserError

from ..records import IMAGE_EXTENSIONS, FaceRecord
from .common import Issues, checked, is_image, numbers, read_text, split_folders, walk


def read(path: Path, split: str | None, issues: Issues) -> list[FaceRecord]:
    """Faces of a folder (recursively), of one .pts file, or of the sub-folder named after `split`."""
    if path.is_file():
        if path.suffix.lower() != ".pts":
            raise UserError(f"{path}: not a .pts file; {issues.layout}")
        return read_files([path], path.parent, issues)
    folder = _split_folder(path, split)
    files = find_pts(folder, issues)
    if not files:
        raise UserError(f"{folder.resolve()}: no .pts file {_what_is_there(folder)}; {issues.layout}")
    return read_files(files, folder, issues)


def _split_folder(path: Path, split: str | None) -> Path:
    """The sub-folder for the split; `path` itself when it has no sub-folder named after any split."""
    if split is None:
        return path
    folders = split_folders(path)
    if folders and split not in folders:
        names = ", ".join(d.name for d in folders.values())
        raise UserError(
            f"{path.resolve()}: no sub-folder for split {split!r}, only {names}; add it or change the split"
        )
    return folders.get(split, path)


def _what_is_there(folder: Path) -> str:
    images = sum(is_image(Path(name)) for _, _, names in walk(folder) for name in names)
    if images:
        return f"beside its {images} images"
    return "in this folder" if any(folder.iterdir()) else "(the folder is empty)"


def find_pts(folder: Path, issues: Issues) -> list[Path]:
    """All .pts files below `folder`, sorted; the number of images that have none is noted."""
    files, unlabelled = [], 0
    for root, folders, names in walk(folder):
        folders[:] = sorted(d for d in folders if not d.startswith(".") and d != "__MACOSX")
        here = [Path(root, name) for name in names if not name.startswith(".")]
        points = [p for p in here if p.suffix.lower() == ".pts"]
        stems = {p.stem for p in points}
        unlabelled += sum(is_image(p) and p.stem not in stems for p in here)
        files += points
    if unlabelled and files:
        issues.notes.append(f"{folder}: {unlabelled} images have no .pts file beside them and were left out")
    return sorted(files, key=lambda p: p.relative_to(folder).as_posix())


def read_files(
    files: list[Path], root: Path, issues: Issues, subsets: tuple[str, ...] = ()
) -> list[FaceRecord]:
    """One record a .pts file; its name is the image's path relative to `root`."""
    records = []
    images: dict[Path, dict[str, list[Path]]] = {}
    for file in files:
        try:
            if file.parent not in images:
                images[file.parent] = _images_by_stem(file.parent)
            image = _image_beside(file, images[file.parent])
            name = image.relative_to(root).as_posix()
            record = FaceRecord(name, parse_pts(file), image=image, subsets=subsets)
            records.append(checked(record, str(file)))
        except UserError as error:
            issues.bad(str(error))
    return records


def _images_by_stem(folder: Path) -> dict[str, list[Path]]:
    """The images of a folder by name without extension."""
    by_stem: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if is_image(path):
            by_stem.setdefault(path.stem, []).append(path)
    return by_stem


def _image_beside(file: Path, by_stem: dict[str, list[Path]]) -> Path:
    """The image of the same name, of several the first in IMAGE_EXTENSIONS. UserError when there is none."""
    found = by_stem.get(file.stem)
    if not found:
        tried = ", ".join(IMAGE_EXTENSIONS)
        raise UserError(
            f"{file}: no image of the same name beside it (tried {tried}); restore it or remove the .pts"
        )
    return min(found, key=lambda p: IMAGE_EXTENSIONS.index(p.suffix.lower()))


def parse_pts(file: Path) -> np.ndarray:
    """The points of a .pts file, (K, 2) float64, 0-based. Raises UserError naming the file and line.

    Tolerated: any line ends, blank lines, doubled spaces, a byte order mark. Not tolerated: a number of
    points that differs from n_points, lines that are no two finite numbers, anything after the closing brace.
    """
    declared, points, state = None, [], "head"
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        where, line = f"{file} line {number}", line.strip()
        if not line:
            continue
        if state == "head" and line == "{":
            state = "points"
        elif state == "head":
            key, _, value = line.partition(":")
            if key.strip().lower() == "n_points":
                declared = int(numbers([value.strip()], where)[0])
            elif key.strip().lower() != "version":
                raise UserError(
                    f"{where}: {line[:40]!r}, expected 'version:', 'n_points:' or '{{'; is it a .pts file?"
                )
        elif state == "points" and line == "}":
            state = "end"
        elif state == "points":
            tokens = line.split()
            if len(tokens) != 2:
                raise UserError(f"{where}: {line[:40]!r}, expected two numbers 'x y'; correct the line")
            points.append(numbers(tokens, where))
        else:
            raise UserError(f"{where}: {line[:40]!r} after the closing brace; remove it")
    if state != "end":
        raise UserError(
            f"{file}: no {'closing' if state == 'points' else 'opening'} brace; the file is cut short or "
            "no .pts"
        )
    if declared is not None and declared != len(points):
        raise UserError(
            f"{file}: {len(points)} points where n_points says {declared}; correct or remove the file"
        )
    if not points:
        raise UserError(f"{file}: no points between the braces; correct or remove the file")
    return np.array(points) - 1.0
