"""Predictions on pictures, folders and videos: ``python -m srrl.predict RUN INPUT…`` → a table and drawn copies."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srrl.cli import Command, main_of
from srrl.errors import UserError
from srrl.sums import Sums, sums_in
from srrl.table import Table

if TYPE_CHECKING:
    import numpy as np

EPILOG = """examples:
  python -m srrl.predict runs/faces/001 photo.jpg                     table and drawn copy in predictions/001
  python -m srrl.predict shipped:faces68 photo.jpg                    without any training
  python -m srrl.predict runs/faces/001 photos/ --recursive --out found --format json
  python -m srrl.predict runs/faces/001 clip.mp4 --model teacher      an annotated clip.mp4, rows by frame
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", metavar="RUN", help="a run folder that train made, shipped:NAME, or a file that export wrote"
    )
    parser.add_argument("inputs", metavar="INPUT", nargs="+", help="images, videos and folders of them")
    parser.add_argument("--model", choices=["student", "teacher", "baseline"], default="student")
    parser.add_argument(
        "--box",
        metavar="B",
        help="where to look: detector, whole, or x0,y0,x1,y1 in pixels (faces; default detector)",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="new or empty folder (default: the next number under predictions/)"
    )
    parser.add_argument("--format", choices=["csv", "json"], default="csv", help="file type of the table")
    parser.add_argument("--no-overlay", action="store_true", help="only the table, no drawn copies")
    parser.add_argument("--recursive", action="store_true", help="folders with everything below them")
    parser.add_argument(
        "--skip-bad", action="store_true", help="go on after files that do not decode, and count them"
    )


def run(args: argparse.Namespace) -> int:
    box = parse_box(args.box)
    files = collect(args.inputs, recursive=args.recursive)
    sums = [s for s in (sums_in(text) for text in args.inputs if Path(text).is_dir()) if s is not None]
    out = output_folder(args.out)

    from srrl.api import open_predictor
    from srrl.interrupt import GracefulStop

    task, predictor = open_predictor(args.run, args.model)
    takes_box = accepts_box(predictor)
    if box is not None and not takes_box:
        raise UserError(f"--box: task {task.name} predicts on whole pictures; leave --box out")
    predict = (lambda image: predictor(image, box=box)) if box is not None else predictor
    tally = Tally()
    with GracefulStop(), Table(out, args.format) as table:
        work = Work(
            predict,
            predictor,
            table,
            None if args.no_overlay else out,
            args.skip_bad,
            tally,
            sums,
            bool(args.out),
        )
        for file in _progress(files):
            work.file(file)
    _tell(tally, table, out, takes_box and args.box in (None, "detector"))
    if not tally.pictures and not tally.videos:
        raise UserError(f"none of the {len(tally.bad)} files could be read")
    return 0


def parse_box(text: str | None) -> str | tuple[float, float, float, float] | None:
    """A word stays a word, ``x0,y0,x1,y1`` becomes numbers. Raises UserError for anything else."""
    if text is None or text.isalpha():
        return text
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"--box {text!r}: expected detector, whole or four numbers x0,y0,x1,y1 in pixels"
        ) from None
    return x0, y0, x1, y1


def accepts_box(predictor: Callable) -> bool:
    """Whether the task's predictor can be told where to look."""
    import inspect

    return "box" in inspect.signature(predictor).parameters


def collect(inputs: list[str], *, recursive: bool = False) -> list[Path]:
    """The files to predict on, folders opened in order of names, hidden files left out, each file once.

    Raises UserError for what does not exist and for folders without a picture or video.
    """
    from srrl.media import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, missing

    known = IMAGE_EXTENSIONS + VIDEO_EXTENSIONS
    files: dict[Path, None] = {}
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            inside = sorted(
                p
                for p in (path.rglob("*") if recursive else path.iterdir())
                if p.suffix.lower() in known
                and p.is_file()
                and not any(part.startswith(".") for part in p.relative_to(path).parts)
            )
            if not inside:
                hint = "" if recursive else "; --recursive looks into the folders below it"
                raise UserError(f"folder {path} holds no picture or video ({' '.join(known)}){hint}")
            files |= dict.fromkeys(inside)
        elif path.is_file():
            files[path] = None
        else:
            raise UserError(f"input {missing(text)}: give an image, a video or a folder")
    return list(files)


def output_folder(explicit: str | None) -> Path:
    """An empty folder: ``explicit`` (made where missing), or the next free number under ``predictions/``. UserError."""
    if explicit is None:
        root = Path("predictions")
        numbers = [int(p.name) for p in root.glob("*") if p.name.isdigit()]
        path = root / f"{1 + max(numbers, default=0):03d}"
    else:
        path = Path(explicit)
        if path.is_dir() and any(path.iterdir()):
            raise UserError(
                f"--out {path.absolute()} is not empty: choose a new folder, nothing is overwritten"
            )
        if path.exists() and not path.is_dir():
            raise UserError(f"--out {path.absolute()} is a file: choose a new folder")
    return path


@dataclass
class Tally:
    """What was done, for the last line."""

    pictures: int = 0
    videos: int = 0
    frames: int = 0
    found: int = 0
    empty: list[Path] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)


@dataclass
class Work:
    """One file after the other: predict, note, draw."""

    predict: Callable[[Any], Any]
    predictor: Any
    table: Table
    overlays: Path | None
    skip_bad: bool
    tally: Tally
    sums: list[Sums] = field(default_factory=list)  # of the folders that were given
    named: bool = False  # the folder, by --out
    names: set[str] = field(default_factory=set)

    def file(self, path: Path) -> None:
        """A picture or a video. Raises UserError for one that does not decode or fit its checksum, unless ``skip_bad``."""
        from srrl.media import VIDEO_EXTENSIONS

        try:
            if path.suffix.lower() in VIDEO_EXTENSIONS:
                self._video(path)
            else:
                self._picture(path)
        except UserError as error:
            if not self.skip_bad:
                hint = "--skip-bad goes on with the others" + ", into a new --out" * self.named
                raise UserError(f"{error} ({hint})") from None
            self.tally.bad.append(str(error))

    def _picture(self, path: Path) -> None:
        from srrl.media import to_rgb, write_jpeg

        for sums in self.sums:
            sums.read(path)
        image = to_rgb(path)
        found = self._note(path, None, image)
        self.tally.pictures += 1
        if self.overlays is not None:
            write_jpeg(self._overlay(path, ".jpg"), self.predictor.draw(image, found))

    def _video(self, path: Path) -> None:
        from srrl.media import VideoFile, read_video

        frames = read_video(path)
        first, rate = next(frames)
        target = None if self.overlays is None else VideoFile(self._overlay(path, ".mp4"), first.shape, rate)
        before = self.tally.found
        try:
            for number, (image, _) in enumerate(_chain(first, rate, frames)):
                found = self._note(path, number, image)
                self.tally.frames += 1
                if target is not None:
                    target.add(self.predictor.draw(image, found))
        finally:
            if target is not None:
                target.close()
        self.tally.videos += 1
        if self.tally.found == before:
            self.tally.empty.append(path)

    def _note(self, path: Path, frame: int | None, image: np.ndarray) -> Any:
        found = self.predict(image)
        rows = self.predictor.rows(found)
        self.table.add(path, frame, rows)
        self.tally.found += len(rows)
        if not rows and frame is None:
            self.tally.empty.append(path)
        return found

    def _overlay(self, path: Path, suffix: str) -> Path:
        """A name of its own in the output folder: ``x.jpg``, then ``x-2.jpg`` for another folder's."""
        name, count = path.stem + suffix, 1
        while name in self.names:
            count += 1
            name = f"{path.stem}-{count}{suffix}"
        self.names.add(name)
        return self.overlays / name


def _chain(first: np.ndarray, rate: float, rest: Iterator) -> Iterator[tuple[np.ndarray, float]]:
    yield first, rate
    yield from rest


def _progress(files: list[Path]) -> Iterator[Path]:
    """The files, with a bar where standard error is a terminal."""
    if not sys.stderr.isatty():
        yield from files
        return
    from tqdm import tqdm

    yield from tqdm(files, unit="file", leave=False)


def _tell(tally: Tally, table: Table, out: Path, offer_whole: bool) -> None:
    """The last lines: what was found, what was empty or bad, and where it lies."""
    done = [_count(tally.pictures, "picture")] if tally.pictures or not tally.videos else []
    done += [f"{_count(tally.videos, 'video')} ({_count(tally.frames, 'frame')})"] if tally.videos else []
    print(f"{_count(tally.found, 'prediction')} on {' and '.join(done)}: {table.path}")
    if tally.empty:
        hint = (
            ": if it is cropped to one face, use --box whole, or give the face with --box x0,y0,x1,y1"
            if offer_whole
            else ""
        )
        print(
            f"nothing found in {len(tally.empty)} of {tally.pictures + tally.videos} files, first {tally.empty[0]}{hint}",
            file=sys.stderr,
        )
    if tally.bad:
        print(f"skipped {_count(len(tally.bad), 'bad file')}, first: {tally.bad[0]}", file=sys.stderr)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


COMMAND = Command("predict", "Predict on images, folders and videos.", add_arguments, run, EPILOG)

if __name__ == "__main__":
    main_of(COMMAND)
