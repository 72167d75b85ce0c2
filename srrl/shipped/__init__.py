"""Runs that come with the package: ``shipped:NAME`` stands for one wherever a run folder, or weights from one, is expected.

Each is a folder beside this file with what a run folder has (config.yaml, results.json, weights/), in half precision, and
a report.md, the model card, that says what it was made of and what it is good for.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from srrl.errors import UserError

PREFIX = "shipped:"
FOLDER = Path(__file__).resolve().parent


def names() -> list[str]:
    """Of the runs that come with the package."""
    return sorted(p.parent.name for p in FOLDER.glob("*/config.yaml"))


def located(path: str | Path) -> Path:
    """The path, or for ``shipped:NAME`` that run's folder. Raises UserError, with the nearest name, for an unknown one."""
    text = str(path)
    if not text.startswith(PREFIX):
        return Path(path)
    name, known = text.removeprefix(PREFIX), names()
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        hint = (
            f"did you mean {PREFIX}{close[0]}?"
            if close
            else f"expected {' or '.join(PREFIX + k for k in known)}"
        )
        raise UserError(f"{text} does not come with this version: {hint}")
    return FOLDER / name


def comes_with_us(path: str | Path) -> bool:
    """Whether ``path`` is, or lies in, a run of the package, into which nothing may be written."""
    return FOLDER in Path(path).resolve().parents
