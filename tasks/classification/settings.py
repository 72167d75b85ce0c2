"""Settings of the classification task and their defaults: a pair for scikit-learn's digits on two cores."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from srrl.config import DataSettings, OptimSettings, RunSettings, Section, StudentSettings, TeacherSettings
from srrl.distillers.base import LONGEST

FORMATS = ("digits", "cifar10", "cifar100", "stl10", "svhn", "imagenet", "folder")


class ClassificationData(DataSettings):
    """``train``/``val``/``test``: folders (or .tar files of them) with a sub-folder a class, or a data set's root."""

    format: Literal["digits", "cifar10", "cifar100", "stl10", "svhn", "imagenet", "folder"] | None = Field(
        None, description="None: digits without data.train, folder with it"
    )
    download: bool = Field(False, description="fetch cifar10, cifar100, stl10 or svhn where it is missing")
    per_class: int | None = Field(
        None, ge=1, le=10**9, description="training pictures kept of each class, for training on few labels"
    )
    val_fraction: float = Field(
        0.1, gt=0, lt=1, description="cut from train, class by class, where no val is given"
    )
    n_classes: int | None = Field(None, ge=2, le=LONGEST, description="said by the data")
    classes: list[str] | None = Field(None, description="their names, said by the data")


class ClassificationTeacher(TeacherSettings):
    """A network of the field by name, timm/… or torchvision/… (see :func:`networks.build_network`)."""

    arch: str = "resnet20"
    width: float | None = Field(
        None, gt=0, le=1024, description="of the first stage, or the width factor of MobileNets"
    )


class ClassificationStudent(StudentSettings):
    """As the teacher's."""

    arch: str = "resnet8"
    width: float | None = Field(
        None,
        gt=0,
        le=1024,
        description="as the teacher's; 4 for the digits where neither arch nor width is given",
    )


class AugmentSettings(Section):
    """What happens to training pictures; small ones are cropped after padding, large ones at random sizes."""

    pad: int = Field(
        2, ge=0, le=256, description="pixels of black around a small picture before it is cropped again"
    )
    flip: float = Field(0.0, ge=0, le=1, description="probability of a mirrored picture")
    smallest: float = Field(0.08, gt=0, le=1, description="large pictures: least area of a random crop")


class ClassificationSettings(RunSettings):
    """Everything a classification run needs."""

    task: str = "classification"
    epochs: int = Field(30, ge=1, le=LONGEST)
    batch_size: int = Field(32, ge=1, le=LONGEST)
    image_size: int | None = Field(
        None, ge=8, le=4096, description="None: the pictures' own where all are small, else 224"
    )
    optim: OptimSettings = OptimSettings(name="sgd", lr=0.05, weight_decay=5e-4, nesterov=True, warmup=1)
    augment: AugmentSettings = AugmentSettings()
    data: ClassificationData = ClassificationData()
    teacher: ClassificationTeacher = ClassificationTeacher()
    student: ClassificationStudent = ClassificationStudent()
