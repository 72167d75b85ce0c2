"""How evenly a landmark network serves people: its error by ancestry and age, on enough synthetic faces to tell.

``python scripts/fairness.py RUN [--faces 6400] [--json FILE]`` scores every network of RUN on that many faces of the test split, of
which the run's own evaluation takes the first few hundred: too few, where a group has thirty faces. Crops around the true points.
Errors are given twice, in percent of the inter-ocular distance and of the size of the face (square root of the area of the
landmarks' bounding box), because the first also grows where eyes lie close together in a face of the same size; ``eyes`` is the
one over the other. The 95 % interval of a mean is 1.96 standard errors; the spread of a family of groups is the largest
mean over the smallest, less one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from srrl.errors import UserError

FAMILIES = {"ancestry": ("african", "asian", "caucasian"), "age": ("child", "adult", "old")}
NORMALISERS = {"inter-ocular": "inter-ocular", "face": "landmark-box"}


def scored(run: str, faces: int) -> dict[str, Any]:
    """For each network the figures of :func:`by_group`, and ``eyes``: the inter-ocular distance over the size of the face by group.

    Raises UserError for a run of anything but 68 or 98 points of faces.
    """
    from srrl_tasks.faces.predict import predict_faces

    from srrl.api import open_run

    opened = open_run(run)
    if opened.cfg.task != "faces":
        raise UserError(f"{run}: expected a run of the task faces")
    own = {
        "data": {"train": None, "val": None, "test": None, "box": "landmark", "synthetic": {"n_test": faces}}
    }
    cfg = opened.changed(own)
    dataset = opened.task.prepare(cfg, lambda text: print(text, file=sys.stderr), evaluation=True).test
    truth = np.stack([r.points for r in dataset.records])
    groups = [r.subsets for r in dataset.records]
    lengths = {n: dataset.scheme.normaliser(truth, name) for n, name in NORMALISERS.items()}
    eyes = lengths["inter-ocular"] / lengths["face"]
    found: dict[str, Any] = {"faces": len(truth), "eyes": by_group(eyes, groups), "networks": {}}
    for name, model in opened.models().items():
        distance = np.linalg.norm(predict_faces(model, dataset, cfg) - truth, axis=2).mean(1)
        found["networks"][name] = {n: by_group(100.0 * distance / by, groups) for n, by in lengths.items()}
    return found


def by_group(values: np.ndarray, groups: list[tuple[str, ...]]) -> dict[str, Any]:
    """Mean, half of its 95 % interval and number of faces of each group; of each family the ``spread`` in percent."""
    result: dict[str, Any] = {}
    for family, members in FAMILIES.items():
        part = {}
        for member in members:
            own = values[[member in names for names in groups]]
            if len(own) < 2:
                raise UserError(f"{len(own)} faces of the group {member}: ask for more --faces")
            part[member] = {
                "mean": float(own.mean()),
                "half": float(1.96 * own.std(ddof=1) / np.sqrt(len(own))),
                "faces": len(own),
            }
        means = [g["mean"] for g in part.values()]
        result[family] = {"groups": part, "spread": 100.0 * (max(means) / min(means) - 1.0)}
    return result


def table(found: dict[str, Any]) -> str:
    """Markdown, a row for each group."""
    columns = [(name, n) for name in found["networks"] for n in NORMALISERS]
    head = ["group", "faces", "eyes", *(f"{name}, % of {n}" for name, n in columns)]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
    for family, members in FAMILIES.items():
        for member in members:
            eyes = found["eyes"][family]["groups"][member]
            cells = [found["networks"][name][n][family]["groups"][member] for name, n in columns]
            row = [member, f"{eyes['faces']}", f"{eyes['mean']:.3f}"]
            row += [f"{c['mean']:.2f} ± {c['half']:.2f}" for c in cells]
            lines.append("| " + " | ".join(row) + " |")
        spread = [f"{found['networks'][name][n][family]['spread']:.1f} %" for name, n in columns]
        eyes = f"{found['eyes'][family]['spread']:.1f} %"
        lines.append("| " + " | ".join([f"spread by {family}", "", eyes, *spread]) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--faces", type=int, default=6400)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args(argv)
    try:
        found = scored(args.run, args.faces)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(found))
    if args.json:
        from srrl.runs import write_json

        write_json(Path(args.json), found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
