"""The Task protocol, and the registry that finds tasks by name without importing the others."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srrl.errors import UserError

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import Dataset

    from srrl.config import RunSettings
    from srrl.distillers.base import Criterion

# tasks that ship with the package: name -> (module, class). Plugins come from entry points of the group "srrl.tasks".
BUILT_IN = {
    "faces": ("srrl_tasks.faces.task", "FacesTask"),
    "binary": ("srrl_tasks.binary.task", "BinaryTask"),
    "classification": ("srrl_tasks.classification.task", "ClassificationTask"),
    "cross_domain": ("srrl_tasks.cross_domain.task", "CrossDomainTask"),
}
GROUP = "srrl.tasks"


@dataclass
class Data:
    """What a task made ready: data sets (samples are dictionaries with ``image`` and ``index``) and how to name them.

    ``unlabelled`` are training pictures of the domain that ``val`` and ``test`` come from, where ``train`` is of another.
    """

    train: Dataset | None
    val: Dataset | None
    test: Dataset
    name: str
    protocol: str
    image_size: int
    details: dict[str, Any] = field(default_factory=dict)
    unlabelled: Dataset | None = None

    def on_validation(self) -> Data:
        """The same with the final figures on the validation split, whatever test split there is."""
        return replace(self, test=self.val, details={**self.details, "split": "val"})

    def part_keys(self) -> dict[str, int]:
        """A number for each part, to draw with: the same for val and for the part scored where that is val's pictures."""
        return {"train": 0, "val": 1, "test": 1 if self.details["split"] == "val" else 2}

    def of_target(
        self,
        name: str,
        label: str,
        sets: dict[str, Dataset],
        unlabelled: Dataset | None,
        say: Callable[[str], None],
    ) -> Data:
        """Data of another domain than this one: its labelled ``sets`` (val, test) where it has them, else this one's.

        ``unlabelled`` is None for an evaluation.
        """
        if "val" not in sets and unlabelled is not None:
            say("data: nothing labelled in the target to choose the epoch with: the source's is taken")
        if not sets:
            say("data: nothing labelled in the target: all figures are those of the source")
        split = next((s for s in ("test", "val") if s in sets), None)
        details = {**self.details, "split": split or self.details["split"], "label": label}
        test = sets[split] if split else self.test
        val = sets.get("val", self.val)
        return Data(None, val, test, name, self.protocol, self.image_size, details, unlabelled)

    def shortened(self, count: int) -> Data:
        """The same with at most ``count`` samples to validate and to score, where the data sets can be shortened."""
        short = {s: getattr(self, s) for s in ("val", "test")}
        short = {s: d.head(count) if hasattr(d, "head") else d for s, d in short.items()}
        return replace(self, **short)


class Task:
    """A kind of prediction: its settings, data, networks, loss, metrics and pictures. One instance serves one run.

    ``metric`` chooses the best epoch on the validation split; ``higher`` says which way is better, ``unit`` what it is
    in, ``units`` what the other figures are in (one without a unit may be left out). ``said_by_data`` are the settings that
    ``prepare`` takes from the data it reads; ``formats`` are what :meth:`export` can write.
    """

    name: str
    settings: type[RunSettings]
    metric: str
    higher: bool
    unit: str
    units: dict[str, str] = {}
    quick: dict[str, Any] = {}
    said_by_data: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()

    @classmethod
    def made_for(cls, given: dict[str, Any]) -> Task:
        """An instance for what was ``given`` (config file and overrides), on which a task's kind may depend."""
        return cls()

    def filled(self, given: dict[str, Any]) -> dict[str, Any]:
        """Further defaults, for what ``given`` (--quick, config file, overrides) leaves open: those that fit only together."""
        return {}

    def as_source(self, given: dict[str, Any]) -> dict[str, Any]:
        """The same where it is the labelled source of a task of two domains, over those of :meth:`filled`."""
        return {}

    def open_to_data(self, cfg: RunSettings) -> set[str]:
        """Those of ``said_by_data`` that the data will decide: the ones not set, where a task does not say otherwise."""
        return self.unsaid(cfg)

    def unsaid(self, cfg: RunSettings) -> set[str]:
        """Those of ``said_by_data`` that are not set; none in the settings of a run."""
        values = {k: cfg for k in self.said_by_data}
        for key in values:
            for part in key.split("."):
                values[key] = getattr(values[key], part)
        return {k for k, v in values.items() if v is None}

    def prepare(self, cfg: RunSettings, say: Callable[[str], None], *, evaluation: bool = False) -> Data:
        """Data sets of the run, made or read; only the test split where ``evaluation``.

        With ``score=val`` the test split is left alone, and the validation split stands in its place.
        """
        raise TypeError(f"{type(self).__name__} defines no prepare")

    def probe_data(self, source: str, cfg: RunSettings, say: Callable[[str], None]) -> Data:
        """Another labelled data set, for the linear probe of ``cfg``'s networks, at their picture size where it is known.

        ``train``, ``val`` (to choose the penalty with) and ``test`` with a ``label`` (a class number) in every sample, none
        augmented; ``details`` has ``n_classes``. Raises UserError for what is not usable, or where the task has no classes.
        """
        raise UserError(
            f"the task {self.name} has no class labels to probe: leave --probe out, or compare classifiers"
        )

    def build_teacher(self, cfg: RunSettings) -> nn.Module:
        """The untrained teacher; ``prepare`` has put what the data decides (points, classes) into ``cfg``."""
        raise TypeError(f"{type(self).__name__} defines no build_teacher")

    def build_student(self, cfg: RunSettings) -> nn.Module:
        """The untrained student, with the initial weights that the seed gives."""
        raise TypeError(f"{type(self).__name__} defines no build_student")

    def stages(self, cfg: RunSettings) -> list[tuple[str, RunSettings]]:
        """The trainings of a student, one after the other: what is added to the phase's name, and the settings of each.

        The last one's addition is empty. Between two of them the next network takes over the weights of the last
        epoch, and :meth:`begin_stage` is called.
        """
        return [("", cfg)]

    def brief(self, cfg: RunSettings) -> RunSettings:
        """The same settings for a dry run: an epoch a phase, and nothing kept."""
        cfg = cfg.model_copy(deep=True)
        cfg.epochs, cfg.teacher.memory = 1, None
        cfg.teacher.epochs = cfg.teacher.epochs and 1  # 0 is a teacher as it comes
        return cfg

    def check(self, cfg: RunSettings) -> None:
        """Raises UserError for settings that do not go together, which no single field can say; before any data is read."""

    def begin_stage(self, model: nn.Module) -> None:
        """Makes a student that has just taken over the weights of the stage before ready for its own."""

    def validation(self, data: Data, *, teacher: bool) -> Dataset:
        """The samples that choose the best epoch, of the teacher or of a student."""
        return data.val

    def teaching(
        self, teacher: nn.Module, data: Data, cfg: RunSettings, say: Callable[[str], None]
    ) -> tuple[nn.Module, Dataset]:
        """The teacher as it teaches, and the samples that students learn from it on."""
        return teacher, data.train

    def settle(self, student: nn.Module, data: Data, cfg: RunSettings) -> None:
        """Makes a student ready to be scored, after each epoch and before it is saved."""

    def as_scored(self, name: str, model: nn.Module, dataset: Dataset, cfg: RunSettings) -> nn.Module:
        """The network of that name (teacher, baseline, student) as its figures on ``dataset`` are to be made: itself, or a copy."""
        return model

    def target_domain(
        self,
        cfg: RunSettings,
        source: Data,
        paths: dict[str, str | None],
        say: Callable[[str], None],
        *,
        evaluation: bool = False,
    ) -> Data:
        """Data of another domain than ``source``, for a student that is to work there (task ``cross_domain``).

        ``paths``: ``train`` (pictures whose labels are not looked at), ``val`` and ``test`` (labelled), each may be None,
        and ``format``; without any, an embedded domain. Only the test set where ``evaluation``. In the result ``train`` is
        None, ``unlabelled`` the pictures, and ``val`` and ``test`` are the source's where the domain has none.
        """
        raise UserError(
            f"task {self.name} cannot be the base of another domain: choose another cross_domain.base"
        )

    def refined(self, unlabelled: Dataset, teacher: nn.Module, cfg: RunSettings) -> Dataset:
        """Unlabelled pictures of another domain as the teacher would have them: cropped around what it finds, say."""
        return unlabelled

    def criterion(self, cfg: RunSettings) -> Criterion:
        """How predictions meet labels and each other."""
        raise TypeError(f"{type(self).__name__} defines no criterion")

    def image_size(self, cfg: RunSettings) -> int:
        """Side of the square images that the networks take, pixels."""
        raise TypeError(f"{type(self).__name__} defines no image_size")

    def example_batch(self, cfg: RunSettings, size: int) -> dict[str, Any]:
        """A random batch of ``size`` samples with plausible labels, for timing."""
        raise TypeError(f"{type(self).__name__} defines no example_batch")

    def evaluate(
        self, model: nn.Module, dataset: Dataset, cfg: RunSettings, *, full: bool = False
    ) -> dict[str, Any]:
        """Metrics of ``model``; only the numbers that belong into a log unless ``full``."""
        raise TypeError(f"{type(self).__name__} defines no evaluate")

    def reference(self, data: Data, cfg: RunSettings) -> dict[str, float]:
        """Metrics of a prediction without a network (the mean shape, the largest class); empty where there is none."""
        return {}

    def figures(
        self, models: dict[str, nn.Module], data: Data, cfg: RunSettings, folder: Path
    ) -> list[tuple[str, str]]:
        """Task-specific plots written into ``folder``; (file name, caption) of each, for the report."""
        return []

    def predictor(self, model: nn.Module, cfg: RunSettings) -> Any:
        """A callable image → prediction with ``draw`` and ``rows``, for :func:`srrl.load` and the command line."""
        raise TypeError(f"{type(self).__name__} defines no predictor")

    def answers(self, model: nn.Module, cfg: RunSettings) -> nn.Module:
        """What an exported graph does with the raw output of ``model``: a module, raw → tuple of tensors (N, …).

        Its ``names`` are those of the tensors, each with what it holds. It must be traceable by torch.export.
        """
        raise TypeError(f"{type(self).__name__} defines no answers")

    def picture_notes(self, cfg: RunSettings) -> dict[str, str]:
        """What the reader of an exported graph has to know beyond its inputs and outputs, by name: kept in the file."""
        return {}

    def export(self, form: str, model: nn.Module, cfg: RunSettings, path: Path) -> None:
        """Writes a trained student into ``path`` with :func:`srrl.checkpoint.save_export`; ``form`` is one of ``formats``.

        The ONNX forms are the core's, for tasks that have :meth:`answers` and name those forms.
        """
        raise TypeError(f"{type(self).__name__} defines no export")

    def open_export(self, path: Path) -> tuple[nn.Module, RunSettings]:
        """The network in such a file, ready for :meth:`predictor` with the settings beside it. Raises UserError."""
        raise TypeError(f"{type(self).__name__} defines no open_export")

    def faster_forms(self, model: nn.Module) -> dict[str, nn.Module]:
        """Other forms of a trained student whose speed is to be measured beside it, by what they are called."""
        return {}


def task_names() -> dict[str, str]:
    """Every task by name, with where it comes from."""
    found = {name: "built in" for name in BUILT_IN}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, point.value)
    return found


def get_task(name: str, given: dict[str, Any] | None = None) -> Task:
    """The named task, made for what was ``given``. Raises UserError, with the nearest name, for an unknown one."""
    if not isinstance(name, str):
        raise UserError(f"task: {name!r} is no name of a task: expected one of {', '.join(task_names())}")
    if name in BUILT_IN:
        ensure_tasks_importable()
        module, cls = BUILT_IN[name]
        return getattr(import_module(module), cls).made_for(given or {})
    for point in entry_points(group=GROUP):
        if point.name == name:
            return point.load().made_for(given or {})
    known = task_names()
    close = difflib.get_close_matches(name, known, 1)
    raise UserError(
        f"unknown task {name!r}: "
        + (f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}")
    )


def ensure_tasks_importable() -> None:
    """Makes ``srrl_tasks`` importable in a checkout that was not installed.

    Installed, the folder ``tasks/`` has that name; as plain ``tasks`` it would clash with users' own modules.
    """
    if "srrl_tasks" in sys.modules or importlib.util.find_spec("srrl_tasks") is not None:
        return
    init = Path(__file__).resolve().parent.parent / "tasks" / "__init__.py"
    if not init.is_file():
        raise UserError("the bundled tasks are not installed: run pip install . in the project's folder")
    spec = importlib.util.spec_from_file_location(
        "srrl_tasks", init, submodule_search_locations=[str(init.parent)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["srrl_tasks"] = module
    spec.loader.exec_module(module)
