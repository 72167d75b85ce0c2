"""Write the synthetic faces as a folder in the layout and text format of WFLW."""

from __future__ import annotations

import shutil
from pathlib import Path

from srrl.errors import UserError
from srrl.runs import atomic, write_text

from . import records
from .settings import MARK, SPLITS, SyntheticSettings

LISTS = Path("WFLW_annotations") / "list_98pt_rect_attr_train_test"
IMAGES = Path("WFLW_images")


def export_wflw(
    settings: SyntheticSettings, folder: Path, cache_dir: Path | None = None, progress: bool = True
) -> Path:
    """`folder` with WFLW_images/ and WFLW_annotations/…/list_98pt_rect_attr_{train,val,test}.txt; returns it.

    A line has 207 tokens: 98 x y pairs, the rectangle xmin ymin xmax ymax, the six attributes, the picture's path.
    WFLW itself has no val list; readers of WFLW ignore it. Raises UserError when `folder` exists and is neither empty nor
    a stopped export, which is done anew.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).is_file() or _list_of(folder, SPLITS[-1]).exists():
            raise UserError(f"{folder}: is not empty; give a new folder to export to")
        for part in (IMAGES, LISTS.parent):  # of an export that was stopped
            shutil.rmtree(folder / part, ignore_errors=True)
    (folder / LISTS).mkdir(parents=True, exist_ok=True)
    # first: the pictures are synthetic whether they are all there or not
    (folder / MARK).write_text("Synthetic faces of SRRL (CC0), in the layout of WFLW: no photographs.\n")
    lists = {}
    for split in SPLITS:
        lines = []
        where = Path(f"synthetic--{split}")
        (folder / IMAGES / where).mkdir(parents=True, exist_ok=True)
        for record in records(settings, split, 98, cache_dir, progress):
            name = where / f"{record.name.rpartition('/')[2]}.jpg"
            with atomic(folder / IMAGES / name, durable=False) as scratch:
                scratch.write_bytes(record.pixels.encoded())
            points = [f"{value:.6f}" for value in record.points.ravel()]
            rect = [str(round(value)) for value in record.rect]
            bits = [str(bit) for bit in record.attributes.values()]
            lines.append(" ".join([*points, *rect, *bits, name.as_posix()]))
        lists[split] = "".join(f"{line}\n" for line in lines)
    for split, text in lists.items():  # last: a set that has them is whole
        write_text(_list_of(folder, split), text)
    return folder


def _list_of(folder: Path, split: str) -> Path:
    return folder / LISTS / f"list_98pt_rect_attr_{split}.txt"
