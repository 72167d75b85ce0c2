"""Settings of a synthetic face set, their fingerprint, and where its cache lies."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from srrl.errors import UserError

MARK = "SYNTHETIC.txt"  # in the root of an exported set, so that results on it are labelled so
GENERATOR_VERSION = 5  # raise it whenever the same key would give another picture or label
SPLITS = ("train", "val", "test")
ATTRIBUTES = ("pose", "expression", "illumination", "make-up", "occlusion", "blur")  # WFLW's six bits


class SyntheticSettings(BaseModel):
    """What to generate. Every face is keyed by (seed, split, number), so more faces extend a cache and splits share no one.

    n_train, n_val, n_test: faces a split; size: side of the square pictures in pixels, the landmark box takes 50-62 %
    of it; seed: of everything drawn.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_train: int = Field(3000, ge=1, le=10_000_000)
    n_val: int = Field(300, ge=1, le=10_000_000)
    n_test: int = Field(400, ge=1, le=10_000_000)
    size: int = Field(176, ge=64, le=1024)
    seed: int = Field(0, ge=0, lt=2**32)

    def count(self, split: str) -> int:
        """Faces in `split`; UserError when there is no such split."""
        if split not in SPLITS:
            raise UserError(f"split '{split}' of the synthetic faces: expected one of {', '.join(SPLITS)}")
        return int(getattr(self, f"n_{split}"))

    def fingerprint(self) -> str:
        """12 hex digits that change with any setting that changes a picture (not with the numbers of faces)."""
        content = {"generator": GENERATOR_VERSION, **self.model_dump(include={"size", "seed"})}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def is_export(path: str | Path) -> bool:
    """Whether ``path`` is an exported set of synthetic faces, or lies within one."""
    path = Path(path).resolve()
    return any((folder / MARK).is_file() for folder in (path, *path.parents))


def cache_root() -> Path:
    """$SRRL_CACHE, or "srrl" in the user's cache folder of this platform."""
    if os.environ.get("SRRL_CACHE"):
        return Path(os.environ["SRRL_CACHE"]).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "srrl"


def folder_of(settings: SyntheticSettings, cache_dir: Path | None = None) -> Path:
    """Folder of the shards: `cache_dir` (default `cache_root()`) / synthetic-faces-<fingerprint>."""
    return Path(cache_dir or cache_root()) / f"synthetic-faces-{settings.fingerprint()}"
