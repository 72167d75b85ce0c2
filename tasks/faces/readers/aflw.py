"""Reader of AFLW with 19 points: the table `AFLWinfo_release.mat` (Zhu et al., CVPR 2016) and images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from srrl.errors import UserError

from ..records import FaceRecord
from .common import ImageFinder, Issues, checked, number_faces
from .matfile import Damaged, read_arrays

FILE_NAME = "AFLWinfo_release.mat"
ARRAYS = ("bbox", "data", "mask_new", "nameList", "ra")
N_POINTS = 19
N_TRAIN = 20_000
IMAGE_FOLDERS = ("", "images", "flickr", "data/flickr", "aflw/data/flickr", "AFLW/data/flickr")


def read(path: Path, split: str | None, issues: Issues) -> list[FaceRecord]:
    """Faces in file order for None; train is the first 20,000 of the file's own order `ra`, test the rest.

    `visible` comes from mask_new; faces with all points visible form the subset "frontal" (of test, in
    published figures).
    """
    file = path if path.is_file() else path / FILE_NAME
    if not file.is_file():
        raise UserError(f"{path.resolve()}: no {FILE_NAME} in this folder; {issues.layout}")
    table = _load(file)
    n_faces = len(table["data"])
    order = range(n_faces)
    if split:
        order = _order(table, file)
        order = order[:N_TRAIN] if split == "train" else order[N_TRAIN:]
        if not len(order):
            raise UserError(
                f"{file}: split {split!r} is empty, as train is the first {N_TRAIN} of its order 'ra' and "
                f"the file has {n_faces} faces; use the full release, or no split"
            )
    finder = ImageFinder(file.parent / folder for folder in IMAGE_FOLDERS)
    records = []
    for index in order:
        try:
            records.append(_record(table, index, f"{file} face {index + 1}", finder))
        except UserError as error:
            issues.bad(str(error))
    return number_faces(records)


def _load(file: Path) -> dict[str, np.ndarray]:
    """The arrays of the file, shapes checked."""
    try:
        table = read_arrays(file, ARRAYS)
    except Damaged as error:
        raise UserError(
            f"{file}: not a MATLAB v5 file, or damaged ({error}); expected the released {FILE_NAME}"
        ) from None
    missing = [name for name in ARRAYS if name not in table]
    if missing:
        raise UserError(f"{file}: the array {missing[0]} is missing; expected the released {FILE_NAME}")
    for name in ARRAYS:
        kinds, what = ("O", "image names") if name == "nameList" else ("biuf", "plain numbers")
        if table[name] is None or table[name].dtype.kind not in kinds:
            raise UserError(f"{file}: {name} is no array of {what}; expected the released {FILE_NAME}")
    n_faces = len(table["data"])
    for name, width in (("data", 2 * N_POINTS), ("bbox", 4), ("mask_new", N_POINTS)):
        if table[name].shape != (n_faces, width):
            raise UserError(f"{file}: {name} has shape {table[name].shape}, expected ({n_faces}, {width})")
    if table["nameList"].size != n_faces:
        raise UserError(
            f"{file}: {table['nameList'].size} image names for {n_faces} faces; expected equal numbers"
        )
    table["nameList"] = table["nameList"].ravel()
    return table


def _order(table: dict[str, np.ndarray], file: Path) -> np.ndarray:
    """`ra` as a 0-based permutation."""
    with np.errstate(invalid="ignore"):  # NaN becomes some number, which the check below finds
        order = table["ra"].ravel().astype(np.int64) - 1
    n_faces = len(table["data"])
    if not np.array_equal(np.sort(order), np.arange(n_faces)):
        raise UserError(f"{file}: 'ra' does not hold each of 1 to {n_faces} once; download the file again")
    return order


def _record(table: dict[str, np.ndarray], index: int, where: str, finder: ImageFinder) -> FaceRecord:
    points = np.asarray(table["data"][index], dtype=np.float64).reshape(2, N_POINTS).T.copy()
    visible = np.asarray(table["mask_new"][index]) > 0.5
    points[~visible & (points == 0).all(axis=1)] = np.nan
    cell = np.ravel(table["nameList"][index])
    name = str(cell[0]).strip() if len(cell) == 1 and isinstance(cell[0], str) else ""
    if not name:
        raise UserError(f"{where}: nameList holds no image name there; correct or remove the face")
    xmin, xmax, ymin, ymax = np.asarray(table["bbox"][index], dtype=np.float64).tolist()
    record = FaceRecord(
        name,
        points,
        image=finder.find(name, where),
        rect=(xmin, ymin, xmax, ymax),
        visible=visible,
        subsets=("frontal",) if visible.all() else (),
    )
    if np.isnan(points[visible]).any():
        raise UserError(f"{where}: a visible point is NaN; correct or remove the face")
    return checked(record, where)
