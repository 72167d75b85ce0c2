"""Reader of CSV tables, in the variations met in practice: an image name and x0, y0, x1, y1, ... a row."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from srrl.errors import UserError

from ..records import FaceRecord
from .common import (
    ImageFinder,
    Issues,
    checked,
    files_of_split,
    is_image,
    number_faces,
    numbers,
    read_lines,
)


def read(path: Path, split: str | None, issues: Issues) -> list[FaceRecord]:
    """Faces of a file, or of the files of a folder that belong to `split`. Pixels are 0-based; no rectangles.

    Found out from the content: comma, semicolon or tab; a header or none; the image name's column (first,
    last or after a running number); an unnamed column of running numbers; x and y alternating, or all x then
    all y where the header says so. Empty cells are unlabelled points.
    """
    records = []
    for file in files_of_split(path, ".csv", split, issues.layout):
        records += _read_file(file, issues)
    return number_faces(records)


def _read_file(file: Path, issues: Issues) -> list[FaceRecord]:
    first = next(_rows(file), (0, []))[1]
    header = first if first and _is_header(first) else None
    body = lambda: islice(_rows(file), bool(header), None)  # noqa: E731 - read anew, as tables may be long
    if (row := next(body(), None)) is None:
        raise UserError(f"{file}: no row with an image name; {issues.layout}")
    width = len(header or row[1])
    columns = _columns(header, body, file)
    words = re.split(r"[_\-. ]", file.stem)
    names = ("images", file.stem, words[0], "_".join(words[:2]))
    finder = ImageFinder([file.parent, *(file.parent / name for name in names)])
    records = []
    for number, row in body():
        where = f"{file} line {number}"
        try:
            records.append(_record(row, columns, width, where, finder))
        except UserError as error:
            issues.bad(str(error))
    return records


def _rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, stripped cells) of each row that is not blank."""
    first = next((line for _, line in read_lines(file) if line.strip()), "")
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader((line for _, line in read_lines(file)), delimiter=delimiter)
    try:
        for row in reader:
            if any(map(str.strip, row)):
                yield reader.line_num, [cell.strip() for cell in row]
    except csv.Error as error:
        raise UserError(
            f"{file} line {reader.line_num}: not a CSV table ({error}); correct the file"
        ) from None


def _is_header(row: list[str]) -> bool:
    """True for a row without image name and fractions; coordinates with a bad name must not pass for one."""
    return _image_column(row) is None and not any(re.fullmatch(r"-?\d+\.\d+", cell) for cell in row)


def _image_column(row: list[str]) -> int | None:
    """The column of the image name, or None (a header, or a bad row)."""
    return next((i for i, cell in enumerate(row) if is_image(Path(cell))), None)


def _columns(
    header: list[str] | None, body: Callable[[], Iterator[tuple[int, list[str]]]], file: Path
) -> tuple[int, np.ndarray]:
    """(image column, (K, 2) columns of x and y)."""
    row = next((row for _, row in body() if _image_column(row) is not None), None)
    if row is None:
        raise UserError(
            f"{file}: no cell names an image (.jpg, .png, ...); expected the image name first or last in "
            "a row"
        )
    image = _image_column(row)
    columns = [i for i in range(len(row)) if i != image]
    if len(columns) % 2:
        if columns[0] == 0 and _is_running_number(header, body()):
            columns = columns[1:]
        else:
            raise UserError(
                f"{file}: {len(columns)} values beside the image name; expected an even number, x and y a "
                "point"
            )
    if not columns:
        raise UserError(
            f"{file}: no value beside the image name {row[image][:40]!r}; expected x0, y0, x1, y1, ..."
        )
    k = len(columns) // 2
    names = [header[i].lower() for i in columns] if header and len(header) == len(row) else []
    planar = k > 1 and bool(names) and all("x" in n for n in names[:k]) and all("y" in n for n in names[k:])
    return image, np.array(columns).reshape(2, k).T if planar else np.array(columns).reshape(k, 2)


def _is_running_number(header: list[str] | None, body: Iterator[tuple[int, list[str]]]) -> bool:
    """True for a first column without a name, or one that holds whole numbers alone."""
    if header and header[0].lower() in ("", "index", "id", "unnamed: 0"):
        return True
    return all(re.fullmatch(r"\d+", row[0] or "0") for _, row in body)


def _record(
    row: list[str], columns: tuple[int, np.ndarray], width: int, where: str, finder: ImageFinder
) -> FaceRecord:
    image, xy = columns
    if len(row) != width:
        raise UserError(f"{where}: {len(row)} cells, expected {width}; correct or remove the row")
    name = row[image]
    if not is_image(Path(name)):
        raise UserError(f"{where}: {name[:40]!r} names no image (.jpg, .png, ...); correct or remove the row")
    cells = np.array(row, dtype=object)[xy].ravel()
    values = np.full(len(cells), np.nan)
    filled = cells != ""
    values[filled] = numbers(cells[filled].tolist(), where)
    return checked(FaceRecord(name, values.reshape(-1, 2), image=finder.find(name, where)), where)
