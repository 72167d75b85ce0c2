"""A photo folder and a network small enough to train in seconds, and the command line as a real process."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "image_size=64",
    "epochs=2",
    "batch_size=4",
    "data.workers=0",
    "precision=fp32",
    "teacher.arch=resnet10",
    "teacher.width=8",
    "teacher.decoder=[8,8,8]",
    "student.width=4",
    "student.decoder=[8,8,8]",
]


def write_face(folder: Path, name: str, seed: int, points: np.ndarray | None = None) -> None:
    """One picture of 96² with a bright dot at each of 68 points, and its 1-based .pts."""
    rng = np.random.default_rng(seed)
    if points is None:
        angle = np.linspace(0, 2 * np.pi, 68, endpoint=False)
        radius = 26 + 4 * np.sin(3 * angle)
        points = np.stack([48 + radius * np.cos(angle), 48 + radius * np.sin(angle)], 1) + rng.uniform(
            -6, 6, 2
        )
    picture = rng.integers(0, 90, (96, 96, 3), dtype=np.uint8)
    for x, y in np.nan_to_num(points):
        cv2.circle(picture, (round(float(x)), round(float(y))), 1, (255, 255, 255), -1)
    folder.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / f"{name}.jpg"), picture)
    write_pts(folder / f"{name}.pts", points)


def write_pts(path: Path, points: np.ndarray) -> None:
    """iBUG text, 1-based."""
    lines = "\n".join(f"{x + 1:.3f} {y + 1:.3f}" for x, y in points)
    path.write_text(f"version: 1\nn_points: {len(points)}\n{{\n{lines}\n}}\n")


def faces(folder: Path, count: int = 12) -> Path:
    """A folder of ``count`` faces."""
    for i in range(count):
        write_face(folder, f"face{i:02d}", i)
    return folder


def write_sums(folder: Path) -> Path:
    """SHA256SUMS of all pictures below a folder."""
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".jpg", ".png", ".bmp"))
    lines = [f"{sha256(p.read_bytes()).hexdigest()}  ./{p.relative_to(folder).as_posix()}\n" for p in files]
    (folder / "SHA256SUMS").write_text("".join(lines))
    return folder


def flip_a_pixel(picture: Path) -> None:
    """Another value in a picture (BMP) that decodes as before: nothing but a checksum tells."""
    data = bytearray(picture.read_bytes())
    data[-40] ^= 4
    picture.write_bytes(data)


def start(*arguments: object, cwd: Path | None = None, **kwargs: object) -> subprocess.Popen:
    """``python -m srrl.<first argument> …`` running in the background, with its output captured as text."""
    command = [sys.executable, "-m", f"srrl.{arguments[0]}", *map(str, arguments[1:])]
    import os

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs
    )


def call(*arguments: object, **kwargs: object) -> tuple[int, str, str]:
    """The same to its end: exit status, standard output, standard error."""
    process = start(*arguments, **kwargs)
    out, error = process.communicate(timeout=240)
    return process.returncode, out, error
