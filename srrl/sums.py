"""Checksums of pictures: a ``SHA256SUMS`` in the folder of a data set, as ``sha256sum`` writes it, and what it says of a file."""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from srrl.errors import UserError

NAME = "SHA256SUMS"
# a backslash before the digits says that there are some in the name; a star before the name, that it was read as bytes
_LINE = re.compile(rb"(\\?)([0-9a-fA-F]{64}) [ *](.+)", re.DOTALL)
_ESCAPES = {b"\\\\": b"\\", b"\\n": b"\n", b"\\r": b"\r"}


class Sums(NamedTuple):
    """The SHA256SUMS of a folder. Small, so that every picture of a data set can hold it and go to another process with it."""

    folder: str
    stamp: tuple[int, int]  # time and size: a file that was made anew is another one

    @property
    def file(self) -> str:
        """The SHA256SUMS itself."""
        return os.path.join(self.folder, NAME)

    def check(self, path: Path, content: bytes) -> None:
        """UserError where a file's content is not what its line says, and where it has no line; files elsewhere pass."""
        full, below = os.path.abspath(path), os.path.join(self.folder, "")
        if not full.startswith(below):
            return
        expected = _lines(self).get(full.removeprefix(below))
        if expected is None:
            raise UserError(f"{path} has no line in {self.file}: add one, or make that file anew")
        if hashlib.sha256(content).digest() != expected:
            raise UserError(
                f"{path} differs from its line in {self.file}: restore it, or make that file anew where the picture is right"
            )

    def read(self, path: Path) -> bytes:
        """The content of a file, checked. Raises UserError where it cannot be read, and as :meth:`check` does."""
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror or error}): restore it") from None
        self.check(path, content)
        return content


def sums_in(folder: str | Path) -> Sums | None:
    """The SHA256SUMS of a folder, None where it has none. Raises UserError for one that cannot be read or is damaged."""
    folder = os.path.abspath(folder)
    try:
        found = os.stat(os.path.join(folder, NAME))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{folder}: {NAME} cannot be read ({error.strerror or error})") from None
    sums = Sums(folder, (found.st_mtime_ns, found.st_size))
    _lines(sums)  # now, in one thread, and what is wrong with it is said before anything is read
    return sums


@lru_cache(maxsize=8)
def _lines(sums: Sums) -> dict[str, bytes]:
    """The digest of each file by its name below the folder."""
    try:
        lines = Path(sums.file).read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{sums.file} cannot be read ({error.strerror or error})") from None
    found: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        line = line.removesuffix(b"\r")
        if not line or line.startswith(b"#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise UserError(
                f"{sums.file} line {number}: expected 64 digits 0-9a-f, two blanks and a name, as sha256sum writes them: "
                "make the file anew"
            )
        escaped, digits, raw = match.groups()
        if escaped:
            raw = re.sub(rb"\\[\\nr]", lambda m: _ESCAPES[m[0]], raw)
        name, digest = _relative(os.fsdecode(raw), sums.folder), bytes.fromhex(digits.decode())
        if found.setdefault(name, digest) != digest:
            raise UserError(
                f"{sums.file} line {number}: {name} stands there twice, with two checksums: make the file anew"
            )
    return found


def _relative(name: str, folder: str) -> str:
    """A name below the folder, from however it was written: x, ./x, a/../x or from the root of the file system."""
    name = re.sub(r"^(\./+)+", "", name)
    if name.startswith("/") or "./" in name or "//" in name:
        name = os.path.normpath(os.path.join(folder, name)).removeprefix(os.path.join(folder, ""))
    return name
