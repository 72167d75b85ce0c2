"""Where labelled pictures come from: scikit-learn's digits, torchvision's data sets, folders and .tar files of classes."""

from __future__ import annotations

import lzma
import os
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from srrl.errors import UserError
from srrl.media import DAMAGE, IMAGE_EXTENSIONS, SPLITS, expanded, learnable, opened, split_named, to_rgb
from srrl.sums import sums_in

# mean and deviation of the training pixels, as the field uses them; the default is ImageNet's
STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "digits": ((0.3055,) * 3, (0.3762,) * 3),
}
DEFAULT_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

# what tarfile and the decompressors below it raise for a damaged archive; the recursion is tarfile's own, over long names
_BROKEN = (
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    RecursionError,
)


@dataclass(frozen=True)
class Samples:
    """One split: entries that ``read`` turns into pictures, or all pictures at once, and their labels.

    entries: names (files, members of an archive) or an array (N, H, W, 3) uint8; labels: (N,) class numbers.
    """

    entries: Any
    labels: np.ndarray
    classes: tuple[str, ...]
    read: Callable[[Any], Any] = lambda entry: entry
    name: Callable[[Any], str] = str
    skipped: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: np.ndarray) -> Samples:
        """The samples of these numbers."""
        entries = (
            self.entries[chosen]
            if isinstance(self.entries, np.ndarray)
            else [self.entries[i] for i in chosen]
        )
        return replace(self, entries=entries, labels=self.labels[chosen])


def digits() -> dict[str, Samples]:
    """The 1,797 digits that scikit-learn ships (8×8): 1,000 for the test, 150 to choose with, 647 to train on.

    The split is fixed. Within each split every digit has its share.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.repeat(np.round(found.images * (255 / 16)).astype(np.uint8)[..., None], 3, axis=3)
    whole = Samples(images, found.target.astype(np.int64), tuple(str(d) for d in range(10)))
    rest, test = cut(whole, 1000 / len(whole), key=0)
    train, val = cut(rest, 150 / len(rest), key=0)
    return {"train": train, "val": val, "test": test}


def cut(samples: Samples, fraction: float, key: int) -> tuple[Samples, Samples]:
    """(rest, part): about that fraction of each class goes to the part, at least one sample and never all of them."""
    rng, part = np.random.default_rng([key, 0xC1A55]), []
    for label in range(len(samples.classes)):
        members = rng.permutation(np.flatnonzero(samples.labels == label))
        if len(members) > 1:
            part.append(members[: min(max(1, round(fraction * len(members))), len(members) - 1)])
    if not part:
        raise UserError("every class has a single picture: give data.val")
    chosen = np.zeros(len(samples), bool)
    chosen[np.concatenate(part)] = True
    return samples.take(np.flatnonzero(~chosen)), samples.take(np.flatnonzero(chosen))


def few(samples: Samples, per_class: int, key: int) -> Samples:
    """``per_class`` samples of each class, drawn with ``key``. Raises UserError where a class has fewer."""
    rng, kept = np.random.default_rng([key, 0xFE3]), []
    for label, name in enumerate(samples.classes):
        members = np.flatnonzero(samples.labels == label)
        if len(members) < per_class:
            raise UserError(
                f"data.per_class={per_class}: class {name!r} has {len(members)} training pictures"
            )
        kept.append(rng.permutation(members)[:per_class])
    return samples.take(np.sort(np.concatenate(kept)))


def torchvision_set(format: str, root: str, split: str, download: bool) -> Samples:
    """CIFAR-10/100, STL-10, SVHN or ImageNet as torchvision keeps them below ``root``. ``split``: train or test.

    Raises UserError where the data is missing or damaged, and where a download finds no network.
    """
    from torchvision import datasets

    kinds = {
        "cifar10": lambda: datasets.CIFAR10(root, split == "train", download=download),
        "cifar100": lambda: datasets.CIFAR100(root, split == "train", download=download),
        "stl10": lambda: datasets.STL10(root, split, download=download),
        "svhn": lambda: datasets.SVHN(root, split, download=download),
        "imagenet": lambda: datasets.ImageNet(root, "train" if split == "train" else "val"),
    }
    try:
        found = kinds[format]()
    except (RuntimeError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        if download and format != "imagenet":
            raise UserError(
                f"{format} could not be fetched into {root} ({reason}): is the network there?"
            ) from None
        hint = "" if format == "imagenet" else "; data.download=true fetches it"
        raise UserError(f"{Path(root).absolute()} has no usable {format} ({reason}){hint}") from None
    if format == "imagenet":
        files, labels = zip(*found.samples, strict=True)
        names = tuple(c[0] for c in found.classes)
        return Samples([Path(f) for f in files], np.array(labels), names, _checking(expanded(root)))
    images, labels = found.data, getattr(found, "targets", getattr(found, "labels", None))
    if format in ("stl10", "svhn"):
        images = images.transpose(0, 2, 3, 1)
    names = tuple(getattr(found, "classes", None) or (str(d) for d in range(10)))
    return Samples(np.ascontiguousarray(images), np.asarray(labels, np.int64), names)


NO_LABEL = -100  # what torch's cross-entropy leaves out


def pictures_in(path: Path, say: Callable[[str], None] = print) -> Samples:
    """All pictures of a folder or .tar file, at any depth, without labels; those of its train/ where it has that.

    Without it, those in a val/ and a test/ are left out. Raises UserError for a path without pictures, and for an archive
    that is damaged.
    """
    names, read = _names(path, "expected a folder with pictures, which need no labels", say)
    kept = learnable(_parts(path, names))
    names = [n for n, keep in zip(names, kept, strict=True) if keep]
    if not names:
        raise UserError(f"{path.absolute()} holds no pictures: expected some, which need no labels")
    where = lambda name: f"{path}/{name}"  # noqa: E731 - for messages
    return Samples(names, np.full(len(names), NO_LABEL), (), read, where)


def _names(path: Path, expected: str, say: Callable[[str], None]) -> tuple[list[str], Callable[[str], Any]]:
    """Relative names of the pictures in a folder or .tar file, and what reads one."""
    try:
        found = path.exists()
    except OSError as error:  # a name longer than the file system allows, a folder without rights
        raise _unreadable(error, path) from None
    if not found:
        raise UserError(f"{path.absolute()}: no such file or folder; {expected}")
    if path.is_file():
        names, read = _archive(path, say)
    else:
        checked = _checking(path)
        names, read = _files(path), lambda name: checked(path / name)
    hidden = lambda name: any(p.startswith(".") or p == "__MACOSX" for p in name.split("/"))  # noqa: E731
    return [n for n in names if not hidden(n)], read


def _checking(folder: Path) -> Callable[[Path], Any]:
    """What reads a picture below the folder: its bytes, compared with the folder's SHA256SUMS, or the path where it has none."""
    sums = sums_in(folder)
    return (lambda file: file) if sums is None else sums.read


def _parts(path: Path, names: list[str]) -> list[list[str]]:
    """The names split at their folders, without the one folder that an archive may consist of."""
    parts = [n.split("/") for n in names]
    if path.is_file() and len({p[0] for p in parts}) == 1 and all(len(p) > 2 for p in parts):
        parts = [p[1:] for p in parts]
    return parts


def folder(path: Path, say: Callable[[str], None] = print) -> dict[str, Samples]:
    """The splits of a folder or .tar file: its train/, val/ and test/ with a sub-folder a class, or its classes alone (as train).

    Raises UserError for a path without such a layout, and for an archive that is damaged.
    """
    expected = "expected one sub-folder a class, below train/, val/ and test/ where there are splits"
    names, read = _names(path, expected, say)
    parts = _parts(path, names)
    if within := {p[1].lower() for p in parts if len(p) > 2 and split_named(p[1])}:
        if {split_named(s) for s in within} > {"train"} and not any(split_named(p[0]) for p in parts):
            raise UserError(
                f"{path.absolute()} has {' and '.join(sorted(within))} inside of the folders of classes: {expected}"
            )
    # pictures two levels below a folder named like a split make it one; otherwise a class may be called "test"
    has_splits = any(split_named(p[0]) and len(p) > 2 for p in parts)
    groups: dict[str, dict[str, list[str]]] = {}
    left_out = 0
    for name, p in zip(names, parts, strict=True):
        split, rest = (split_named(p[0]), p[1:]) if has_splits else ("train", p)
        if split and len(rest) > 1:
            groups.setdefault(split, {}).setdefault(rest[0], []).append(name)
        else:
            left_out += 1
    if not groups:
        raise UserError(f"{path.absolute()}: no pictures in folders of classes; {expected}")
    if left_out:
        say(
            f"data: {path}: {left_out} pictures outside of the folders of {'splits and ' * has_splits}classes are left out"
        )
    main = groups.get("train") or next(iter(groups.values()))
    classes = tuple(sorted(main))
    splits = {}
    for split in (s for s in SPLITS if s in groups):
        members = groups[split]
        other = sorted(set(members) - set(classes))
        if other:
            raise UserError(f"{path.absolute()}: {split} has a class {other[0]!r} that train does not have")
        entries = [(name, label) for label, c in enumerate(classes) for name in members.get(c, [])]
        where = lambda name: f"{path}/{name}"  # noqa: E731 - for messages
        labels = np.array([label for _, label in entries])
        splits[split] = Samples([name for name, _ in entries], labels, classes, read, where)
    return splits


def _files(path: Path) -> list[str]:
    """Pictures below a folder, links followed, as relative names in order.

    A link back to a folder that it lies in is not followed, as the pictures there have their names already. Raises
    UserError for a sub-folder that cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise _unreadable(error, path) from None

    found = []
    # folder -> the real ones that it was reached through
    above = {str(path): frozenset([os.path.realpath(path)])}
    for root, folders, names in os.walk(path, onerror=refuse, followlinks=True):
        through = above.pop(root)
        real = {name: os.path.realpath(os.path.join(root, name)) for name in folders}
        folders[:] = sorted(name for name in folders if real[name] not in through)
        above |= {os.path.join(root, name): through | {real[name]} for name in folders}
        here = Path(root).relative_to(path)
        found += [(here / n).as_posix() for n in names if Path(n).suffix.lower() in IMAGE_EXTENSIONS]
    return sorted(found)


def _unreadable(error: OSError, path: Path) -> UserError:
    return UserError(
        f"{error.filename or path}: cannot be read ({error.strerror or error}); check the path and its rights"
    )


def size_of(samples: Samples, entry: Any) -> tuple[int, int] | None:
    """Width and height from a picture's header; None where it has none that can be read."""
    from PIL import Image

    try:
        with opened(samples.read(entry)) as image:
            return image.size
    except (UserError, *DAMAGE, Image.DecompressionBombError):
        return None


def _archive(path: Path, say: Callable[[str], None]) -> tuple[list[str], Callable[[str], Any]]:
    """Names and reader of a .tar file, whose contents are kept in memory: nothing is written anywhere.

    Pictures that are links or devices there, or whose names lead out of the archive, are left out and counted.
    """
    contents: dict[str, bytes] = {}
    reading, left_out = "", 0
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isdir() or Path(member.name).suffix.lower() not in IMAGE_EXTENSIONS:
                    continue
                if member.isfile() and not member.name.startswith("/") and ".." not in member.name.split("/"):
                    reading = " in " + " ".join(member.name.split())[:120]
                    contents[member.name.removeprefix("./")] = archive.extractfile(member).read()
                    reading = ""
                else:
                    left_out += 1
            archive.fileobj.seek(archive.offset)
            if archive.fileobj.read(512) != bytes(
                512
            ):  # what ends every archive; tarfile itself does not miss it
                raise tarfile.ReadError("it ends too early")
    except _BROKEN as error:
        if _is_zip(path):
            raise UserError(
                f"{path.absolute()}: .zip archives are not supported: unpack it and name the folder, or make a .tar file "
                "of it (.tar.gz, .tar.bz2 and .tar.xz are read, too)"
            ) from None
        reason = (" ".join(str(error).split()) or type(error).__name__)[:120]
        raise UserError(
            f"{path.absolute()}: not a readable .tar file ({reason}{reading}): fetch it again"
        ) from None
    if left_out:
        what = "pictures that are links or devices, or whose names lead out of the archive"
        say(f"data: {path}: {left_out} {what}, are left out")
    return sorted(contents), lambda name: contents[name]


def _is_zip(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(4) in (
                b"PK\3\4",
                b"PK\5\6",
                b"PK\7\10",
            )  # of one with files, an empty one, one in parts
    except OSError:
        return False


def picture(samples: Samples, entry: Any) -> np.ndarray:
    """One sample's pixels (H, W, 3) uint8 RGB. Raises UserError naming it where it does not decode or fit its checksum."""
    found = samples.read(entry)
    return to_rgb(found, f"image {samples.name(entry)}" if isinstance(found, bytes) else None)
