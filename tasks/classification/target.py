"""Another domain for a classifier: unlabelled pictures from a folder, or scikit-learn's digits coloured on textures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from srrl.errors import UserError
from srrl.media import expanded
from srrl.task import Data

from .data import build_dataset, data_name, renumbered
from .dataset import MemoryImages
from .settings import FORMATS, ClassificationSettings
from .sources import NO_LABEL, Samples, folder, pictures_in, torchvision_set

PUBLISHED = [f for f in FORMATS if f not in ("digits", "folder")]


def target_domain(
    cfg: ClassificationSettings,
    source: Data,
    paths: dict[str, str | None],
    say: Callable[[str], None],
    *,
    evaluation: bool = False,
) -> Data:
    """See :meth:`srrl.task.Task.target_domain`. Raises UserError for paths without usable pictures."""
    _check_format(paths)
    if not any(paths[k] for k in ("train", "val", "test")):
        return _textured(cfg, source, say, evaluation)
    unlabelled = None
    if not evaluation:
        if not paths["train"]:
            raise UserError(
                "cross_domain.train is missing: a folder with pictures of the target, which need no labels"
            )
        samples = _pictures(paths["train"], paths["format"])
        unlabelled = build_dataset(cfg, samples, "train", say)
        say(f"data: target {paths['train']}: {len(unlabelled)} pictures without labels")
    sets: dict[str, Any] = {}
    for split in dict.fromkeys((cfg.score, "val")):
        if evaluation and sets:  # validation is scored where there is nothing else, as the run did
            break
        found = _labelled(paths, split, say)
        if found is not None:
            sets[split] = build_dataset(
                cfg, renumbered(found, tuple(cfg.data.classes), f"cross_domain.{split}"), split, say
            )
    name = data_name(Path(paths["train"] or paths["test"] or paths["val"]))
    return source.of_target(name, name, sets, unlabelled, say)


def _check_format(paths: dict[str, str | None]) -> None:
    """UserError for a format that is none, that has no path, or that has no such split."""
    format = paths["format"]
    known = ("folder", *PUBLISHED)
    if format is not None and format not in known:
        raise UserError(f"cross_domain.format={format} is not known: expected one of {', '.join(known)}")
    if format is not None and not any(paths[k] for k in ("train", "val", "test")):
        raise UserError(f"cross_domain.format={format} needs cross_domain.train, the folder that holds it")
    if format in PUBLISHED and paths["val"]:
        raise UserError(
            f"cross_domain.val: {format} has no validation pictures, only test ones: give a folder of your own pictures "
            "without cross_domain.format, or leave it out"
        )


def _pictures(path: str, format: str | None) -> Samples:
    """The pictures to train on, their labels taken away where they have some."""
    if format in PUBLISHED:
        samples = torchvision_set(format, path, "train", False)
        return replace(samples, labels=np.full(len(samples), NO_LABEL))
    return pictures_in(expanded(path))


def _labelled(paths: dict[str, str | None], split: str, say: Callable[[str], None]) -> Samples | None:
    """Labelled pictures of a split: those that its path names, else the part of that name beside the ones to train on."""
    own = paths[split]
    if paths["format"] in PUBLISHED:
        path = own or (paths["train"] if split == "test" else None)
        return torchvision_set(paths["format"], path, "test", False) if path else None
    if own:
        parts = folder(expanded(own), say)
        alone = list(parts) == ["train"] and own != paths["train"]  # folders of classes without splits
        if split not in parts and not alone:
            raise UserError(f"cross_domain.{split}={own} has no {split} pictures, only {', '.join(parts)}")
        return parts.get(split) or parts["train"]
    try:
        return folder(expanded(paths["train"] or ""), lambda text: None).get(split)
    except UserError:  # pictures without folders of classes, which is what they may be
        return None


def _textured(
    cfg: ClassificationSettings, source: Data, say: Callable[[str], None], evaluation: bool
) -> Data:
    """The digits' pictures in colour on textures: those to train on without their labels."""
    if cfg.data.format != "digits":
        raise UserError(
            "cross_domain.train is missing: the embedded target domain is one of the digits, not of "
            f"{cfg.data.format}"
        )
    made = {}
    for split, key in source.part_keys().items():
        data = getattr(source, split)
        if data is not None:
            images = textured(data.images, key)
            labels = torch.full_like(data.labels, NO_LABEL) if split == "train" else data.labels
            made[split] = MemoryImages(images, labels, cfg.seed, cfg.augment if split == "train" else None)
    if not evaluation:
        say(f"data: target: the digits coloured on textures, {len(made['train'])} of them without labels")
    details = {**source.details, "label": "textured digits"}
    return Data(
        None,
        made.get("val"),
        made["test"],
        "textured digits",
        source.protocol,
        cfg.image_size,
        details,
        made.get("train"),
    )


def textured(images: torch.Tensor, key: int) -> torch.Tensor:
    """White-on-black pictures (N, 3, S, S) uint8 as coloured strokes on coloured textures; picture i depends on (key, i).

    The texture is smoothed noise between two colours; the stroke's colour is brighter than their mean by 0.3 of the range
    or more. (Dark strokes would be beyond what a teacher of white ones can know.)
    """
    found = []
    for i, image in enumerate(images.numpy()):
        rng = np.random.default_rng([key, i, 0x7E87])
        side = image.shape[-1]
        grain = int(rng.integers(3, 9))
        noise = cv2.resize(rng.random((grain, grain)), (side, side), interpolation=cv2.INTER_CUBIC).clip(0, 1)
        low, high = rng.uniform(0, 1, (2, 3))
        middle = rng.uniform(0.2, 0.4)
        low, high = (middle + 0.35 * (c - c.mean()) + rng.uniform(-0.15, 0.15) for c in (low, high))
        ground = low + noise[..., None] * (high - low)
        ink = rng.uniform(0, 1, 3)
        ink = middle + 0.45 + 0.35 * (ink - ink.mean())
        stroke = image[0][..., None] / 255.0
        picture = ground * (1 - stroke) + ink * stroke + rng.normal(0, 0.03, (side, side, 3))
        found.append((picture.clip(0, 1) * 255).round().astype(np.uint8).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(found))
