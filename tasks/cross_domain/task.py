"""The cross_domain task: another task whose students learn on unlabelled pictures of the domain where they will work."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from srrl.config import merged
from srrl.errors import UserError
from srrl.task import Data, Task, get_task

from .settings import DomainSettings, settings_for

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import Dataset

    from srrl.config import RunSettings
    from srrl.distillers.base import Criterion


class CrossDomainTask(Task):
    """The task by its name; :meth:`made_for` gives the one on the base that the settings name."""

    name = "cross_domain"

    @classmethod
    def made_for(cls, given: dict[str, Any]) -> Task:
        """``cross_domain.base`` as a task of two domains. Raises UserError for a base that is none."""
        section = given.get("cross_domain")
        base = (section.get("base") if isinstance(section, dict) else None) or _default("base")
        if base == cls.name:
            raise UserError("cross_domain.base=cross_domain: choose the task it is to be based on")
        kind = type(get_task(str(base), given))
        return type("CrossDomainTask", (_TwoDomains, kind), {"settings": settings_for(kind.settings)})()


def _default(field: str) -> Any:
    return DomainSettings.model_fields[field].default


class _TwoDomains:
    """What is different from the base task: where data comes from, and what unlabelled samples mean.

    Teacher and baseline are trained on the labelled source. Other students learn from the teacher on a mixture of it
    with unlabelled pictures of the target, in which an epoch has as many samples as the source: the same number of steps.
    """

    name = CrossDomainTask.name

    def __init__(self):
        super().__init__()
        self.source: Data | None = None
        self.source_val: Dataset | None = None
        self.val_of_source = False
        self.stand_ins: list[Dataset] = []  # of the source, where the target has nothing labelled
        self.units = {**self.units, f"source_{self.metric}": self.unit}
        self.notes: list[str] = []

    def filled(self, given: dict[str, Any]) -> dict[str, Any]:
        return merged(super().filled(given), super().as_source(given))

    def prepare(self, cfg: RunSettings, say: Callable[[str], None], *, evaluation: bool = False) -> Data:
        d = cfg.cross_domain
        if evaluation and cfg.data.test and not cfg.data.train:  # other data than the run's own
            return super().prepare(cfg, say, evaluation=True)
        self.source = source = super().prepare(cfg, say, evaluation=evaluation)
        self.source_val = source.val
        paths = {"train": d.train, "val": d.val, "test": d.test, "format": d.format}
        target = self.target_domain(cfg, source, paths, say, evaluation=evaluation)
        self.stand_ins = [
            theirs for own, theirs in ((source.val, target.val), (source.test, target.test)) if own is theirs
        ]
        self.val_of_source = target.val is source.val
        here, there = (d.details.get("label", d.name) for d in (source, target))
        name, label = f"{source.name} to {target.name}", f"{here} → {there}"
        if target.test is source.test:
            self.source = None  # there is nothing else to compare its figures with
            name, label = f"{source.name} for {target.name}", f"{here}, taught for {target.name}"
            self.notes[:] = [
                "Nothing in the target is labelled: **all figures are those of the source domain**, which say nothing of the target"
                + self.settles(cfg)
                * "; students are measured with the BatchNorm statistics of those pictures, and saved with the target's"
                + "."
            ]
        details = {**target.details, "label": label, "notes": self.notes}
        details["scored"] = "on the source's pictures" if self.source is None else None
        return replace(target, train=source.train, name=name, details=details)

    def validation(self, data: Data, *, teacher: bool) -> Dataset:
        """The source's for the teacher, which is to know that domain: in the target it is chosen by chance."""
        return self.source_val if teacher else data.val

    def teaching(
        self, teacher: nn.Module, data: Data, cfg: RunSettings, say: Callable[[str], None]
    ) -> tuple[nn.Module, Dataset]:
        """The teacher with the target's BatchNorm statistics for its pictures, and the mixture of both domains."""
        from .mixture import mixed
        from .statistics import estimate_statistics, keep_both

        d, plain = cfg.cross_domain, data.unlabelled.plain()
        adapted = teacher
        if d.teacher_statistics == "target":
            adapted = deepcopy(teacher)
            estimate_statistics(adapted, self.refined(plain, teacher, cfg))
            figures = super().evaluate(adapted, data.val, cfg)
            before = super().evaluate(teacher, data.val, cfg)[self.metric]
            whose = "source" if self.val_of_source else "target"
            text = (
                f"With the target's BatchNorm statistics, as it teaches, the teacher has a {self.metric} of "
                f"{figures[self.metric]:.3f} {self.unit} on the {whose}'s validation pictures, against {before:.3f} "
                f"{self.unit}."
            )
            self.notes.append(text)
            say(f"teacher: {text}")
        unlabelled = self.refined(data.unlabelled, adapted, cfg)
        if adapted is not teacher:
            adapted = keep_both(adapted, teacher)
        return adapted, mixed(data.train, unlabelled, d.share, cfg.seed)

    def settle(self, student: nn.Module, data: Data, cfg: RunSettings) -> None:
        """The target's BatchNorm statistics into the student, where it is to have them."""
        from .statistics import estimate_statistics

        if self.settles(cfg):
            estimate_statistics(student, data.unlabelled.plain(), frozen=False)

    @staticmethod
    def settles(cfg: RunSettings) -> bool:
        """Whether students get the target's BatchNorm statistics."""
        return cfg.cross_domain.student_statistics == "target"

    def as_scored(self, name: str, model: nn.Module, dataset: Dataset, cfg: RunSettings) -> nn.Module:
        """A student with the statistics of the source's pictures, where those stand in for the target's.

        With the target's it would seem worse there than it is, and the epoch would be chosen by chance.
        """
        if name == "teacher" or not self.settles(cfg) or not any(dataset is d for d in self.stand_ins):
            return model
        from srrl.shared_norm import unshare_batchnorm

        from .statistics import estimate_statistics

        model = deepcopy(model)
        unshare_batchnorm(model)  # the first process measures alone
        estimate_statistics(model, dataset)
        return model

    def check(self, cfg: RunSettings) -> None:
        """UserError for a method that cannot do with samples that have no labels, or only some of which count."""
        super().check(cfg)
        from srrl.distillers import distiller_class

        d, method = cfg.cross_domain, distiller_class(cfg.method)
        if not method.needs_teacher:
            return
        if cfg.teacher.memory and d.teacher_statistics == "target":
            raise UserError(
                "teacher.memory keeps what a teacher makes of a batch's pictures alone; here it also goes by the domain that each "
                "comes from: leave it out, or set cross_domain.teacher_statistics=source"
            )
        if method.needs_labels:
            raise UserError(
                f"method {cfg.method} needs the label of every sample: in two domains use srrl, kd, at, …"
            )
        if d.share == 1 and not method.teaches_predictions(cfg.method_settings()):
            hint = "added_kd above 0, " if cfg.method == "srrl" else ""
            raise UserError(
                f"cross_domain.share=1 leaves no labelled sample, and method {cfg.method} teaches the student's own head "
                f"nothing: use {hint}method srrl_head or kd, or a smaller share"
            )
        if d.confidence and not method.weighs_samples:
            raise UserError(f"cross_domain.confidence needs kd or a form of srrl, not method {cfg.method}")
        if d.confidence and cfg.sr_form == "pearson" and "sr_form" in method.reads:
            raise UserError(
                "cross_domain.confidence does not fit sr_form=pearson, which compares whole batches"
            )

    def criterion(self, cfg: RunSettings) -> Criterion:
        from .criterion import DomainCriterion

        return DomainCriterion(super().criterion(cfg), cfg.cross_domain.confidence)

    def evaluate(
        self, model: nn.Module, dataset: Dataset, cfg: RunSettings, *, full: bool = False
    ) -> dict[str, Any]:
        """The base's figures; with ``full`` also what the model still does in the source domain."""
        result = super().evaluate(model, dataset, cfg, full=full)
        if full and self.source is not None:
            here = super().evaluate(model, self.source.test, cfg)
            result[f"source_{self.metric}"] = here[self.metric]
        return result
