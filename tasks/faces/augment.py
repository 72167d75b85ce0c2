"""Augmentation of face crops: geometry as parameters of the crop, everything else through albumentations.

This is the one module that imports albumentations, and only when an `Augment` is built.
"""

from __future__ import annotations

import math
import os
import random
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from srrl.errors import UserError

from .crop import Crop


class AugmentConfig(BaseModel):
    """What happens to a training crop. Probabilities are per sample and per group; the defaults suit 128 px crops."""

    model_config = ConfigDict(extra="forbid")

    enabled: bool = True
    strength: float = Field(1.0, ge=0, le=2, description="multiplies all but the flip's probability")
    rotation: float = Field(30.0, ge=0, le=180, description="degrees either way")
    scale: float = Field(0.25, ge=0, lt=1, description="the face grows or shrinks by up to this part")
    shift: float = Field(0.06, ge=0, le=0.5, description="parts of the crop's side either way, x and y alone")
    flip: float = Field(0.5, ge=0, le=1, description="probability of mirroring")
    light: float = Field(0.7, ge=0, le=1, description="brightness, contrast, gamma or a gradient of light")
    colour: float = Field(0.5, ge=0, le=1, description="hue and saturation, or a shift of the channels")
    grey: float = Field(0.1, ge=0, le=1, description="probability of a grey picture")
    blur: float = Field(0.25, ge=0, le=1, description="Gaussian or motion blur, or lost resolution")
    noise: float = Field(0.2, ge=0, le=1, description="sensor noise")
    jpeg: float = Field(0.2, ge=0, le=1, description="JPEG compression")
    occlusion: float = Field(0.35, ge=0, le=1, description="patches of one colour or of noise over the face")


def jitter(crop: Crop, rng: np.random.Generator, cfg: AugmentConfig) -> Crop:
    """A crop turned, scaled, shifted and perhaps mirrored at random; there is still one interpolation only.

    Always draws the same number of values from `rng`, so that a setting does not disturb the other draws.
    """
    turn, grow, dx, dy = rng.uniform(-1, 1, size=4) * cfg.strength
    mirrored = rng.random() < cfg.flip
    side = crop.side * (1 + cfg.scale) ** grow  # a ratio, so growing and shrinking are equally likely
    center = (crop.center[0] + dx * cfg.shift * crop.side, crop.center[1] + dy * cfg.shift * crop.side)
    return replace(
        crop, center=center, side=side, angle=crop.angle + turn * cfg.rotation, flip=crop.flip != mirrored
    )


class Augment:
    """The random changes of `AugmentConfig`, each a function of the generator handed in and of nothing else."""

    def __init__(self, config: AugmentConfig | None = None) -> None:
        """Raises UserError when albumentations is missing."""
        self.config = config or AugmentConfig()
        self._pipeline = _build(self.config) if self.config.enabled else None

    def __reduce__(self) -> tuple:
        return Augment, (self.config,)  # worker processes build their own pipeline

    def jitter(self, crop: Crop, rng: np.random.Generator) -> Crop:
        """The crop with random geometry; as it came when switched off."""
        return jitter(crop, rng, self.config) if self.config.enabled else crop

    def photometric(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(S, S, 3) uint8 RGB -> the same shape with changed light, colour, sharpness, noise and occluding patches.

        No pixel moves, so landmarks stay where they are.
        """
        if self._pipeline is None:
            return image
        seed = int(rng.integers(2**63))
        self._pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        return self._pipeline(image=image)["image"]


def _albumentations() -> Any:
    # Otherwise the import asks the network for a newer version.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    try:
        import albumentations
    except ImportError as error:
        raise UserError(
            f"augmentation needs the package albumentations ({error}): install it with "
            "`pip install albumentations==2.0.8`, or switch augmentation off"
        ) from error
    return albumentations


def _low_resolution(A: Any, least: float) -> Any:
    """A transform that shrinks a picture to `least` ... 0.8 of its side and enlarges it again.

    albumentations' Downscale rounds the small picture's size but not the factor it shrinks by, which stretches the
    picture by up to one pixel.
    """

    class LowResolution(A.ImageOnlyTransform):
        def get_params(self) -> dict[str, float]:
            return {"factor": self.py_random.uniform(least, 0.8)}

        def apply(self, img: np.ndarray, factor: float, **_: Any) -> np.ndarray:
            height, width = img.shape[:2]
            small = (max(1, round(width * factor)), max(1, round(height * factor)))
            small = cv2.resize(img, small, interpolation=cv2.INTER_AREA)
            return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)

    return LowResolution(p=1)


def _build(cfg: AugmentConfig) -> Any:
    """The photometric pipeline; nothing in it moves a pixel."""
    A = _albumentations()
    k = cfg.strength

    def p(probability: float) -> float:
        return min(1.0, probability * k)

    def odd(limit: float) -> int:
        """An odd kernel size of at least 3."""
        return max(3, 2 * math.ceil((limit - 1) / 2) + 1)

    light = [
        A.RandomBrightnessContrast(brightness_limit=0.3 * k, contrast_limit=0.35 * k, p=1),
        A.RandomGamma(gamma_limit=(100 / (1 + 0.6 * k), 100 * (1 + 0.6 * k)), p=0.6),
        A.Illumination(mode="linear", intensity_range=(0.05, min(0.2, 0.05 + 0.15 * k)), p=0.5),
    ]
    colour = [
        A.HueSaturationValue(hue_shift_limit=12 * k, sat_shift_limit=40 * k, val_shift_limit=15 * k, p=1),
        A.RGBShift(r_shift_limit=25 * k, g_shift_limit=25 * k, b_shift_limit=25 * k, p=1),
    ]
    blur = [
        A.GaussianBlur(blur_limit=0, sigma_limit=(0.4, 0.4 + 1.4 * k), p=1),
        # Its default direction_range smears to one side, which moves the face by up to 1.5 pixels.
        A.MotionBlur(blur_limit=(3, odd(7 * k)), allow_shifted=False, direction_range=(0, 0), p=0.7),
        _low_resolution(A, max(0.2, 0.7 - 0.35 * k)),
    ]
    noise = [
        A.GaussNoise(std_range=(0.01, 0.01 + 0.06 * k), p=1),
        A.GaussNoise(std_range=(0.01, 0.01 + 0.06 * k), per_channel=False, p=1),
    ]
    part = (0.08, min(0.9, 0.08 + 0.27 * k))  # of the crop's side
    holes = {"hole_height_range": part, "hole_width_range": part}
    occlusion = [
        A.CoarseDropout(num_holes_range=(1, 2), fill="random_uniform", p=1.0, **holes),
        A.CoarseDropout(num_holes_range=(1, 2), fill="random", p=0.3, **holes),
    ]
    steps = [
        A.OneOf(light, p=p(cfg.light)),
        A.OneOf(colour, p=p(cfg.colour)),
        A.ToGray(p=p(cfg.grey)),
        A.OneOf(occlusion, p=p(cfg.occlusion)),  # before blur and noise: a camera takes the hand as well
        A.OneOf(blur, p=p(cfg.blur)),
        A.OneOf(noise, p=p(cfg.noise)),
        A.ImageCompression(quality_range=(max(10, int(90 - 55 * k)), 95), p=p(cfg.jpeg)),
    ]
    return A.Compose(steps)
