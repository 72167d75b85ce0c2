"""Top-1, top-5 and accuracy by class, in percent."""

from __future__ import annotations

import numpy as np


def accuracy(logits: np.ndarray, labels: np.ndarray, classes: list[str]) -> dict[str, object]:
    """Figures of logits (N, C) against labels (N,): top1, top5 (where there are more than five classes) and top1 of each class.

    A sample counts where its class is among the k largest logits; of equal logits the lower class number comes first.
    """
    order = np.argsort(-logits, axis=1, kind="stable")
    hits = order == labels[:, None]
    result: dict[str, object] = {"top1": 100.0 * float(hits[:, 0].mean())}
    if logits.shape[1] > 5:
        result["top5"] = 100.0 * float(hits[:, :5].any(1).mean())
    result["classes"] = {
        name: {"top1": 100.0 * float(hits[labels == i, 0].mean())}
        for i, name in enumerate(classes)
        if (labels == i).any()
    }
    return result
