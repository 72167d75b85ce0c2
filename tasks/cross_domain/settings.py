"""Settings of the cross_domain task: those of the task it is based on, and what says where the student will work."""

from __future__ import annotations

from functools import cache
from typing import Literal

from pydantic import Field, create_model

from srrl.config import RunSettings, Section
from srrl.distillers.base import LARGEST


class DomainSettings(Section):
    """The target domain. ``data.*`` is the source, where labels exist.

    ``train`` holds pictures without labels (labels that are there are not looked at), ``val`` and ``test`` labelled ones to
    measure with; where they are missing the source's are taken, which says nothing of the target.
    """

    base: str = Field("classification", description="the task: classification, faces, or another one")
    train: str | None = Field(None, description="a folder of pictures; None: the base's embedded domain")
    val: str | None = None
    test: str | None = None
    format: str | None = Field(None, description="of val and test; None: found by itself")
    share: float = Field(0.5, ge=0, le=1, description="of the target in what students learn on")
    teacher_statistics: Literal["source", "target"] = Field(
        "target", description="BatchNorm statistics of the teacher while it teaches about the target"
    )
    student_statistics: Literal["mixed", "target"] = Field(
        "target",
        description="BatchNorm statistics that students are used with: of their batches, or of the target",
    )
    confidence: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="samples count by the teacher's confidence to this power; 0: all the same",
    )


@cache
def settings_for(base: type[RunSettings]) -> type[RunSettings]:
    """The schema of ``base`` with the target domain beside it.

    A KL (or heatmap) term on the student's own prediction is on by default: SRRL alone gives the student's own head no
    gradient on samples without labels.
    """
    kd = base.model_fields["added_kd"]
    return create_model(
        "CrossDomainSettings",
        __base__=base,
        __doc__=base.__doc__,
        task=(str, "cross_domain"),
        added_kd=(float, Field(kd.default or 1.0, ge=0, le=LARGEST, description=kd.description)),
        cross_domain=(DomainSettings, DomainSettings()),
    )
