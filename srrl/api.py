"""The public Python API: ``srrl.distill`` for any pair of modules, ``srrl.load`` for a finished run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from srrl.adapters import adapt
from srrl.checkpoint import load_weights, read_export
from srrl.config import OptimSettings, RunSettings, resolve
from srrl.data import KeyedDataset, eval_loader
from srrl.distillers import build_distiller, distiller_class
from srrl.distillers.base import Criterion, MethodSettings
from srrl.errors import UserError
from srrl.model import to_unit
from srrl.processes import from_first, once
from srrl.runs import RunFolder
from srrl.shipped import located
from srrl.task import Task, get_task
from srrl.trainer import Phase, Trainer, make_accelerator

if TYPE_CHECKING:
    from srrl.interrupt import GracefulStop


class CrossEntropyCriterion:
    """Class logits (N, C) against ``batch["label"]`` (N,) of class indices."""

    kind = "logits"

    def supervised(self, output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        label = batch["label"]
        if label.device.type == "cpu" and (label.min() < 0 or label.max() >= output.shape[1]):
            raise UserError(
                f"label {int(label.max() if label.min() >= 0 else label.min())} in a batch, but the model has "
                f"{output.shape[1]} classes: expected labels 0 … {output.shape[1] - 1}"
            )
        return nn.functional.cross_entropy(output.float(), label)

    def weight(self, teacher: Tensor) -> None:
        return None

    def compare(self, output: Tensor, teacher: Tensor, weight: None) -> Tensor:
        return (output.float() - teacher.float()).square().mean()


@torch.no_grad()
def accuracy(model: nn.Module, dataset: Dataset) -> dict[str, float]:
    """Top-1 in percent of a classifier on (image, label) samples; the model is put back in its mode."""
    device, was = next(model.parameters()).device, model.training
    model.eval()
    right = total = 0
    for batch in eval_loader(dataset):
        output = model(to_unit(batch["image"]).to(device))
        right += int((output.argmax(1).cpu() == batch["label"]).sum())
        total += len(output)
    model.train(was)
    return {"top1": 100.0 * right / max(total, 1)}


def distill(
    teacher: nn.Module,
    student: nn.Module,
    train: Dataset,
    val: Dataset | None = None,
    *,
    method: str = "srrl",
    epochs: int = 30,
    batch_size: int = 64,
    lr: float = 1e-3,
    seed: int = 0,
    criterion: Criterion | None = None,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    metric: str = "top1",
    higher: bool = True,
    precision: str = "auto",
    optim: OptimSettings | None = None,
    checkpoint: str | Path | None = None,
    stop: GracefulStop | None = None,
    say: Callable[[str], None] = print,
    **settings: Any,
) -> nn.Module:
    """Distils ``teacher`` into ``student`` and returns the student, trained, in eval mode.

    A torchvision or timm student comes back inside its adapter, which normalises its input; ``.model`` is the bare one.

    Args:
        teacher, student: modules with ``forward_features``, ``forward_head`` and ``feature_channels``; torchvision and
            timm models are adapted, anything else is wrapped with :class:`srrl.Split`. The teacher is frozen.
        train, val: map-style data sets of (image, label); images (3, H, W), uint8 or float 0–1. Other labels need a
            ``criterion`` and a ``validate`` function.
        method: ``srrl``, ``kd`` or ``none``; ``settings`` are the fields of MethodSettings (alpha, beta, sr_form, …).
        lr: of AdamW with warm-up and cosine; ``optim`` replaces it with settings of your own.
        metric, higher: the figure of ``validate`` that chooses the best epoch. Without ``val`` the last one is taken.
        checkpoint: a file (.pt) to save to after every epoch, and to go on from where it exists; the best weights
            lie beside it as .safetensors.

    Raises UserError for models, methods or settings that do not fit, RunError for a loss that is not finite.
    """
    teacher, student = adapt(teacher), adapt(student)
    if checkpoint is not None and Path(checkpoint).suffix == ".safetensors":
        raise UserError(
            f"checkpoint {checkpoint} would be overwritten by the weights beside it: give a name in .pt"
        )
    try:
        method_settings = MethodSettings(**settings).for_epochs(epochs)
    except ValueError as error:
        raise UserError(
            f"settings {sorted(settings)} do not fit: expected {', '.join(MethodSettings.model_fields)}"
        ) from error
    if val is not None and len(val) == 0:
        raise UserError("val is empty: leave it out, or give some samples")
    distiller = build_distiller(
        method, student, teacher, criterion or CrossEntropyCriterion(), method_settings
    )
    held_out = KeyedDataset(val, seed) if val is not None else None
    if validate is None and held_out is not None:
        validate = lambda model: once(lambda: accuracy(model, held_out))  # noqa: E731 - a default of one line
    optim = optim or OptimSettings(lr=lr, weight_decay=0.05)
    with tempfile.TemporaryDirectory(prefix="srrl-") as temporary:
        own = from_first(lambda: str(Path(temporary) / "student.pt"))  # the first process writes, all read
        state = Path(checkpoint or own)
        best = state.with_suffix(".safetensors")
        phase = Phase(
            "student",
            epochs,
            batch_size,
            seed,
            optim,
            metric=metric if validate else None,
            higher=higher,
            workers=0,
            checkpoint=state if checkpoint else None,
            best_weights=best,
        )
        accelerator = make_accelerator(precision, optim.accumulate)
        Trainer(
            distiller,
            KeyedDataset(train, seed),
            phase,
            accelerator=accelerator,
            validate=validate,
            stop=stop,
            say=say,
        ).fit()
        student = distiller.student
        load_weights(student, best, "student")
        accelerator.wait_for_everyone()  # before the first process removes its folder
    return student.eval()


@dataclass
class OpenedRun:
    """A run folder with its task, settings and the names of the models asked for."""

    run: RunFolder
    task: Task
    cfg: RunSettings
    names: list[str]

    @property
    def image_size(self) -> int:
        """Side of the square images that the networks take, pixels."""
        return self.task.image_size(self.cfg)

    def changed(self, changes: dict[str, Any]) -> RunSettings:
        """The run's settings with some replaced."""
        return resolve(self.task.settings, self.cfg.model_dump(mode="json"), changes)

    def model(self, name: str, *, last: bool = False) -> nn.Module:
        """One network with its saved weights, in eval mode: those that validation chose, or the ``last`` epoch's."""
        build = self.task.build_teacher if name == "teacher" else self.task.build_student
        bare = self.cfg.model_copy(deep=True)
        bare.teacher.pretrained = bare.student.pretrained = False  # its own weights follow
        network = build(bare)
        method = distiller_class(self.cfg.method)
        if name == "student" and method.needs_teacher:
            network = method.deployed(network, self.task.build_teacher(bare))
        load_weights(network, self.run.weights(f"{name}-last" if last else name), name, phase=name)
        return network.eval()

    def models(self) -> dict[str, nn.Module]:
        """Every network asked for."""
        return {name: self.model(name) for name in self.names}


def open_run(path: str | Path, model: str | None = None) -> OpenedRun:
    """A run folder ready for use; ``model`` limits it to one of teacher, student, baseline. Raises UserError."""
    run = RunFolder.open(path)
    values = run.settings()
    task = get_task(values.get("task", ""), values)
    names = run.models()
    if model is not None and model not in names:
        raise UserError(f"{run.path} has no {model} weights: it has {', '.join(names) or 'none yet'}")
    if not names:
        raise UserError(
            f"{run.path} has no weights yet: finish it with python -m srrl.train --resume {run.path}"
        )
    cfg = resolve(task.settings, values)
    if unsaid := task.unsaid(cfg):
        raise UserError(
            f"{run.config} does not say {', '.join(sorted(unsaid))}, as a training's does: restore that file"
        )
    return OpenedRun(run, task, cfg, [model] if model else names)


def open_predictor(source: str | Path, model: str = "student") -> tuple[Task, Any]:
    """The task and the predictor of one model of a run, or of the student in a file that srrl.export wrote. UserError."""
    path = located(source)
    if not path.is_file():
        opened = open_run(path, model)
        return opened.task, opened.task.predictor(opened.model(model), opened.cfg)
    if model != "student":
        raise UserError(f"{path} holds the student alone: for the {model}, give the run folder")
    if path.suffix == ".onnx":
        from srrl.onnx_network import open_onnx

        task, network, cfg = open_onnx(path)
    else:
        task = get_task(read_export(path)[0]["task"])
        network, cfg = task.open_export(path)
    return task, task.predictor(network, cfg)


def load(run: str | Path, model: str = "student") -> Any:
    """A predictor for one model of a run: ``srrl.load("runs/faces/001")(image)``; also for an exported file.

    ``srrl.load("shipped:faces68")`` needs no training: those weights come with the package.

    ``image`` is a path, a PIL image or an RGB array (H, W, 3) uint8; what comes back is the task's prediction.
    """
    return open_predictor(run, model)[1]
