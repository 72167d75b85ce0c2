"""Distillation methods by name; each file holds one, and all share the shape of ``base.Distiller``."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING

from srrl.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from srrl.distillers.base import Criterion, Distiller, MethodSettings

# method name -> (module, class); "none" trains the student without a teacher
METHODS = {
    "none": ("srrl.distillers.none", "NoTeacher"),
    "kd": ("srrl.distillers.kd", "KD"),
    "srrl": ("srrl.distillers.srrl", "SRRL"),
    "srrl_pooled": ("srrl.distillers.srrl_variants", "PooledSRRL"),
    "srrl_stages": ("srrl.distillers.srrl_variants", "StagesSRRL"),
    "srrl_head": ("srrl.distillers.srrl_variants", "HeadSRRL"),
    "fitnet": ("srrl.distillers.fitnet", "FitNet"),
    "at": ("srrl.distillers.at", "AT"),
    "ofd": ("srrl.distillers.ofd", "OFD"),
    "rkd": ("srrl.distillers.rkd", "RKD"),
    "crd": ("srrl.distillers.crd", "CRD"),
    "dkd": ("srrl.distillers.dkd", "DKD"),
    "dist": ("srrl.distillers.dist", "DIST"),
    "simkd": ("srrl.distillers.simkd", "SimKD"),
    "reviewkd": ("srrl.distillers.reviewkd", "ReviewKD"),
}


def check_method(name: str) -> str:
    """The name itself, or a UserError that offers the nearest one."""
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, 1)
        hint = f": did you mean {close[0]!r}?" if close else f": expected one of {', '.join(METHODS)}"
        raise UserError(f"unknown method {name!r}{hint}")
    return name


def distiller_class(method: str) -> type[Distiller]:
    """The class of a method; UserError for an unknown name."""
    module, name = METHODS[check_method(method)]
    return getattr(import_module(module), name)


def build_distiller(
    method: str, student: nn.Module, teacher: nn.Module | None, criterion: Criterion, settings: MethodSettings
) -> Distiller:
    """The distiller of that name around ``student`` (trainable) and ``teacher`` (frozen here; None for ``none``).

    Its ``.student`` is what is to be scored and saved, which for some methods is more than the student given.
    """
    cls = distiller_class(method)
    if cls.needs_teacher and teacher is None:
        raise UserError(f"method {method!r} needs a teacher: give one, or use method=none")
    if cls.needs_teacher:
        _check_outputs(student, teacher, criterion.kind)
    return cls(cls.deployed(student, teacher), teacher, criterion, settings)


def _check_outputs(student: nn.Module, teacher: nn.Module, kind: str) -> None:
    """UserError where the two predict different numbers of classes (or points), seen on noise pictures."""
    from srrl.inspection import on_noise

    try:
        counts = [
            on_noise(m, name, lambda x, m=m: m(x).shape[1])
            for name, m in (("teacher", teacher), ("student", student))
        ]
    except UserError:
        return  # one takes pictures of a size of its own: the first step will tell
    if counts[0] != counts[1]:
        what = "classes" if kind == "logits" else "points"
        raise UserError(
            f"the teacher predicts {counts[0]} {what}, the student {counts[1]}: both need the same"
        )
