"""Pictures of a classification report: accuracy by class, and test pictures with what each model says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from srrl.data import eval_loader
from srrl.model import to_unit
from srrl.report import COLOURS, pyplot, save_figure

SHOWN = 24


@torch.no_grad()
def logits_of(model: nn.Module, dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    """(N, C) logits and (N,) labels of a whole data set; the model is put back in its mode."""
    device, was = next(model.parameters()).device, model.training
    model.eval()
    found = [
        (model(to_unit(batch["image"].to(device))).float().cpu(), batch["label"])
        for batch in eval_loader(dataset, 256)
    ]
    model.train(was)
    logits, labels = (torch.cat(part) for part in zip(*found, strict=True))
    return logits.numpy(), labels.cpu().numpy()


def report_figures(
    models: dict[str, nn.Module], dataset: Any, classes: list[str], folder: Path
) -> list[tuple[str, str]]:
    """Writes classes.png and contact.png; (file, caption) of each."""
    scores = {name: logits_of(model, dataset) for name, model in models.items()}
    by_class(scores, classes, folder / "classes.png")
    contact(scores, dataset, classes, folder / "contact.png")
    return [
        ("classes.png", "Accuracy by class (at most 30 shown, the student's worst first)."),
        (
            "contact.png",
            "Test pictures, half of them mistakes of the student where there are enough; below each its class and what the models say.",
        ),
    ]


def by_class(scores: dict[str, tuple[np.ndarray, np.ndarray]], classes: list[str], out: Path) -> None:
    """Bars of each class's accuracy, a colour a model."""
    rates = {}
    for name, (logits, labels) in scores.items():
        right = logits.argmax(1) == labels
        rates[name] = np.array(
            [100 * right[labels == i].mean() if (labels == i).any() else np.nan for i in range(len(classes))]
        )
    order = np.argsort(rates["student"])[:30]
    figure, axis = pyplot().subplots(figsize=(max(5.0, 0.42 * len(order) + 2), 3.4), layout="constrained")
    width = 0.8 / len(rates)
    for k, (name, values) in enumerate(rates.items()):
        axis.bar(
            np.arange(len(order)) + (k - (len(rates) - 1) / 2) * width,
            values[order],
            width,
            color=COLOURS[name],
            label=name,
        )
    low = min(np.nanmin(v[order]) for v in rates.values())
    axis.set(ylabel="top-1 (%)", ylim=(max(0, 10 * np.floor(low / 10) - 10), 100))
    axis.set_xticks(
        range(len(order)), [classes[i][:14] for i in order], rotation=0 if len(order) <= 10 else 60
    )
    axis.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    save_figure(figure, out)


def contact(
    scores: dict[str, tuple[np.ndarray, np.ndarray]], dataset: Any, classes: list[str], out: Path
) -> None:
    """A sheet of test pictures: the student's surest mistakes first, then samples spread over the set."""
    logits, labels = scores["student"]
    predicted = logits.argmax(1)
    margin = logits.max(1) - np.take_along_axis(logits, labels[:, None], 1)[:, 0]
    wrong = [i for i in np.argsort(-margin) if predicted[i] != labels[i]][: SHOWN // 2]
    right = [i for i in np.linspace(0, len(labels) - 1, 4 * SHOWN).astype(int) if i not in wrong]
    chosen = [*wrong, *dict.fromkeys(right)][:SHOWN]
    plt = pyplot()
    columns = 8
    figure, axes = plt.subplots(
        -(-len(chosen) // columns), columns, figsize=(1.35 * columns, 2.05 * -(-len(chosen) // columns)), squeeze=False,
        gridspec_kw={"hspace": 0.62, "wspace": 0.08, "left": 0.01, "right": 0.99, "top": 0.95, "bottom": 0.1},
    )  # fmt: skip
    for axis in axes.flat:
        axis.axis("off")
    for axis, i in zip(axes.flat, chosen):
        axis.imshow(dataset[int(i)]["image"].permute(1, 2, 0).numpy())
        axis.set_title(classes[labels[i]][:16], fontsize=8, fontweight="bold")
        for k, (name, (values, _)) in enumerate(scores.items()):
            guess = int(values[i].argmax())
            mark = "" if guess == labels[i] else " ✗"
            axis.text(
                0.5, -0.04 - 0.13 * k, f"{name}: {classes[guess][:12]}{mark}", transform=axis.transAxes,
                ha="center", va="top", fontsize=6, color=COLOURS[name],
            )  # fmt: skip
    save_figure(figure, out)
