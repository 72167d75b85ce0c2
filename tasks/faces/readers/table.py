"""Reader of CSV tables, in the variations met in practice: an image name and x0, y0, x1, y1, ... a row."""

from __future__ import annotations

import csv
import io
import re
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
    read_text,
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
    rows = _rows(file)
    header = rows[0][1] if rows and _is_header(rows[0][1]) else None
    body = rows[1:] if header else rows
    if not body:
        raise UserError(f"{file}: no row with an image name; {issues.layout}")
    columns = _columns(header, body, file)
    words = re.split(r"[_\-. ]", file.stem)
    names = ("images", file.stem, words[0], "_".join(words[:2]))
    finder = ImageFinder([file.parent, *(file.parent / name for name in names)])
    records = []
    for number, row in body:
        where = f"{file} line {number}"
        try:
            records.append(_record(row, columns, len(header or body[0][1]), where, finder))
        except UserError as error:
            issues.bad(str(error))
    return records


def _rows(file: Path) -> list[tuple[int, list[str]]]:
    """(line number, stripped cells) of each row that is not blank."""
    text = read_text(file)
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    try:
        return [
            (reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))
        ]
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
    header: list[str] | None, body: list[tuple[int, list[str]]], file: Path
) -> tuple[int, np.ndarray]:
    """(image column, (K, 2) columns of x and y)."""
    row = next((row for _, row in body if _image_column(row) is not None), None)
    if row is None:
        raise UserError(
            f"{file}: no cell names an image (.jpg, .png, ...); expected the image name first or last in "
            "a row"
        )
    image = _image_column(row)
    columns = [i for i in range(len(row)) if i != image]
    if len(columns) % 2:
        if columns[0] == 0 and _is_running_number(header, body):
            columns = columns[1:]
        else:
            raise UserError(
                f"{file}: {len(columns)} values beside the image name; expected an even number, x and y a "
                "point"
            )
    k = len(columns) // 2
    names = [header[i].lower() for i in columns] if header and len(header) == len(row) else []
    planar = k > 1 and bool(names) and all("x" in n for n in names[:k]) and all("y" in n for n in names[k:])
    return image, np.array(columns).reshape(2, k).T if planar else np.array(columns).reshape(k, 2)


def _is_running_number(header: list[str] | None, body: list[tuple[int, list[str]]]) -> bool:
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
