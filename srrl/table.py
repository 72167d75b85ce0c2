"""The table of predictions: CSV or JSON, written row by row, so that an interrupted run leaves all it found."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

from srrl.errors import RunError, UserError


class Table:
    """predictions.csv or predictions.json in ``folder``.

    Columns are ``file``, ``frame`` (0-based; empty for pictures), then the keys of the task's rows, which are the same
    in every row. In JSON each picture or frame is one entry with its list of predictions, empty where there is none.
    The folder is made when the table is opened. Raises RunError where it cannot be written. Until it is whole the file's
    name ends in ``.part``, which stays where the work was interrupted.
    """

    def __init__(self, folder: Path, kind: str):
        self.path, self.kind = folder / f"predictions.{kind}", kind
        self._part = self.path.with_name(self.path.name + ".part")
        self.columns: list[str] = []
        self.entries = 0

    def __enter__(self) -> Table:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.handle = open(self._part, "x", newline="", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise UserError(
                f"{self.path.absolute()} cannot be written: {error.strerror}; give another --out"
            ) from None
        self.writer = csv.writer(self.handle, lineterminator="\n")
        return self

    def add(self, file: Path, frame: int | None, rows: list[dict[str, Any]]) -> None:
        """The predictions of one picture or frame."""
        try:
            if self.kind == "csv":
                self._add_csv(file, frame, rows)
            else:
                entry = (
                    {"file": str(file)} | ({} if frame is None else {"frame": frame}) | {"predictions": rows}
                )
                self.handle.write(
                    ("[\n" if not self.entries else ",\n") + json.dumps(entry, ensure_ascii=False)
                )
        except OSError as error:
            raise RunError(f"could not write {self.path}: {error.strerror}") from error
        self.entries += 1

    def _add_csv(self, file: Path, frame: int | None, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if not self.columns:
                self.columns = list(row)
                self.writer.writerow(["file", "frame", *self.columns])
            self.writer.writerow([str(file), "" if frame is None else frame, *(row[c] for c in self.columns)])

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if self.kind == "json":
                self.handle.write("\n]\n" if self.entries else "[]\n")
            elif not self.columns:
                self.writer.writerow(["file", "frame"])
            self.handle.close()
            if kind is None:
                os.replace(self._part, self.path)
        except OSError as error:
            raise RunError(f"could not write {self.path}: {error.strerror}") from error
