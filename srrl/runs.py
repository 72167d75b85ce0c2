"""The run folder: where config, metrics, weights, checkpoints, plots and results of one run lie."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import platform
import re
import secrets
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from srrl.errors import RunError, UserError
from srrl.lock import NAME
from srrl.shipped import located

_SCRAP = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.tmp")  # what atomic() writes to
_LEFTOVER = re.compile(rf"{re.escape(NAME)}|\.job|\.(\.job|config\.yaml)\.\d+-[0-9a-f]{{8}}\.tmp")
MODELS = ("teacher", "student", "baseline")
# around a run's settings: the first line tells that the last one must be there
_SEALED = "# The settings of this run. They are not edited: the last line is a checksum of all above it.\n"
_SEAL = "# checksum: "


@contextlib.contextmanager
def atomic(path: Path, durable: bool = True):
    """Gives a temporary path beside ``path``, renamed over it on success and removed on failure.

    The file is flushed to the disk before the rename, so that a crash leaves the old file or the new one, never half;
    ``durable=False`` leaves the flush out, for what can be made again and carries a checksum. A link stays, and what it
    leads to is replaced. What is no regular file (a device, a pipe) cannot be replaced: it is written to as it is.
    Raises RunError (exit 1) where the disk is full or not writable; what stood at ``path`` is untouched then.
    """
    try:
        if _is_stream(path):
            with _into_stream(path) as temporary:
                yield temporary
        else:
            with _renamed_over(Path(os.path.realpath(path)), durable) as temporary:
                yield temporary
    except OSError as error:
        raise RunError(
            f"could not save {path}: {error.strerror or error}; what was saved before is intact"
        ) from error


@contextlib.contextmanager
def _renamed_over(path: Path, durable: bool):
    # process ids alone are not enough: two containers that share a folder both have a process 1
    # fifty characters of the name are at most two hundred bytes: with the rest no longer than a name may be
    temporary = path.with_name(f".{path.name[:50]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
        os.replace(temporary, path)
        if durable:
            _flush_names(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _into_stream(path: Path):
    """A temporary path elsewhere, as there may be no room beside a device; its content goes into ``path`` at the end."""
    with tempfile.TemporaryDirectory(prefix="srrl-") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        # our own standard output may be a file: opened again, it would be written from its beginning
        sys.stdout.flush()
        target = os.dup(1) if _is_stdout(path) else os.open(path, os.O_WRONLY)
        with open(temporary, "rb") as source, open(target, "wb") as sink:
            shutil.copyfileobj(source, sink)


def _is_stream(path: Path) -> bool:
    """Whether something stands there that is written to and not replaced; OSError where the links to it go in a circle."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or _is_stdout(path)


def _is_stdout(path: Path) -> bool:
    """Whether it is what our standard output goes to, such as /dev/stdout."""
    try:
        return os.path.samestat(path.stat(), os.fstat(1))
    except OSError:
        return False


def _flush_names(folder: Path) -> None:
    """Has the disk know what is in a folder under which name, where the file system can be told."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def check_writable(option: str, path: str | None) -> None:
    """UserError, naming the option, where no file can be written at ``path``: before hours are spent on what goes there."""
    if path is None:
        return
    target = Path(os.path.realpath(path))  # what a link leads to
    try:
        if _is_stream(Path(path)):
            good = not Path(path).is_socket() and os.access(path, os.W_OK)
        else:
            folder = next(p for p in target.parents if p.exists())  # what is missing below it will be made
            good = not target.is_dir() and folder.is_dir() and os.access(folder, os.W_OK)
            good = good and (not target.exists() or os.access(target, os.W_OK))
    except OSError:  # links in a circle, a name that is too long
        good = False
    if not good:
        raise UserError(f"{option} {path}: no file can be written there")


def write_text(path: Path, text: str) -> None:
    """``text`` into ``path``, atomically."""
    with atomic(path) as temporary:
        # names of files need not be UTF-8, and come back from the system as lone surrogates
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON into ``path``, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file of ours. Raises UserError where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.absolute()} does not exist") from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged ({' '.join(str(error).split())[:120]}): restore or remove it"
        ) from error


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file of ours. Raises UserError where it is missing, damaged or holds anything else."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(
            f"{path} is damaged (it holds a {type(value).__name__}, not the mapping that was saved): restore or remove it"
        )
    return value


class RunFolder:
    """Paths of one run and the few files that grow during it."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.results = self.path / "results.json"
        self.plots = self.path / "plots"
        self.report = self.path / "report.md"
        self.job = self.path / ".job"

    @classmethod
    def create(cls, task: str, explicit: str | None = None, root: str | Path = "runs") -> RunFolder:
        """A fresh folder: ``explicit`` (must be new or empty), or the next free number under ``<root>/<task>/``."""
        if explicit is not None:
            path = Path(explicit)
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                # left by a run that was stopped at once: at most a lock, or a file that was not whole
                if path.is_dir() and all(_LEFTOVER.fullmatch(p.name) for p in path.iterdir()):
                    return cls(path)
                raise UserError(
                    f"run folder {path.absolute()} exists: choose another --run-dir, or go on with --resume {path}"
                ) from None
            except OSError as error:
                raise UserError(f"run folder {path.absolute()} cannot be made: {error.strerror}") from error
            return cls(path)
        root = Path(root) / task
        number = 1 + max((int(p.name) for p in root.glob("*") if p.name.isdecimal()), default=0)
        while True:
            try:
                (root / f"{number:03d}").mkdir(parents=True)
                return cls(root / f"{number:03d}")
            except FileExistsError:  # another run took it a moment ago
                number += 1
            except OSError as error:
                raise UserError(
                    f"{(root).absolute()} cannot be written: {error.strerror}; give --run-dir DIR"
                ) from error

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """An existing run, or one that comes with the package (``shipped:NAME``). Raises UserError where there is none."""
        run = cls(located(path))
        if not run.config.is_file():
            what = "does not exist"
            if run.path.is_dir():
                what = "has no config.yaml, so it is no run folder"
            elif run.path.is_file():
                what = "is a file, with which only srrl.predict and the app can work"
            raise UserError(
                f"{run.path.absolute()} {what}: expected a folder that python -m srrl.train made, such as runs/faces/001"
            )
        return run

    def begin(self, config: str, job: str | None) -> None:
        """Writes the settings, from which on it is a run, and before that the name of the launcher's job where there is one."""
        if job is not None:
            write_text(self.job, job)
        self.write_settings(config)

    def write_settings(self, config: str) -> None:
        """Settings as YAML into config.yaml, between a line that says what they are and one with their checksum."""
        text = _SEALED + config
        write_text(self.config, text + _seal(text))

    def settings(self) -> dict[str, Any]:
        """The values in config.yaml, where it is as it was written; one without a checksum (older, made by hand) is taken.

        Raises UserError where it is missing, damaged or edited, or no mapping.
        """
        from srrl.config import read_yaml

        if self.config.is_file() and not _intact(self.config.read_text(encoding="utf-8", errors="replace")):
            raise UserError(
                f"{self.config} was edited or damaged since the run began (its checksum does not fit). A run's settings are "
                f"not edited: restore the file, or begin a new run with what it holds now: -c {self.config}"
            )
        return read_yaml(self.config)

    def is_of(self, job: str | None) -> bool:
        """Whether this is a run that the launcher's job began."""
        try:
            return self.config.is_file() and job == self.job.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return False

    def weights(self, name: str) -> Path:
        """weights/<name>.safetensors"""
        return self.path / "weights" / f"{name}.safetensors"

    def checkpoint(self, phase: str) -> Path:
        """checkpoints/<phase>.pt"""
        return self.path / "checkpoints" / f"{phase}.pt"

    def clear(self) -> None:
        """Removes what a killed process had not finished writing; only for whoever the run belongs to (:mod:`srrl.lock`)."""
        for path in (*self.path.glob(".*"), *self.path.glob("*/.*")):
            if _SCRAP.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def models(self) -> list[str]:
        """Which of teacher, student and baseline have saved weights."""
        return [m for m in MODELS if self.weights(m).is_file()]


def _seal(text: str) -> str:
    """The last line of a text: its checksum."""
    # what is not UTF-8 in it is written like this
    return f"{_SEAL}{zlib.crc32(text.encode('utf-8', 'backslashreplace')):08x}\n"


def _intact(text: str) -> bool:
    """Whether a text ends in its checksum. One that has never had any passes.

    Damage hits the first line or the last one, so whichever is still recognised tells that there was a checksum.
    """
    end = text.rstrip("\n").rfind("\n") + 1
    above, last = text[:end], text[end:]
    return last == _seal(above) or not (text.startswith(_SEALED) or "# checksum" in last)


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics.csv. Raises UserError where it is damaged."""
    try:
        with open(path, newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle, restkey="", strict=True))
        for row in rows:
            row["phase"], int(row["epoch"])
    except (csv.Error, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{path} is damaged ({reason}): restore it, or remove it and lose the curves of the epochs before"
        ) from error
    if any("" in row or None in row.values() for row in rows):
        raise UserError(
            f"{path} is damaged (rows of different lengths): restore it, or remove it and lose the curves of the epochs before"
        )
    return rows


class MetricsLog:
    """metrics.csv: one row an epoch and phase, one header, rewritten whole (it is small) and atomically.

    ``added`` is called after every row. On resume, rows newer than the checkpoint are cut with :meth:`trim`, so that no epoch stands twice.
    """

    def __init__(self, path: Path, added: Callable[[], None] | None = None):
        self.path, self.added = path, added
        self.rows: list[dict[str, Any]] = []
        if path.is_file():
            self.rows = read_metrics(path)

    def trim(self, phase: str, epoch: int) -> None:
        """Drops the rows of ``phase`` after ``epoch`` epochs."""
        self.rows = [r for r in self.rows if r["phase"] != phase or int(r["epoch"]) <= epoch]

    def checksum(self, phase: str) -> str | None:
        """Of what stands in the rows of ``phase``, whether just added or read from the file; None where there are none."""
        rows = [
            sorted((k, str(v)) for k, v in r.items() if v not in (None, ""))
            for r in self.rows
            if r["phase"] == phase
        ]
        return f"{zlib.crc32(json.dumps(rows).encode()):08x}" if rows else None

    def add(self, row: dict[str, Any]) -> None:
        """Appends a row (must hold ``phase`` and ``epoch``) and saves."""
        self.rows.append({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
        columns = list(dict.fromkeys(k for r in self.rows for k in r))
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, buffer.getvalue())
        if self.added is not None:
            self.added()


def environment() -> dict[str, Any]:
    """Versions, device and command: what environment.json holds."""
    import importlib.metadata as metadata

    import torch

    versions = {}
    for package in (
        "torch",
        "torchvision",
        "timm",
        "accelerate",
        "albumentations",
        "opencv-python-headless",
        "numpy",
        "anny",
    ):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else platform.processor() or platform.machine()
    )
    return {
        "srrl": __import__("srrl").__version__,
        "python": platform.python_version(),
        "packages": versions,
        "platform": platform.platform(),
        "device": device,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "command": " ".join(sys.argv),
    }
