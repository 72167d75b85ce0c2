"""Reader of COFW: images and 29 points with occlusion flags inside one MATLAB v7.3 (HDF5) file; it counts
from 1.

Burgos-Artizzu et al., ICCV 2013. MATLAB stores columns first, so that every array shows its axes reversed in
HDF5.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from srrl.errors import UserError

from ..records import MAX_PIXELS, FaceRecord
from .common import Issues, checked, split_of

# Split -> the end of the names of its arrays: IsTr phisTr bboxesTr, IsT phisT bboxesT.
SUFFIXES = {"train": "Tr", "test": "T"}
N_POINTS = 29
# More values in one array than this are nonsense in a damaged file: three for each pixel of a picture.
MAX_VALUES = 3 * MAX_PIXELS


def read(path: Path, split: str | None, issues: Issues) -> list[FaceRecord]:
    """Faces of a split in file order (train then test for None). Pictures stay in the file until loaded."""
    files = [path] if path.is_file() else _files(path, split, issues)
    records, present = [], set()
    for file in files:
        with _reading(file, "its arrays") as data:
            names = [n for n in ([split] if split else SUFFIXES) if "Is" + SUFFIXES[n] in data]
            arrays = {name: _arrays(data, file, SUFFIXES[name]) for name in names}
        for name, (phis, boxes) in arrays.items():
            present.add(name)
            records += _faces(file, SUFFIXES[name], phis, boxes, issues)
    if not present:
        wanted = " or ".join("Is" + s for n, s in SUFFIXES.items() if split in (None, n))
        raise UserError(f"{path.resolve()}: no array {wanted} inside; {issues.layout}")
    return records


def _files(folder: Path, split: str | None, issues: Issues) -> list[Path]:
    """The COFW files of a folder, those of other splits left out."""
    files = [
        f
        for f in sorted(folder.iterdir())
        if f.suffix.lower() == ".mat" and f.name.lower().startswith("cofw")
    ]
    if not files:
        raise UserError(f"{folder.resolve()}: no COFW_*.mat file in this folder; {issues.layout}")
    order = {"train": 0, None: 1, "test": 2}
    files = [f for f in files if split is None or split_of(f.stem) in (split, None)] or files
    return sorted(files, key=lambda f: order.get(split_of(f.stem), 1))


@contextmanager
def _reading(file: Path, what: str) -> Iterator:
    """The open file, to read and nothing else: what goes wrong is one UserError naming the file and `what`."""
    try:
        import h5py
    except ImportError:
        raise UserError("reading COFW needs the package h5py; install it with: pip install h5py") from None
    try:
        with h5py.File(file, "r") as data:
            yield data
    except (UserError, MemoryError):
        raise
    # Nothing but h5py works in there, and damage makes it raise errors of nearly every kind: RuntimeError,
    # OSError, KeyError, TypeError for a group in an array's place, ValueError for a reference to nowhere.
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(
            f"{file}: {what} cannot be read, the file is damaged or not HDF5 ({reason}); expected COFW's "
            "MATLAB v7.3 release, download it again"
        ) from None


def _values(dataset) -> np.ndarray:
    """All of an array. A size of nonsense is refused before memory is taken for it."""
    if dataset.size > MAX_VALUES:
        raise ValueError(f"an array of {dataset.size} values")
    return np.asarray(dataset[()])


def _arrays(data, file: Path, suffix: str) -> tuple[np.ndarray, np.ndarray]:
    """Points and boxes of one split of an open file, numbers of rows checked."""
    phis = _table(data, file, "phis" + suffix, 3 * N_POINTS)
    boxes = _table(data, file, "bboxes" + suffix, 4)
    n_images = data["Is" + suffix].size
    if not len(phis) == len(boxes) == n_images:
        raise UserError(
            f"{file}: {n_images} images, {len(phis)} rows of points and {len(boxes)} boxes in the "
            f"{suffix} arrays; expected equal numbers, download the file again"
        )
    return phis, boxes


def _faces(file: Path, suffix: str, phis: np.ndarray, boxes: np.ndarray, issues: Issues) -> list[FaceRecord]:
    """The faces of one split."""
    records = []
    for index, (phi, (x, y, w, h)) in enumerate(zip(phis, boxes.tolist(), strict=True)):
        record = FaceRecord(
            f"{file.stem}#{index + 1}",
            phi[: 2 * N_POINTS].reshape(2, N_POINTS).T - 1.0,
            pixels=partial(load_pixels, file, "Is" + suffix, index),
            rect=(x - 1.0, y - 1.0, x - 1.0 + w, y - 1.0 + h),
            visible=phi[2 * N_POINTS :] < 0.5,
        )
        try:
            records.append(_checked(record, f"{file} face {index + 1} of phis{suffix}"))
        except UserError as error:
            issues.bad(str(error))
    return records


def _checked(record: FaceRecord, where: str) -> FaceRecord:
    if np.isnan(record.points).any():
        raise UserError(
            f"{where}: a point is NaN; COFW labels all {N_POINTS} points, correct or remove the face"
        )
    return checked(record, where)


def _table(data, file: Path, name: str, width: int) -> np.ndarray:
    """An array of one row a face, (N, width) float64, axes put right."""
    if name not in data:
        raise UserError(
            f"{file}: the array {name} is missing; expected IsT phisT bboxesT or IsTr phisTr bboxesTr"
        )
    values = _values(data[name]).astype(np.float64)
    if values.ndim != 2 or width not in values.shape:
        raise UserError(
            f"{file}: {name} has shape {values.shape}, expected ({width}, faces); download the file again"
        )
    return values.T if values.shape[0] == width else values


def load_pixels(file: Path, key: str, index: int) -> np.ndarray:
    """Picture `index` of the array of references `key`: (H, W, 3) uint8 RGB; grey gets three channels.

    The file is opened each time (1 ms): an HDF5 handle survives neither a fork nor pickling.
    """
    with _reading(file, f"picture {index + 1} of {key}") as data:
        pixels = _values(data[_values(data[key]).ravel()[index]]).T
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    usable = pixels.ndim == 3 and pixels.shape[2] in (1, 3) and pixels.size and pixels.dtype.kind in "biuf"
    if not usable:
        raise UserError(
            f"{file}: picture {index + 1} of {key} is {pixels.dtype} of shape {pixels.shape}, expected a "
            "grey or RGB image"
        )
    return np.ascontiguousarray(np.broadcast_to(pixels.astype(np.uint8), (*pixels.shape[:2], 3)))
