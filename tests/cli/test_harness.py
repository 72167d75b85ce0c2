"""The scripts that try to break the program work themselves: a few inputs of every kind, and two kills, as real processes."""

import json
import os
import subprocess
import sys

from small_run import ROOT


def said_by(script, *arguments):
    """What a script wrote into its --json; it must end with 0. A process of its own, as it forks others."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / "scripts" / script), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(arguments[-1].read_text())


def test_inputs_of_every_kind_reach_what_reads_them(tmp_path):
    report = said_by(
        "fuzz.py", "--inputs", 60, "--keep", tmp_path / "kept", "--json", tmp_path / "report.json"
    )
    assert len(report) == 21 and all(r["inputs"] > 0 and not r["failed"] for r in report.values()), report
    assert sum(r["inputs"] for r in report.values() if r["annotation"]) >= 60
    assert not list((tmp_path / "kept").glob("*.input"))


def test_two_kills_change_nothing(tmp_path):
    command = ["--kills", 2, "--only", "training", "--settings", "epochs=2 teacher.epochs=1 baseline=false"]
    command += ["--json", tmp_path / "report.json"]
    report = said_by("kills.py", *command)
    assert list(report) == ["training"]
    assert report["training"]["kills"] == 2 and report["training"]["lost"] == 0
