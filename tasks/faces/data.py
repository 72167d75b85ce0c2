"""From paths (or the embedded generator) to the three data sets of a faces run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from srrl.errors import UserError
from srrl.media import expanded
from srrl.task import Data

from . import synthetic
from .augment import Augment
from .dataset import FaceDataset
from .readers import detect, has_split, read
from .records import Records, verify_images
from .schemes import Scheme, scheme_for
from .settings import FacesSettings

OWN_SPLITS = {
    "wflw": "test",
    "300w": "full",
    "cofw": "test",
    "aflw": "test",
}  # test split of formats that define one


def prepare(cfg: FacesSettings, say: Callable[[str], None], *, evaluation: bool = False) -> Data:
    """The data sets of ``cfg``; only the test set where ``evaluation``. Raises UserError for anything unusable."""
    d = cfg.data
    own = not (d.train or d.val or d.test)
    if own:
        splits, name, scored = _synthetic_splits(cfg, say, evaluation), "synthetic", cfg.score
    else:
        splits, name, scored = _read_splits(cfg, say, evaluation)
    scheme = scheme_for(len(splits["test"][0].points))
    if evaluation and scheme.n_points != cfg.data.n_points:
        raise UserError(
            f"{name} has {scheme.n_points} points a face, the models of this run predict {cfg.data.n_points}"
        )
    cfg.data.n_points = scheme.n_points
    sets = {}
    for split, records in splits.items():
        verified = records if own else verify_images(records, on_error=d.on_error)
        if split != "train":
            verified = measurable(verified, scheme, cfg.normaliser, d.on_error)
        for note in records.notes:
            say(f"data: {split}: {note}")
        sets[split] = build_dataset(cfg, verified, scheme, train=split == "train")
        skipped = [*verified.skipped, *sets[split].skipped]
        if skipped:
            say(f"data: {split}: {len(skipped)} faces skipped; the first: {skipped[0]}")
    details = {
        "n_points": scheme.n_points,
        "split": scored,
        "faces": {k: len(v) for k, v in sets.items()},
        "label": "synthetic faces" if own or synthetic.is_export(d.test or d.train) else "photographs",
    }
    say(
        "data: "
        + name
        + ", "
        + ", ".join(f"{k} {n} faces" for k, n in details["faces"].items())
        + f", {scheme.n_points} points"
    )
    return Data(
        sets.get("train"), sets.get("val"), sets["test"], name, protocol(d.box), cfg.image_size, details
    )


def measurable(records: Records, scheme: Scheme, normaliser: str | None, on_error: str) -> Records:
    """The records whose errors can be divided by the normaliser, which an unlabelled eye corner prevents.

    Raises UserError naming the first other one, or leaves them out and lists them where ``on_error`` is skip.
    """
    rects = np.array([r.rect for r in records]) if all(r.rect is not None for r in records) else None
    lengths = scheme.normaliser(np.stack([r.points for r in records]), normaliser, rects)
    good = np.isfinite(lengths) & (lengths > 0)
    if good.all():
        return records
    name = normaliser or scheme.default_normaliser
    reasons = [
        f"{records[i].name}: its points give no length for normaliser={name}" for i in np.flatnonzero(~good)
    ]
    if on_error != "skip" or not good.any():
        raise UserError(
            f"{reasons[0]} ({len(reasons)} such faces): correct it, choose another normaliser, or data.on_error=skip"
        )
    kept = [record for record, usable in zip(records, good, strict=True) if usable]
    return Records(kept, records.format, records.split, [*records.skipped, *reasons], records.notes)


def protocol(box: str) -> str:
    """The name of the evaluation protocol in results: how the crop was found."""
    return {"landmark": "landmark-box", "given": "given-box", "detector": "detector"}[box]


def build_dataset(cfg: FacesSettings, records: Records, scheme: Scheme, *, train: bool) -> FaceDataset:
    """Crops of the records as the run wants them. Training always crops around the landmarks, then jitters."""
    d = cfg.data
    box = "landmark" if train or d.box == "landmark" else "given"
    if not train and d.box == "detector":
        from .detect import detected_records

        records = detected_records(records)
        if all(r.undetected for r in records):
            raise UserError(
                f"the detector finds none of {len(records)} faces: use data.box=landmark or given, or other pictures"
            )
    augment = Augment(cfg.augment) if train and cfg.augment.enabled else None
    return FaceDataset(
        records,
        scheme,
        cfg.image_size,
        box=box,
        scale=d.scale,
        augment=augment,
        seed=cfg.seed,
        on_error=d.on_error,
    )


def read_for_evaluation(path: str, format: str | None, on_error: str) -> tuple[Records, str]:
    """Everything at ``path``, or its test split where it has one; and which of the two (``all``)."""
    found = format or detect(path)
    split = OWN_SPLITS.get(found, "test")
    split = split if has_split(path, found, split) else None
    return read(path, found, split, on_error=on_error), split or "all"


def _synthetic_splits(cfg: FacesSettings, say: Callable[[str], None], evaluation: bool) -> dict[str, Records]:
    cache = Path(cfg.data.cache_dir) if cfg.data.cache_dir else None
    if cfg.data.n_points not in (68, 98):
        raise UserError(f"data.n_points={cfg.data.n_points}: the synthetic faces have 68 or 98 points")
    splits = {}
    for split in (cfg.score,) if evaluation else dict.fromkeys(("train", "val", cfg.score)):
        folder = synthetic.ensure(cfg.data.synthetic, split, cache_dir=cache)
        if split == cfg.score:
            say(
                f"data: synthetic faces in {Path(folder).parent if Path(folder).name in ('train', 'val', 'test') else folder}"
            )
        splits[split] = Records(
            synthetic.records(cfg.data.synthetic, split, cfg.data.n_points, cache_dir=cache)
        )
    scored = splits[cfg.score]
    return {"test": scored} if evaluation else {**splits, "test": scored}


def _read_splits(
    cfg: FacesSettings, say: Callable[[str], None], evaluation: bool
) -> tuple[dict[str, Records], str, str]:
    """The splits, the data set's name, and which split the reported figures are of: val where there is no test."""
    d = cfg.data
    if evaluation and not d.train:
        records, split = read_for_evaluation(d.test, d.format, d.on_error)
        return {"test": records}, data_name(d.test), split
    if not d.train:
        raise UserError("data.train is missing: give the folder or file with the training faces")
    found = d.format or detect(d.train)
    splits = {"train": read(d.train, found, "train", on_error=d.on_error)}
    if d.val:
        split = "val" if expanded(d.val).is_dir() else None
        splits["val"] = read(d.val, d.format, split, on_error=d.on_error)
    elif has_split(d.train, found, "val"):
        splits["val"] = read(d.train, found, "val", on_error=d.on_error)
    else:
        splits["train"], splits["val"] = cut_validation(splits["train"], d.val_fraction, d.split_seed)
        say(f"data: no data.val given: {len(splits['val'])} faces of train are set aside for it")
    if cfg.score == "val":
        splits["test"] = splits["val"]
        say(
            "data: score=val: the final figures are those of the validation split, which also chose the epoch"
        )
    elif d.test:
        test_format = d.format or detect(d.test)
        splits["test"] = read(
            d.test,
            test_format,
            OWN_SPLITS.get(test_format, "test") if expanded(d.test).is_dir() else None,
            on_error=d.on_error,
        )
    elif has_split(d.train, found, OWN_SPLITS.get(found, "test")):
        splits["test"] = read(d.train, found, OWN_SPLITS.get(found, "test"), on_error=d.on_error)
    else:
        splits["test"] = splits["val"]
        say(
            "data: no data.test given: the final figures are those of the validation split, which also chose the epoch"
        )
    if d.n_train:
        splits["train"] = few(splits["train"], d.n_train, d.split_seed)
    counts = {k: len(v[0].points) for k, v in splits.items()}
    if len(set(counts.values())) > 1:
        raise UserError(
            "the splits have different numbers of points: " + ", ".join(f"{k} {n}" for k, n in counts.items())
        )
    scored = "val" if splits["test"] is splits["val"] else "test"
    return {"test": splits["test"]} if evaluation else splits, data_name(d.train), scored


def few(records: Records, count: int, seed: int) -> Records:
    """``count`` of the records, drawn with ``seed``; a smaller count's are among them. UserError where there are fewer."""
    if count > len(records):
        raise UserError(f"data.n_train={count}: there are {len(records)} faces to train on")
    order = np.random.default_rng([seed, 0xFE3]).permutation(len(records))
    kept = [records[i] for i in sorted(order[:count])]
    return Records(kept, records.format, records.split, records.skipped, records.notes)


def cut_validation(records: Records, fraction: float, seed: int) -> tuple[Records, Records]:
    """(train, val): whole images go to one side, so that faces of one picture are never in both."""
    groups: dict[object, list] = {}
    for record in records:
        groups.setdefault(record.image or record.name, []).append(record)
    if len(groups) < 2:
        raise UserError("one image is not enough to train and to validate: give data.val")
    keys = list(groups)
    order = np.random.default_rng([seed, 0xDA7A]).permutation(len(keys))
    count = min(max(1, round(fraction * len(keys))), len(keys) - 1)
    chosen = {keys[i] for i in order[:count]}
    parts = (
        [r for k in keys if k not in chosen for r in groups[k]],
        [r for k in keys if k in chosen for r in groups[k]],
    )
    return (
        Records(parts[0], records.format, "train", records.skipped, records.notes),
        Records(parts[1], records.format, "val"),
    )


def data_name(path: str) -> str:
    """A data set's name for results: the folder, less a split's own name."""
    p = Path(path).resolve()
    return p.parent.name if p.name in ("train", "val", "test") else p.stem
