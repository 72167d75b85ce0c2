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
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=480)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(arguments[-1].read_text())


def test_inputs_of_every_kind_reach_what_reads_them(tmp_path):
    report = said_by(
        "fuzz.py", "--inputs", 60, "--keep", tmp_path / "kept", "--json", tmp_path / "report.json"
    )
    assert len(report) == 21 and all(r["inputs"] > 0 and not r["failed"] for r in report.values()), report
    assert sum(r["inputs"] for r in report.values() if r["annotation"]) >= 60
    assert not list((tmp_path / "kept").glob("*.input"))


def test_a_kill_of_a_comparison_and_of_an_export_changes_nothing(tmp_path):
    """At random moments, then each is begun again. That of a training is test_run.py's, that of faces test_synthetic.py's."""
    command = ["--kills", 2, "--only", "comparison,export", "--methods", "srrl"]
    command += ["--settings", "epochs=1 teacher.epochs=1", "--json", tmp_path / "report.json"]
    report = said_by("kills.py", *command)
    assert report.keys() == {"comparison", "export"}
    assert all(r["kills"] == 1 and r["lost"] == 0 for r in report.values()), report
