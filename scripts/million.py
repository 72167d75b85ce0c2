"""How long a list of very many entries takes to read, and how much memory: ``python scripts/million.py [--entries 1000000] [--kind KIND ...]``.

Makes, one after the other in a temporary folder, a folder of classes with that many pictures, a .tar of them, and lists of faces
in the formats whose lists are single files (WFLW, CSV), each of which names the same few pictures again and again; reads each in a
process of its own and prints seconds and the memory at its peak above that of an empty list; ends with 1 where an entry is missing
or the memory is more than it should be. A million pictures need a file
system with as many inodes to spare.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
CLASSES, PICTURES = 10, 20
MOST = {
    "folder": 600,
    "tar": 1500,
    "wflw": 3500,
    "csv": 2000,
}  # MiB for a million entries: a third above what was measured
READ = """
import json, resource, sys, time
from pathlib import Path
from srrl.task import ensure_tasks_importable
ensure_tasks_importable()
kind, path = sys.argv[1:]
if kind in ("folder", "tar"):
    from srrl_tasks.classification.sources import folder as read
else:
    from srrl_tasks.faces.readers import read
began = time.monotonic()
found = read(Path(path))
seconds = time.monotonic() - began
count = sum(map(len, found.values())) if isinstance(found, dict) else len(found)
print(json.dumps([count, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def picture() -> bytes:
    """A tiny JPEG."""
    return cv2.imencode(".jpg", np.full((8, 8, 3), 128, np.uint8))[1].tobytes()


def folder(root: Path, count: int) -> Path:
    """A folder a class, each picture a file of its own."""
    data = picture()
    for c in range(CLASSES):
        (root / f"class {c}").mkdir()
        for i in range(c, count, CLASSES):
            (root / f"class {c}" / f"{i}.jpg").write_bytes(data)
    return root


def tar(root: Path, count: int) -> Path:
    """The same as one archive."""
    data = picture()
    with tarfile.open(root / "pictures.tar", "w") as archive:
        for i in range(count):
            entry = tarfile.TarInfo(f"class {i % CLASSES}/{i}.jpg")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return root / "pictures.tar"


def faces(root: Path, count: int, file: str, line: Callable[[str, str, str], str]) -> Path:
    """A list of faces, ``line`` of the points of 98, of 68 and the picture's name."""
    for i in range(PICTURES):
        (root / f"{i}.jpg").write_bytes(picture())
    points = np.random.default_rng(0).uniform(1, 99, (PICTURES, 196)).round(3)
    lines = []
    for i, values in enumerate(points.tolist()):
        wide, narrow = (" ".join(map(str, values[:n])) for n in (196, 136))
        lines.append(line(wide, narrow, f"{i}.jpg") + "\n")
    with open(root / file, "w") as out:
        for i in range(count):
            out.write(lines[i % PICTURES])
    return root / file


KINDS: dict[str, Callable[[Path, int], Path]] = {
    "folder": folder,
    "tar": tar,
    "wflw": lambda root, n: faces(
        root, n, "list.txt", lambda p, _, name: f"{p} 1 1 90 90 0 0 0 0 0 0 {name}"
    ),
    "csv": lambda root, n: faces(root, n, "list.csv", lambda _, p, name: f"{name},{p.replace(' ', ',')}"),
}


def read(kind: str, path: Path) -> tuple[int, float, float]:
    """Entries, seconds, and MiB at the peak of a process that reads them."""
    command = [sys.executable, "-c", READ, kind, str(path)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    count, seconds, memory = json.loads(done.stdout.splitlines()[-1])
    return count, seconds, memory


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    args = parser.parse_args(argv)
    wrong = 0
    for kind in args.kind:
        with tempfile.TemporaryDirectory(prefix="million-") as place:
            few = Path(place) / "few"
            many = Path(place) / "many"
            few.mkdir()
            many.mkdir()
            _, _, empty = read(kind, KINDS[kind](few, CLASSES))
            count, seconds, memory = read(kind, KINDS[kind](many, args.entries))
            most = 64 + MOST[kind] * args.entries / 1e6
            word = "" if memory - empty < most else f", MORE than {most:.0f}"
            wrong += count != args.entries or bool(word)
            print(f"{kind}: {count} entries, {seconds:.1f} s, {memory - empty:.0f} MiB{word}", flush=True)
            shutil.rmtree(many)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
