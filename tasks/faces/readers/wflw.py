"""Reader of WFLW lists: 98 points, a rectangle, six bits and an image a line (Wu et al., CVPR 2018)."""

from __future__ import annotations

from pathlib import Path

from srrl.errors import UserError

from ..records import FaceRecord
from .common import ImageFinder, Issues, checked, number_faces, numbers, read_lines

ATTRIBUTES = ("pose", "expression", "illumination", "make-up", "occlusion", "blur")
LIST_FOLDER = "list_98pt_rect_attr_train_test"
LIST_NAME = "list_98pt_rect_attr_{}.txt"
N_TOKENS = 2 * 98 + 4 + len(ATTRIBUTES) + 1


def read(path: Path, split: str | None, issues: Issues) -> list[FaceRecord]:
    """Faces of a split (train then test for None), or of the list file `path` whatever the split.

    The subsets of a face are the names of its attribute bits that are 1.
    """
    if path.is_file():
        lists, near = [path], list(path.resolve().parents)[:4]
    else:
        wanted = [split] if split else ["train", "test"]
        lists = [found for name in wanted if (found := find_list(path, name))]
        if not lists or (split and len(lists) != len(wanted)):
            raise UserError(
                f"{path.resolve()}: {LIST_NAME.format(split or '{train,test}')} not found; {issues.layout}"
            )
        near = [path, path.resolve().parent]
    finder = ImageFinder([folder / "WFLW_images" for folder in near] + near[:1])
    records = []
    for file in lists:
        for number, line in read_lines(file):
            if line.strip():
                try:
                    records.append(parse_line(line, f"{file} line {number}", finder))
                except UserError as error:
                    issues.bad(str(error))
    return number_faces(records)


def find_list(root: Path, split: str) -> Path | None:
    """The list file of a split below the root folder, as unpacked from the official archives, or None."""
    name = LIST_NAME.format(split)
    folders = ("WFLW_annotations/" + LIST_FOLDER, LIST_FOLDER, "WFLW_annotations", ".")
    return next((root / folder / name for folder in folders if (root / folder / name).is_file()), None)


def parse_line(line: str, where: str, finder: ImageFinder) -> FaceRecord:
    """One line of a list. Raises UserError that begins with `where`."""
    tokens = line.split(maxsplit=N_TOKENS - 1)
    if len(tokens) != N_TOKENS:
        raise UserError(
            f"{where}: {len(tokens)} values, expected {N_TOKENS} "
            "(98 x y, xmin ymin xmax ymax, 6 attributes, image); correct or remove the line"
        )
    values = numbers(tokens[:-1], where)
    bits = values[200:]
    if not ((bits == 0) | (bits == 1)).all():
        raise UserError(
            f"{where}: attributes {bits.tolist()}, expected six values of 0 or 1; correct the line"
        )
    attributes = {name: int(bit) for name, bit in zip(ATTRIBUTES, bits, strict=True)}
    name = tokens[-1].strip()
    record = FaceRecord(
        name,
        values[:196].reshape(98, 2),
        image=finder.find(name, where),
        rect=tuple(values[196:200].tolist()),
        attributes=attributes,
        subsets=tuple(name for name, bit in attributes.items() if bit),
    )
    return checked(record, where)
