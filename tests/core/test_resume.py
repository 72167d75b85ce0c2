"""Exact resume: trainings that real signals end at chosen moments must end bit-identical to the uninterrupted one.

train_and_die.py runs them, each in a process of its own.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from train_and_die import BATCHES, CASES, EPOCHS

from srrl.checkpoint import load_state

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def deaths(tmp_path_factory):
    """Folder of every case of train_and_die.py, and the exit statuses of its processes."""
    root = tmp_path_factory.mktemp("tode ü 1")
    path = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, HERE / "train_and_die.py", root],
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return root, json.loads(done.stdout), done.stderr


def flat(value, key=""):
    if isinstance(value, dict):
        return {k: v for name, v in value.items() for k, v in flat(v, f"{key}/{name}").items()}
    if isinstance(value, (list, tuple)):
        return {k: v for i, v in enumerate(value) for k, v in flat(v, f"{key}/{i}").items()}
    return {key: value}


def reference_of(case):
    prefix = case.split("-")[0]
    return f"{prefix}-whole" if prefix in ("accumulate", "sgd") else "whole"


CUT = [c for c, (_, moments) in CASES.items() if moments]


@pytest.mark.parametrize("case", CUT)
def test_a_training_that_was_cut_off_ends_bit_identical(deaths, case):
    root, statuses, stderr = deaths
    expected = [-s if s == 9 else 128 + s for s, *_ in CASES[case][1]]
    assert statuses[case] == [*expected, 0], stderr
    reference, resumed = root / reference_of(case), root / case
    whole, cut = (flat(load_state(p / "student.pt")) for p in (reference, resumed))
    assert whole.keys() == cut.keys()
    for key, value in whole.items():
        if key.endswith(("seconds", "metrics")):  # what a clock said, and the checksum of a log that has it
            continue
        same = torch.equal(value, cut[key]) if isinstance(value, torch.Tensor) else value == cut[key]
        assert same, key
    for name in ("best.safetensors", "last.safetensors"):
        a, b = load_file(reference / name), load_file(resumed / name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a), name


def test_the_comparison_covers_connector_buffers_average_and_optimiser(deaths):
    state = load_state(deaths[0] / "whole" / "student.pt")
    assert (state["epoch"], state["step"]) == (EPOCHS, 0)
    assert {"connector.conv.weight", "connector.bn.running_var", "student.features.1.running_mean"} <= set(
        state["model"]
    )
    assert not any(k.startswith("teacher") for k in state["model"])
    assert "features.1.running_mean" in state["average"]["module"]
    assert state["average"]["count"] == EPOCHS * BATCHES
    moments = next(iter(state["optimizer"]["state"].values()))
    assert int(moments["step"]) == EPOCHS * BATCHES
    # the cases test something: the training moves the weights, and dropout and the transforms are on
    assert not torch.equal(
        state["model"]["connector.conv.weight"],
        load_state(deaths[0] / "sgd-whole/student.pt")["model"]["connector.conv.weight"],
    )


@pytest.mark.parametrize("case", CASES)
def test_metrics_go_on_under_one_header(deaths, case):
    root = deaths[0]
    rows = {}
    for name in (case, reference_of(case)):
        with open(root / name / "metrics.csv", newline="") as handle:
            rows[name] = list(csv.DictReader(handle))
    assert [(r["phase"], r["epoch"]) for r in rows[case]] == [("student", str(e + 1)) for e in range(EPOCHS)]
    for mine, other in zip(rows[case], rows[reference_of(case)], strict=True):
        assert mine.keys() == other.keys()
        assert {"loss", "supervised", "fm", "sr", "lr", "val_top1"} <= mine.keys()
        assert all(mine[k] == other[k] for k in mine if "second" not in k)
