"""Two runs for the app, of untrained networks: a landmark one with a baseline and a classifier that is still training."""

import json

import pytest
import torch
from served import served

from srrl.checkpoint import save_weights
from srrl.config import dump, resolve
from srrl.runs import RunFolder, write_json, write_text
from srrl.task import get_task

FACES = {
    "image_size": 64,
    "data": {"n_points": 68},
    "teacher": {"arch": "resnet10", "width": 8, "decoder": [8, 8, 8]},
    "student": {"width": 4, "decoder": [8, 8, 8]},
}
DIGITS = {"image_size": 16, "data": {"n_classes": 10, "classes": list("0123456789"), "format": "digits"}}


def make_run(folder, name, values, networks):
    """A run folder as training leaves it, with weights of these networks."""
    task = get_task(name, values)
    cfg = resolve(task.settings, task.filled(values), values)
    run = RunFolder(folder)
    write_text(run.config, dump(cfg))
    for seed, network in enumerate(networks):
        torch.manual_seed(seed)
        model = task.build_teacher(cfg) if network == "teacher" else task.build_student(cfg)
        if hasattr(model, "final"):
            torch.nn.init.normal_(model.final.weight)
        save_weights(run.weights(network), model)
    return run


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """The folder with faces/001, which is finished, and classification/001, which is not."""
    root = tmp_path_factory.mktemp("läufe 1")
    finished = make_run(root / "faces/001", "faces", FACES, ("teacher", "student", "baseline"))
    write_text(
        finished.report,
        "# A report\n\n![Curves by epoch.](plots/curves.png)\n\nCurves by epoch.\n\n| fr@0.10 |\n|---|\n| 3 |\n",
    )
    write_json(finished.results, {"task": "faces", "teacher": {"nme": 4.5}, "student": {"nme": 5.25}})
    make_run(root / "classification/001", "classification", DIGITS, ("teacher", "student"))
    (root / "faces/002").mkdir()
    write_text(root / "faces/002/config.yaml", json.dumps({"task": "faces"}))  # just begun: no weights yet
    return root


@pytest.fixture(scope="session")
def server(runs):
    """The address of the app for these runs."""
    with served("--runs", runs, "--run", runs / "faces/001") as (address, _):
        yield address
