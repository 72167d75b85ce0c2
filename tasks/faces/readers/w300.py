"""Reader of 300-W: its official train, common, challenging and full splits over afw, helen, lfpw and ibug.

Sagonas et al., ICCV workshops 2013. Test is the 689 images of "full": common (554) and challenging (135).
"""

from __future__ import annotations

from pathlib import Path

from srrl.errors import UserError

from ..records import FaceRecord
from .common import Issues
from .pts import find_pts, read_files

# Part -> (folders below the root, images in the official release).
PARTS = {
    "train": ((("afw",), ("helen", "trainset"), ("lfpw", "trainset")), 3148),
    "common": ((("helen", "testset"), ("lfpw", "testset")), 554),
    "challenging": ((("ibug",),), 135),
}
SPLITS = {
    "train": ("train",),
    "common": ("common",),
    "challenging": ("challenging",),
    "full": ("common", "challenging"),
    "test": ("common", "challenging"),
}


def read(path: Path, split: str | None, issues: Issues) -> list[FaceRecord]:
    """Faces of a split; test faces carry their subset ("common" or "challenging").

    A named split needs all of its folders, since its figures mean nothing otherwise; without one, what is
    there is read.
    """
    if not path.is_dir():
        raise UserError(f"{path}: not a folder; {issues.layout}")
    parts = SPLITS[split] if split else tuple(PARTS)
    folders = {part: [(names, _descend(path, names)) for names in PARTS[part][0]] for part in parts}
    missing = ["/".join(names) for part in parts for names, folder in folders[part] if folder is None]
    if split and missing:
        raise UserError(f"{path.resolve()}: 300w split {split!r} lacks {', '.join(missing)}; {issues.layout}")
    records = []
    for part in parts:
        files = [file for _, folder in folders[part] if folder for file in find_pts(folder, issues)]
        if len(files) != PARTS[part][1]:
            issues.notes.append(
                f"{path}: 300w {part} holds {len(files)} faces, the official one {PARTS[part][1]}"
            )
        records += read_files(files, path, issues, subsets=() if part == "train" else (part,))
    return records


def _descend(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The nested sub-folder of these names in any case, or None."""
    for name in names:
        folder = next((d for d in sorted(folder.iterdir()) if d.is_dir() and d.name.lower() == name), None)
        if folder is None:
            return None
    return folder
