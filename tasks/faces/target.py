"""Another domain for landmarks: unlabelled photographs, or the synthetic faces through a hard camera."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

import cv2
import numpy as np

from srrl.errors import UserError
from srrl.media import expanded, learnable
from srrl.sums import sums_in
from srrl.task import Data

from .data import build_dataset, data_name, measurable
from .dataset import FaceDataset
from .detect import FaceDetector
from .readers import detect, has_split, read
from .records import IMAGE_EXTENSIONS, FaceRecord, Records, decode_image, read_bytes, verify_images
from .schemes import Scheme, scheme_for
from .settings import FacesSettings


def target_domain(
    cfg: FacesSettings,
    source: Data,
    paths: dict[str, str | None],
    say: Callable[[str], None],
    *,
    evaluation: bool = False,
) -> Data:
    """See :meth:`srrl.task.Task.target_domain`. Raises UserError for paths without usable pictures or faces."""
    scheme = scheme_for(cfg.data.n_points)
    if not any(paths[k] for k in ("train", "val", "test")):
        return _hard_camera(cfg, source, scheme, say, evaluation)
    unlabelled = None
    if not evaluation:
        if not paths["train"]:
            raise UserError(
                "cross_domain.train is missing: a folder with photographs of the target, which need no labels"
            )
        unlabelled = _unlabelled(cfg, found_faces(expanded(paths["train"]), scheme, cfg, say), scheme)
    sets: dict[str, FaceDataset] = {}
    for split in dict.fromkeys((cfg.score, "val")):
        if evaluation and sets:  # validation is scored where there is nothing else, as the run did
            break
        records = _labelled(paths, split, cfg)
        if records is not None:
            if len(records[0].points) != scheme.n_points:
                raise UserError(
                    f"cross_domain.{split} has {len(records[0].points)} points a face, the source {scheme.n_points}"
                )
            verified = verify_images(records, on_error=cfg.data.on_error)
            verified = measurable(verified, scheme, cfg.normaliser, cfg.data.on_error)
            sets[split] = build_dataset(cfg, verified, scheme, train=False)
            say(f"data: target: {split} {len(sets[split])} labelled faces")
    name = data_name(paths["train"] or paths["test"] or paths["val"])
    label = "photographs" if sets else source.details["label"]
    return source.of_target(name, label, sets, unlabelled, say)


def found_faces(path: Path, scheme: Scheme, cfg: FacesSettings, say: Callable[[str], None]) -> Records:
    """The largest face that the detector finds in each picture below a folder: in its train/ where it has that.

    Pictures in a val/ or a test/ are left out. Points are NaN. Raises UserError for a folder without pictures, and where no face is found.
    """
    if not path.is_dir():
        raise UserError(f"cross_domain.train={path} is no folder: expected one with photographs")
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_EXTENSIONS)
    kept = learnable([file.relative_to(path).parts for file in files])
    files = [file for file, keep in zip(files, kept, strict=True) if keep]
    if not files:
        raise UserError(f"{path.absolute()} holds no pictures: expected some, which need no labels")
    skip, sums = cfg.data.on_error == "skip", sums_in(path)

    def look(chunk: list[Path]) -> list[tuple[float, float, float, float] | None]:
        detector = FaceDetector()  # one for each thread: an instance lets one through at a time
        found = []
        for file in chunk:
            try:
                rects = detector.detect(decode_image(read_bytes(file, sums), file))
            except UserError:
                if not skip:
                    raise
                rects = []
            found.append(rects[0] if rects else None)
        return found

    chunks = [files[i : i + 64] for i in range(0, len(files), 64)]
    with ThreadPool(os.cpu_count()) as pool:
        rects = [rect for found in pool.map(look, chunks, chunksize=1) for rect in found]
    points = np.full((scheme.n_points, 2), np.nan)
    records = [
        FaceRecord(name=str(file.relative_to(path)), points=points, image=file, crop_rect=rect, sums=sums)
        for file, rect in zip(files, rects, strict=True)
        if rect is not None
    ]
    if not records:
        raise UserError(f"the detector finds no face in the {len(files)} pictures of {path.absolute()}")
    say(f"data: target {path}: {len(files)} pictures without labels, a face found in {len(records)}")
    return Records(records)


def _unlabelled(cfg: FacesSettings, records: Records, scheme: Scheme) -> FaceDataset:
    """Training crops by the found or given rectangles, with the run's augmentation."""
    from .augment import Augment

    augment = Augment(cfg.augment) if cfg.augment.enabled else None
    return FaceDataset(
        records, scheme, cfg.image_size, box="given", scale=cfg.data.scale, augment=augment, seed=cfg.seed
    )


def _labelled(paths: dict[str, str | None], split: str, cfg: FacesSettings) -> Records | None:
    """Labelled faces of a split: those that its path names, else the part of that name beside the ones to train on."""
    if paths[split]:
        part = split if expanded(paths[split]).is_dir() else None
        return read(paths[split], paths["format"], part, on_error=cfg.data.on_error)
    if not paths["train"]:
        return None
    try:
        format = paths["format"] or detect(paths["train"])
    except UserError:  # photographs without annotations, which is what they may be
        return None
    if not has_split(paths["train"], format, split):
        return None
    return read(paths["train"], format, split, on_error=cfg.data.on_error)


def _hard_camera(
    cfg: FacesSettings, source: Data, scheme: Scheme, say: Callable[[str], None], evaluation: bool
) -> Data:
    """The source's own faces as a bad camera in bad light takes them: those to train on without their points."""
    if source.name != "synthetic":
        raise UserError(
            "cross_domain.train is missing: a folder with photographs of the target, which need no labels (the embedded "
            "target goes with the embedded synthetic faces alone)"
        )
    made = {}
    for split, key in source.part_keys().items():
        data = getattr(source, split)
        if data is None:
            continue
        records = [
            replace(record, pixels=partial(_taken, record, key, i), image=None)
            for i, record in enumerate(data.records)
        ]
        if split == "train":
            blank = np.full((scheme.n_points, 2), np.nan)
            records = [replace(r, points=blank, subsets=(), visible=None) for r in records]
            made[split] = _unlabelled(cfg, Records(records), scheme)
        else:
            made[split] = build_dataset(cfg, Records(records), scheme, train=False)
    if not evaluation:
        say(f"data: target: the faces through a hard camera, {len(made['train'])} of them without labels")
    details = {**source.details, "label": "the same through a hard camera"}
    return Data(
        None,
        made.get("val"),
        made["test"],
        "hard camera",
        source.protocol,
        cfg.image_size,
        details,
        made.get("train"),
    )


def _taken(record: FaceRecord, split: int, index: int) -> np.ndarray:
    return hard_camera(record.load(), np.random.default_rng([split, index, 0xCA3]))


def hard_camera(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8 RGB as a cheap camera takes it by night: too little light, motion or lost focus, few pixels, noise, JPEG.

    No pixel moves, on average: what lay at a place still does.
    """
    height, width = image.shape[:2]
    light = (image / 255.0) ** rng.uniform(1.2, 2.2) * rng.uniform(
        0.25, 0.6
    )  # darker, and shadows most of all
    light *= rng.uniform(0.75, 1.0, 3)  # a colour cast
    factor = rng.uniform(0.22, 0.45)
    small = (max(8, round(width * factor)), max(8, round(height * factor)))
    light = cv2.GaussianBlur(light, (0, 0), rng.uniform(0.6, 1.6))
    light = cv2.resize(light, small, interpolation=cv2.INTER_AREA)
    light += rng.normal(0, rng.uniform(0.01, 0.035), light.shape)  # the sensor's, of its own pixels
    gain = rng.uniform(1.0, 1.6)
    coded = cv2.imencode(
        ".jpg",
        (np.clip(light * gain, 0, 1) * 255).round().astype(np.uint8)[..., ::-1],
        [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 60))],
    )[1]
    decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1]
    return np.ascontiguousarray(cv2.resize(decoded, (width, height), interpolation=cv2.INTER_LINEAR))
