"""Reader of COCO-style keypoint JSON, as MMPose's converters write it for faces."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from srrl.errors import UserError

from ..records import FaceRecord
from .common import ImageFinder, Issues, checked, files_of_split, number_faces, read_text

# `scale` is the side of the box in units of 200 pixels (MPII, MMPose).
PIXELS_PER_SCALE = 200.0


def read(path: Path, split: str | None, issues: Issues) -> list[FaceRecord]:
    """Faces of a file, or of the files of a folder that belong to `split`; crowds are left out and noted.

    v = 0 is unlabelled (NaN), v = 1 labelled but not visible, v = 2 visible.
    """
    records = []
    for file in files_of_split(path, ".json", split, issues.layout):
        records += _read_file(file, issues)
    return number_faces(records)


def _read_file(file: Path, issues: Issues) -> list[FaceRecord]:
    content = _parse(file, issues)
    images = {
        image["id"]: image.get("file_name")
        for image in content["images"]
        if isinstance(image, dict) and _is_id(image.get("id"))
    }
    near = [file.parent, file.parent.parent]
    finder = ImageFinder([f for d in near for f in (d / "images", d)] + [file.with_suffix("")])
    records, crowds = [], 0
    for position, annotation in enumerate(content["annotations"]):
        where = f"{file} annotations[{position}]"
        try:
            if not isinstance(annotation, dict):
                raise UserError(f"{where}: not an object; expected image_id, keypoints and bbox")
            if annotation.get("iscrowd") or annotation.get("is_crowd"):
                crowds += 1
            else:
                records.append(_record(annotation, where, images, finder))
        except UserError as error:
            issues.bad(str(error))
    if crowds:
        issues.notes.append(f"{file}: {crowds} crowd annotations were left out")
    return records


def _parse(file: Path, issues: Issues) -> dict:
    try:
        content = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise UserError(f"{file} line {error.lineno}: not JSON ({error.msg}); correct the file") from None
    except RecursionError:
        raise UserError(
            f"{file}: lists or objects too deep in each other to be read; expected the layout of COCO, "
            "correct the file"
        ) from None
    except ValueError:  # Python's own limit of digits
        raise UserError(
            f"{file}: a whole number has more digits than can be read; correct or remove it"
        ) from None
    lists = content if isinstance(content, dict) else {}
    if not all(isinstance(lists.get(key), list) for key in ("images", "annotations")):
        raise UserError(f"{file}: no lists 'images' and 'annotations' inside; {issues.layout}")
    return content


def _is_id(value: object) -> bool:
    """True for what can name an image: a number or a text."""
    return isinstance(value, (int, float, str))


def _record(annotation: dict, where: str, images: dict, finder: ImageFinder) -> FaceRecord:
    key = annotation.get("image_id")
    if not _is_id(key):
        raise UserError(f"{where}: image_id is no number or text; correct it")
    name = images.get(key)
    if not isinstance(name, str) or not name:
        raise UserError(f"{where}: image_id {str(key)[:40]!r} names no entry of 'images'; correct it")
    keypoints = _floats(annotation.get("keypoints"), where, "keypoints")
    if not len(keypoints) or len(keypoints) % 3:
        raise UserError(
            f"{where}: {len(keypoints)} values in keypoints, expected x, y, v for each point; correct it"
        )
    keypoints = keypoints.reshape(-1, 3)
    points, v = keypoints[:, :2].copy(), keypoints[:, 2]
    bad = (v > 0) & ~np.isfinite(points).all(axis=1)
    if bad.any():
        raise UserError(
            f"{where}: point {int(bad.argmax())} is labelled but not finite; correct it or set its v to 0"
        )
    points[~(v > 0)] = np.nan
    record = FaceRecord(
        name, points, image=finder.find(name, where), rect=_rect(annotation, where), visible=v >= 2
    )
    return checked(record, where)


def _rect(annotation: dict, where: str) -> tuple[float, float, float, float] | None:
    """The box as corners: from bbox (x y w h), else from center and scale, else None."""
    if annotation.get("bbox") is not None:
        box = _floats(annotation["bbox"], where, "bbox")
        if len(box) != 4:
            raise UserError(f"{where}: bbox has {len(box)} values, expected x, y, width, height; correct it")
        x, y, w, h = box.tolist()
        return x, y, x + w, y + h
    if annotation.get("center") is None or annotation.get("scale") is None:
        return None
    center = _floats(annotation["center"], where, "center")
    scale = annotation["scale"]
    scale = _floats(scale if isinstance(scale, list) else [scale], where, "scale")
    if len(center) != 2 or len(scale) not in (1, 2):
        raise UserError(f"{where}: expected center as x, y and scale as one or two numbers; correct them")
    half = np.broadcast_to(scale * (PIXELS_PER_SCALE / 2), 2)
    return (*(center - half).tolist(), *(center + half).tolist())


def _floats(values: object, where: str, key: str) -> np.ndarray:
    """A JSON list of numbers as float64 (null becomes NaN)."""
    try:
        array = np.array(values if isinstance(values, list) else None, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):  # the last for a whole number above 1e308
        array = np.empty((0, 0))
    if array.ndim != 1:
        raise UserError(f"{where}: {key} is not a list of numbers; correct it")
    return array
