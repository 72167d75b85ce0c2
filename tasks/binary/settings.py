"""Settings of the binary task: those of classification, with a binary student trained in two stages."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from srrl.config import OptimSettings
from srrl.distillers.base import LARGEST, LONGEST

from ..classification.settings import ClassificationSettings, ClassificationStudent, ClassificationTeacher


class BinaryTeacher(ClassificationTeacher):
    """A real network."""

    arch: str = "resnet14"


class BinaryStudent(ClassificationStudent):
    """resnet8 … resnet110, resnet10, 18 or 34, in binary form."""

    arch: str = "resnet14"
    width: float | None = Field(
        None,
        gt=0,
        le=1024,
        description="of the first stage; 4 for the digits where neither arch nor width is given",
    )


class BinarySettings(ClassificationSettings):
    """Everything a binary run needs. The two stages are those of Real-to-Binary (Martinez et al., ICLR 2020).

    It trains with Adam; AdamW differs in how the little decay of the first stage is applied.
    """

    task: str = "binary"
    epochs: int = Field(30, ge=1, le=LONGEST, description="of the stage with binary weights")
    stage1_epochs: int = Field(
        20,
        ge=0,
        le=LONGEST,
        description="before it, with real weights and binary activations; 0: one stage only",
    )
    stage1_decay: float = Field(1e-5, ge=0, le=LARGEST, description="weight decay of that first stage")
    precision_of_weights: Literal["real", "binary"] = Field(
        "binary", description="of the student that is built: real in the first stage"
    )
    batch_size: int = Field(16, ge=1, le=LONGEST)
    optim: OptimSettings = OptimSettings(name="adamw", lr=5e-3, weight_decay=0.0, warmup=1)
    teacher: BinaryTeacher = BinaryTeacher()
    student: BinaryStudent = BinaryStudent()
