"""Whole runs as real processes: the run folder, resume after SIGKILL, signals, a disk that is full."""

from __future__ import annotations

import argparse
import csv
import fcntl
import hashlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
import time

import cv2
import pytest
from forked import forked
from safetensors.torch import load_file
from small_run import ROOT, TINY, call, faces, start

from srrl import benchmark, evaluate, train
from srrl.api import open_run
from srrl.cli import guarded
from srrl.errors import UserError
from srrl.runs import read_metrics


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    photos = faces(tmp_path_factory.mktemp("fotos ü 写真"), 24)
    return [
        "--task",
        "faces",
        f"data.train={photos}",
        f"data.val={photos}",
        f"data.test={photos}",
        *TINY,
        "epochs=3",
        "teacher.lr=0.001",
    ]


@pytest.fixture(scope="module")
def finished(arguments, tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("läufe 1") / "ganz"
    status, out, error = call("train", *arguments, "--run-dir", folder)
    assert status == 0, error
    return folder, out


def test_run_folder_holds_what_the_contract_says(finished):
    folder, out = finished
    for name in (
        "config.yaml",
        "environment.json",
        "metrics.csv",
        "results.json",
        "report.md",
        "plots/curves.png",
        "weights/teacher.safetensors",
        "weights/student.safetensors",
        "weights/baseline.safetensors",
        "weights/student-last.safetensors",
    ):
        assert (folder / name).stat().st_size > 0, name
    results = json.loads((folder / "results.json").read_text())
    assert {
        "task",
        "method",
        "seed",
        "dataset",
        "split",
        "protocol",
        "teacher",
        "student",
        "baseline",
    } <= results.keys()
    for model in ("teacher", "student", "baseline"):
        m = results[model]
        assert {
            "nme",
            "fr@0.10",
            "auc@0.10",
            "normaliser",
            "subsets",
            "undetected",
            "params",
            "macs",
            "size_bytes",
            "latency_ms_p50",
            "latency_ms_p95",
        } <= m.keys()
        assert m["params"] == sum(
            v.numel()
            for k, v in load_file(folder / f"weights/{model}.safetensors").items()
            if "running" not in k and "num_batches" not in k
        )
        assert m["size_bytes"] == (folder / f"weights/{model}.safetensors").stat().st_size
    assert (
        results["student"]["last_epoch"].keys() == {"nme", "fr@0.10"}
        and "last_epoch" not in results["teacher"]
    )
    assert "report:" in out
    rows = list(csv.DictReader(open(folder / "metrics.csv")))
    assert [(r["phase"], r["epoch"]) for r in rows] == [
        (p, str(e)) for p in ("teacher", "baseline", "student") for e in (1, 2, 3)
    ]


def tables(report):
    """Rows of the Markdown tables of a report: first cell → the others."""
    rows = [line.strip("| ").split("|") for line in report.splitlines() if line.startswith("|")]
    return {first.strip(): [cell.strip() for cell in rest] for first, *rest in rows}


def test_report_shows_the_figures_side_by_side_and_the_pictures(finished):
    folder, _ = finished
    results = json.loads((folder / "results.json").read_text())
    report = (folder / "report.md").read_text()
    rows = tables(report)
    models = [results[m] for m in ("teacher", "student", "baseline")]
    assert "|  | teacher | student | baseline |" in report
    assert [float(c) for c in rows["nme (%)"]] == pytest.approx([m["nme"] for m in models], rel=1e-3)
    assert rows["parameters"] == [f"{m['params']:,}" for m in models]
    assert [float(c) for c in rows["multiply-adds (M)"]] == [round(m["macs"] / 1e6, 1) for m in models]
    assert [float(c) for c in rows["weights file (MB)"]] == [round(m["size_bytes"] / 1e6, 2) for m in models]
    for threads, suffix in (("one thread", ""), (f"{os.cpu_count()} threads", "_all_threads")):
        for cell, m in zip(rows[f"latency p50 / p95, {threads} (ms)"], models, strict=True):
            figures = [m[f"latency_ms_{p}{suffix}"] for p in ("p50", "p95")]
            assert [float(f) for f in cell.split("/")] == pytest.approx(figures, abs=0.006)
    for region, cells in results["student"]["regions"].items():
        value = cells["nme"] if isinstance(cells, dict) else cells
        assert float(rows[region][1]) == pytest.approx(value, abs=6e-4)
    pictures = re.findall(r"!\[.+\]\((.+)\)", report)
    assert {"plots/curves.png", "plots/ced.png", "plots/contact.png"} <= set(pictures)
    for picture in pictures:
        assert cv2.imread(str(folder / picture)).std() > 5, picture  # decodes, and is not one colour


def test_curves_appear_while_training_and_the_results_come_last(arguments, tmp_path, monkeypatch, capsys):
    """A reader of the folder takes results.json for the end of the run, so nothing may follow it."""
    from srrl import pipeline, report
    from srrl.cli import main_of
    from srrl.train import COMMAND

    drawn, draw = [], report.draw_curves

    def draw_and_note(metrics, out, *rest):
        draw(metrics, out, *rest)
        drawn.append((len(metrics.read_text().splitlines()) - 1, out.is_file()))

    def broken_report(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pipeline, "DRAW_EVERY", 0.0)
    monkeypatch.setattr(report, "draw_curves", draw_and_note)
    monkeypatch.setattr(report, "write_report", broken_report)
    monkeypatch.setattr(
        sys, "argv", ["train", *arguments, "epochs=2", "baseline=false", "--run-dir", str(tmp_path / "run")]
    )
    with pytest.raises(SystemExit) as ended:
        main_of(COMMAND)
    assert ended.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1] == "error: No space left on device"
    assert drawn == [(rows, True) for rows in (1, 2, 3, 4)]
    assert not (tmp_path / "run" / "results.json").exists()


def test_durations_count_what_was_trained_before_a_resume(tmp_path):
    from srrl.report import _spent
    from srrl.runs import RunFolder

    lines = ["phase,epoch,seconds", "teacher,1,40", "teacher,2,50", "student,1,7"]
    (tmp_path / "metrics.csv").write_text("\n".join(lines) + "\n")
    spent = _spent(RunFolder(tmp_path), {"data": 3.0, "teacher": 0.5, "student": 9.0})
    assert spent == {"data": 3.0, "teacher": 90.0, "student": 9.0}


def test_the_teacher_has_its_own_rate(finished):
    from srrl.task import get_task

    with open(finished[0] / "metrics.csv", newline="") as handle:
        first = {r["phase"]: float(r["lr"]) for r in csv.DictReader(handle) if r["epoch"] == "1"}
    assert first["student"] == first["baseline"] > 0
    default = get_task("faces").settings().optim.lr
    assert first["teacher"] == pytest.approx(first["student"] * 0.001 / default, rel=1e-4)


def test_evaluate_gives_the_same_figures(finished, tmp_path):
    folder, _ = finished
    status, out, error = forked("evaluate", folder, "--model", "student", "--json", tmp_path / "again.json")
    assert status == 0, error
    assert "split test (24 samples), protocol landmark-box" in out and "| nme (%) |" in out
    again, before = (
        json.loads((tmp_path / "again.json").read_text()),
        json.loads((folder / "results.json").read_text()),
    )
    assert again["student"]["nme"] == pytest.approx(before["student"]["nme"], rel=1e-6)
    assert "teacher" not in again


def test_evaluate_names_the_validation_split_where_there_was_no_other(finished, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(finished[0], copy)
    config = copy / "config.yaml"
    lines = [  # without the checksum, as runs were written before
        "  test: null" if line.startswith("  test:") else line
        for line in config.read_text().splitlines()
        if not line.startswith("#")
    ]
    config.write_text("\n".join(lines) + "\n")
    assert "split val (" in forked("evaluate", copy, "--model", "student")[1]
    photos = next(line.split(": ")[1] for line in lines if line.startswith("  train:"))
    assert "split all (" in forked("evaluate", copy, "--model", "student", "--data", photos)[1]
    assert forked("evaluate", copy, "--format", "ibug")[0] == 2


def ended_with(command, *arguments):
    """The exit status of a command in this process."""
    parser = argparse.ArgumentParser()
    command.COMMAND.add_arguments(parser)
    args = parser.parse_args(list(map(str, arguments)))
    return guarded(lambda: command.COMMAND.run(args))


def test_an_edited_run_is_neither_scored_nor_gone_on_with(finished, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(finished[0], copy)
    (copy / "results.json").unlink()
    config = copy / "config.yaml"
    edited, count = re.subn(r"(?m)^alpha: .*$", "alpha: 9.0", config.read_text())
    assert count == 1
    config.write_text(edited)
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*")}
    for command in ((evaluate, copy), (train, "--resume", copy), (benchmark, copy)):
        assert ended_with(*command) == 2
        error = capsys.readouterr().err
        assert len(error.strip().splitlines()) == 1
        assert f"{config} was edited or damaged since the run began" in error and f"-c {config}" in error
    assert {p: p.stat().st_mtime_ns for p in copy.rglob("*")} == before
    assert ended_with(train, "-c", config, "--print-config") == 0
    assert "alpha: 9.0" in capsys.readouterr().out


def test_the_files_of_one_network_do_not_pass_for_anothers(finished, tmp_path):
    """Baseline and student have one architecture: only the header tells them apart."""
    copy = tmp_path / "run"
    shutil.copytree(finished[0], copy)
    assert open_run(copy).models().keys() == {"teacher", "student", "baseline"}
    for name, source in (("student", "baseline"), ("baseline", "student-last"), ("student-last", "baseline")):
        shutil.copy(copy / f"weights/{name}.safetensors", tmp_path / "kept")
        shutil.copy(finished[0] / f"weights/{source}.safetensors", copy / f"weights/{name}.safetensors")
        network, last = name.removesuffix("-last"), name.endswith("-last")
        with pytest.raises(UserError, match=f"{name}.safetensors holds the weights of .*, not of {network}"):
            open_run(copy).model(network, last=last)
        shutil.copy(tmp_path / "kept", copy / f"weights/{name}.safetensors")


def test_results_that_are_none_are_not_taken_for_a_finished_run(finished, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(finished[0], copy)
    assert ended_with(train, "--resume", copy) == 0 and "is finished" in capsys.readouterr().out
    for text in ("[]", "3", "null"):
        (copy / "results.json").write_text(text)
        assert ended_with(train, "--resume", copy) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and f"{copy / 'results.json'} is damaged (it holds a " in said[0]


def same_weights(a, b):
    for name in ("teacher", "baseline", "student", "student-last"):
        first, second = (
            load_file(a / f"weights/{name}.safetensors"),
            load_file(b / f"weights/{name}.safetensors"),
        )
        assert first.keys() == second.keys()
        for key in first:
            assert first[key].equal(second[key]), f"{name}: {key}"


def wait_for(process, path, seconds=120):
    """Until the file is there; the process must live."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.01)


def test_sigkill_then_resume_is_bit_identical(arguments, finished, tmp_path):
    """Killed twice: in the teacher's phase and in the student's. While the first lives, nobody else may go on with it."""
    folder = tmp_path / "killed"
    process = start("train", *arguments, "--run-dir", folder)
    wait_for(process, folder / "checkpoints" / "teacher.pt")
    process.send_signal(signal.SIGSTOP)  # so that it does not end meanwhile
    before = (folder / "checkpoints/teacher.pt").read_bytes()
    status, _, error = forked("train", "--resume", folder)
    assert status == 2 and len(error.splitlines()) == 1
    assert f"{folder} is being trained by another process" in error
    assert (folder / "checkpoints/teacher.pt").read_bytes() == before
    process.kill()
    process.communicate()
    process = start("train", "--resume", folder)
    wait_for(process, folder / "checkpoints" / "student.pt")
    process.kill()
    process.communicate()
    assert not (folder / "results.json").exists()
    status, _, error = forked("train", "--resume", folder)
    assert status == 0, error
    same_weights(finished[0], folder)
    rows = list(csv.DictReader(open(folder / "metrics.csv")))
    assert [(r["phase"], r["epoch"]) for r in rows] == [
        (p, str(e)) for p in ("teacher", "baseline", "student") for e in (1, 2, 3)
    ]


@pytest.mark.parametrize(("signum", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_checkpoint_and_name_the_resume_command(arguments, finished, tmp_path, signum, expected):
    folder = tmp_path / "stopped"
    process = start("train", *arguments, "--run-dir", folder)
    wait_for(process, folder / "checkpoints" / "baseline.pt")
    process.send_signal(signum)
    _, error = process.communicate(timeout=60)
    assert process.returncode == expected
    assert f"--resume {folder}" in error
    assert "Traceback" not in error
    if signum == signal.SIGTERM:
        status, _, error = forked("train", "--resume", folder)
        assert status == 0, error
        same_weights(finished[0], folder)


@pytest.mark.parametrize("ignored", [False, True])
def test_a_terminal_that_is_closed(arguments, finished, tmp_path, ignored):
    """The kernel's own SIGHUP: a checkpoint, unless it is ignored, as nohup does."""
    folder = tmp_path / "closed"
    ours, theirs = pty.openpty()

    def in_that_terminal():
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
        # said either way: the tests themselves may run under nohup
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)

    log = open(tmp_path / "log", "w") if ignored else None
    process = subprocess.Popen(
        [sys.executable, "-m", "srrl.train", *arguments, "--run-dir", folder],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=theirs,
        stdout=log or theirs,
        stderr=log or theirs,
        preexec_fn=in_that_terminal,
    )
    os.close(theirs)
    while not (folder / "checkpoints/teacher.pt").exists():  # the rest is long enough to be closed within
        assert process.poll() is None
        if select.select([ours], [], [], 0.01)[0]:
            os.read(ours, 65536)
    os.close(ours)
    if ignored:
        assert process.wait(120) == 0
    else:
        assert process.wait(60) == 129 and not (folder / "results.json").exists()
        status, _, error = forked("train", "--resume", folder)
        assert status == 0, error
    same_weights(finished[0], folder)


def test_full_disk_keeps_the_last_good_checkpoint(arguments, finished, tmp_path):
    """The operating system refuses to write more than 4 kB a file: status 1, and the run still goes on afterwards."""
    folder = tmp_path / "full"
    process = start("train", *arguments, "--run-dir", folder)
    wait_for(process, folder / "checkpoints" / "teacher.pt")
    process.kill()
    process.communicate()
    before = hashlib.sha256((folder / "checkpoints" / "teacher.pt").read_bytes()).hexdigest()
    status, _, error = forked("train", "--resume", folder, largest_file=4096)
    assert status == 1
    assert error.strip().splitlines()[-1].startswith("error: could not save")
    assert "Traceback" not in error
    assert hashlib.sha256((folder / "checkpoints" / "teacher.pt").read_bytes()).hexdigest() == before
    assert not list(folder.rglob("*.tmp"))
    status, _, error = forked("train", "--resume", folder)
    assert status == 0, error
    same_weights(finished[0], folder)


FILL = """
disk=$1; shift
mount -t tmpfs -o size=3400k full "$disk" || exit 77
"$@" --run-dir "$disk/run"; echo "status $?"
find "$disk" -name '*.tmp'
mount -o remount,size=64m full "$disk"
"$1" "$2" "$3" --resume "$disk/run" && cp -r "$disk/run" "$disk-kept"
"""


def test_a_disk_that_is_full_for_real(arguments, finished, tmp_path):
    """A file system of 3.4 MB, which is full in the student's phase; given room, the run goes on to what it would have been."""
    disk = tmp_path / "disk é"
    disk.mkdir()
    command = [sys.executable, "-m", "srrl.train", *arguments]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", FILL, "sh", str(disk), *command],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    if "unshare" in done.stderr or done.returncode == 77:
        pytest.skip("no file system can be mounted here")
    assert done.returncode == 0, done.stderr
    assert "status 1\n" in done.stdout and ".tmp" not in done.stdout
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert re.fullmatch(
        rf"error: could not save {re.escape(str(disk))}/run/\S+: No space left on device; what was saved before is intact",
        said,
    )
    assert "student  epoch 3/3" in done.stdout and "student  epoch 1/3" in done.stdout
    same_weights(finished[0], tmp_path / "disk é-kept")


def test_two_processes_share_one_run_folder_and_train_as_one(arguments, tmp_path):
    """As accelerate launches them, against one process with twice the batch: every figure of every phase, to 1e-4.

    By SGD, as AdamW divides by the size of a gradient, and where that is nothing but rounding, by the rounding.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    settings = [*arguments, "epochs=1", "teacher.lr=1e-6", "optim.name=sgd", "optim.lr=1e-4"]
    done = subprocess.run(
        [*launcher, ROOT / "tests/cli/counting.py", tmp_path / "validations", *settings],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [p.name for p in (tmp_path / "runs" / "faces").iterdir()] == ["001"]
    results = json.loads((tmp_path / "runs/faces/001/results.json").read_text())
    assert {"teacher", "baseline", "student"} <= results.keys()
    for line in ("config:", "report:", "student  epoch 1/1"):
        assert done.stdout.count(line) == 1, line
    # teacher, baseline and student once each, then scored, the students' last epochs too: all by the first process
    assert (tmp_path / "validations").read_text().splitlines() == ["0 24"] * (3 + 3 + 2)
    status, _, error = forked("train", *settings, "batch_size=8", "--run-dir", tmp_path / "one")
    assert status == 0, error
    two, one = (read_metrics(tmp_path / run / "metrics.csv") for run in ("runs/faces/001", "one"))
    assert [r["phase"] for r in two] == [r["phase"] for r in one] == ["teacher", "baseline", "student"]
    figures = {"loss", "supervised", "val_nme", "val_fr@0.10", "fm", "sr", "kd"}
    assert figures <= two[2].keys() and all(float(two[2][k]) > 0 for k in figures)
    for a, b in zip(two, one, strict=True):
        assert {k: float(a[k] or 0) for k in figures} == pytest.approx(
            {k: float(b[k] or 0) for k in figures}, rel=1e-4
        )


def test_resume_of_a_finished_run_says_so(finished):
    status, out, _ = forked("train", "--resume", finished[0])
    assert status == 0
    assert "finished" in out


def test_help_is_quick_and_needs_no_torch():
    best = 9.0
    for _ in range(3):
        begin = time.monotonic()
        status, out, _ = call("train", "--help")
        best = min(best, time.monotonic() - begin)
        assert status == 0
        assert "--resume" in out
    assert best < 1.0


def test_benchmark_gives_the_step_against_its_floor(finished, tmp_path):
    """Ratios are medians of rounds, so a neighbour that begins in the middle moves them from those of the medians: three tries."""
    for _ in range(3):
        status, out, error = forked(
            "benchmark", finished[0], "--rounds", "3", "--json", tmp_path / "speed.json"
        )
        assert status == 0, error
        found = json.loads((tmp_path / "speed.json").read_text())
        assert found["latency_ms"]["1 threads"].keys() == {"teacher", "student"}
        step, epoch = found["step"], found["epoch"]["1 threads"]
        assert epoch["batches"] == 6 and f"{epoch['ratio']:.3f} × its floor" in out  # 24 photos by 4
        assert f"{step['ratio']:.3f} × its floor" in out
        expected = {
            epoch["ratio"]: epoch["epoch images/s"] / epoch["floor images/s"],
            step["ratio"]: step["srrl step"] / step["floor"],
            step["floor"]: step["teacher forward"] + step["student step"] + step["teacher head"],
        }
        close = all(k == pytest.approx(v, rel=0.3) for k, v in expected.items())
        if close:
            break
    assert close, expected


def test_benchmark_needs_no_run(tmp_path):
    status, _, error = forked(
        "benchmark", "--task", "classification", "method=none", "student.width=2", "--rounds", "2",
        "--batches", "3", "--batch-size", "8", "--json", tmp_path / "speed.json",
    )  # fmt: skip
    assert status == 0, error
    found = json.loads((tmp_path / "speed.json").read_text())
    assert "step" not in found and found["latency_ms"]["1 threads"].keys() == {"student"}
    assert found["epoch"]["1 threads"]["batches"] == 3 and found["epoch"]["1 threads"]["batch_size"] == 8
    for arguments in ((), ("a", "b")):
        status, _, error = forked("benchmark", *arguments)
        assert status == 2 and "expected one run folder" in error
