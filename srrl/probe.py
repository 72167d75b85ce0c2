"""The transfer test of the paper: logistic regression on a network's frozen features, for another labelled data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from srrl.api import open_run
from srrl.data import eval_loader
from srrl.model import to_unit
from srrl.runs import read_mapping, write_json

if TYPE_CHECKING:
    from srrl.api import OpenedRun
    from srrl.cells import Cell
    from srrl.config import RunSettings
    from srrl.task import Data, Task

STRENGTHS = (
    0.001,
    0.01,
    0.1,
    1.0,
    10.0,
)  # C of scikit-learn, the inverse of the penalty, the strongest first


@torch.no_grad()
def pooled_features(model: nn.Module, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """(N, C) spatial means of ``forward_features`` in eval mode, and (N,) labels; the model is put back in its mode."""
    device, was = next(model.parameters()).device, model.training
    model.eval()
    found = [
        (
            model.forward_features(to_unit(batch["image"].to(device))).mean((2, 3)).double().cpu(),
            batch["label"],
        )
        for batch in eval_loader(dataset)
    ]
    model.train(was)
    features, labels = (torch.cat(part).cpu().numpy() for part in zip(*found, strict=True))
    return features, labels


def linear_probe(model: nn.Module, data: Data) -> dict[str, Any]:
    """Top-1 (percent) on ``data.test`` of scikit-learn's logistic regression on standardised :func:`pooled_features`.

    C is the one of :data:`STRENGTHS` with the best accuracy on ``data.val`` after fitting on ``data.train`` (the
    smallest of equal ones); fitted again on both, it is scored on the test pictures once.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, val, test = (pooled_features(model, part) for part in (data.train, data.val, data.test))

    def fitted(strength: float, features: np.ndarray, labels: np.ndarray) -> Any:
        regression = LogisticRegression(C=strength, max_iter=2000)
        return make_pipeline(StandardScaler(), regression).fit(features, labels)

    scores = [fitted(strength, *train).score(*val) for strength in STRENGTHS]
    strength = STRENGTHS[int(np.argmax(scores))]
    both = (np.concatenate(parts) for parts in zip(train, val, strict=True))
    top1 = 100.0 * fitted(strength, *both).score(*test)
    return {"top1": top1, "C": strength, "channels": train[0].shape[1]}


def probe_cells(
    task: Task, source: str, data: Data, out: Path, cells: list[Cell], say: Callable[[str], None]
) -> dict[str, Any]:
    """The probe of every cell's student (the last epoch's weights), of the teacher and of an untrained student a seed.

    ``data`` is what :meth:`Task.probe_data` gave for ``source``; it is read again where the cells' networks take
    pictures of another size. What was computed stands in ``probe-<data set>-<network>.json`` in the cells' folders and
    is used again, unless the probe is another one. Returns accuracies (top-1, percent) by method and seed, which
    :func:`srrl.comparison.tabulate` takes, and what they were measured on.
    """
    runs = {cell: open_run(out / cell.name) for cell in cells}
    size = next(iter(runs.values())).image_size
    if data.image_size != size:
        data = task.probe_data(source, next(iter(runs.values())).cfg, lambda text: None)
    facts = {
        "dataset": data.name,
        "source": source,
        "image_size": size,
        "classes": data.details["n_classes"],
        "train": len(data.train) + len(data.val),
        "test": len(data.test),
    }

    def probed(cell: Cell, name: str, network: Callable[[OpenedRun], nn.Module]) -> dict[str, Any]:
        path = out / cell.name / f"probe-{data.name}-{name}.json"
        found = read_mapping(path) if path.is_file() else {}
        if {k: found.get(k) for k in facts} != facts:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            found = facts | linear_probe(network(runs[cell]).to(device), data)
            write_json(path, found)
            say(f"probe: {cell.name}, {name}: {found['top1']:.3f} %")
        return found

    methods: dict[str, dict[int, float]] = {}
    channels: dict[str, int] = {}
    untrained: dict[int, float] = {}
    teacher = None
    for cell in cells:
        student = probed(cell, "student", lambda run: run.model("student", last=True))
        methods.setdefault(cell.method, {})[cell.seed] = student["top1"]
        channels[cell.method] = student["channels"]
        if cell.seed not in untrained:
            random = probed(cell, "untrained", lambda run: untrained_student(task, run.cfg))
            untrained[cell.seed] = random["top1"]
        if teacher is None and "teacher" in runs[cell].names:
            teacher = probed(cell, "teacher", lambda run: run.model("teacher"))["top1"]
    return {**facts, "channels": channels, "teacher": teacher, "untrained": untrained, "methods": methods}


def untrained_student(task: Task, cfg: RunSettings) -> nn.Module:
    """The student with the random weights that the run's seed gives, whatever it was started from."""
    bare = cfg.model_copy(deep=True)
    bare.student.pretrained = False
    torch.manual_seed(cfg.seed)
    return task.build_student(bare)
