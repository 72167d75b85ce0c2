"""Settings of the faces task and their defaults: the pair sized for two cores."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from srrl.config import DataSettings, OptimSettings, RunSettings, StudentSettings, TeacherSettings
from srrl.distillers.base import LARGEST, LONGEST, MethodSettings

from .augment import AugmentConfig
from .synthetic import SyntheticSettings


class FacesData(DataSettings):
    """``train``/``val``/``test``: a path a reader knows, or nothing for the embedded synthetic faces."""

    n_points: Literal[19, 29, 68, 98] = Field(
        68, description="of the synthetic faces; real data says its own"
    )
    box: Literal["landmark", "given", "detector"] = Field(
        "landmark", description="what the crop is made from at evaluation"
    )
    scale: float = Field(1.25, gt=0, le=100, description="side of the crop over the longer side of the box")
    val_fraction: float = Field(
        0.1, gt=0, lt=1, description="cut from train where no val is given, whole images at a time"
    )
    n_train: int | None = Field(
        None,
        ge=1,
        le=10**9,
        description="labelled faces kept of train, for training on few labels; None: all",
    )
    synthetic: SyntheticSettings = SyntheticSettings()
    cache_dir: str | None = None


# the channels of its layers, each of which doubles the side of the map
Decoder = Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(max_length=8)]


class FacesTeacher(TeacherSettings):
    """Backbone ``arch`` (resnet10|18|34|50 with ``width`` channels in the first stage, timm/…, torchvision/…) and decoder."""

    arch: str = "resnet18"
    width: int = Field(20, ge=4, le=1024)
    decoder: Decoder = [64, 48, 48]


class FacesStudent(StudentSettings):
    """As the teacher's."""

    arch: str = "resnet10"
    width: int = Field(8, ge=4, le=1024)
    decoder: Decoder = [32, 24, 24]


def _said(weight: str) -> str | None:
    return MethodSettings.model_fields[weight].description


class FacesSettings(RunSettings):
    """Everything a faces run needs."""

    task: str = "faces"
    # chosen on validation photographs (results/faces.md); the paper gives none for heatmaps, whose losses are sums while L_FM is a
    # mean over channels and pixels
    alpha: float = Field(300.0, ge=0, le=LARGEST, description=_said("alpha"))
    added_kd: float = Field(2.0, ge=0, le=LARGEST, description=_said("added_kd"))
    kd_weight: float = Field(4.0, ge=0, le=LARGEST, description=_said("kd_weight"))
    epochs: int = Field(4, ge=1, le=LONGEST)
    batch_size: int = Field(16, ge=1, le=LONGEST)
    image_size: int = Field(128, ge=32, le=4096, description="side of the crop, pixels")
    sigma: float = Field(1.5, gt=0, le=4096, description="of the target Gaussians, heatmap pixels")
    decoder: Literal["dark", "topk"] = Field(
        "dark",
        description="topk is a soft-argmax over the largest pixels: rougher, about a third of a picture pixel",
    )
    foreground: float = Field(
        10.0, ge=0, le=LARGEST, description="heatmap weight = 1 + foreground · H, in every comparison"
    )
    cut: Literal["deep", "shallow"] = Field(
        "deep", description="where features end: the backbone's map, or before the last convolution"
    )
    detector_passes: int = Field(
        2,
        ge=1,
        le=4,
        description="predictions of a face that the detector found: each later crop is made around the points before",
    )
    flip_test: bool = Field(False, description="average with the mirrored picture at evaluation")
    normaliser: str | None = Field(None, description="of the NME; None: inter-ocular, or the scheme's own")
    optim: OptimSettings = OptimSettings(lr=6e-3, weight_decay=0.05, warmup=0.5, ema=0.99)
    augment: AugmentConfig = AugmentConfig(rotation=20, scale=0.15, shift=0.04)
    data: FacesData = FacesData()
    teacher: FacesTeacher = FacesTeacher()
    student: FacesStudent = FacesStudent()
