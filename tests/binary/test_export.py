"""export, predict and benchmark on the packed file of a tiny run, as a user runs them; accuracy by stage of training."""

import csv
import json
from importlib import import_module

import cv2
import numpy as np
import pytest
import torch
from forked import forked
from safetensors.torch import load_file, safe_open

import srrl
from srrl.api import open_run
from srrl.cli import main_of


@pytest.fixture(scope="module")
def finished(trained):
    return trained[0]


def command(name, *arguments):
    """The command in this process: its exit status."""
    with pytest.raises(SystemExit) as stop:
        main_of(import_module(f"srrl.{name}").COMMAND, [str(a) for a in arguments])
    return stop.value.code


@pytest.fixture(scope="module")
def exported(finished):
    status, out, error = forked("export", finished, "--format", "packed")
    assert status == 0, error
    return finished / "student-packed.safetensors", out


def test_export_prints_file_size_and_check(exported):
    path, out = exported
    assert str(path) in out and f"{path.stat().st_size / 1e6:.3f} MB" in out
    assert "largest difference 0 on 64 test pictures" in out
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["task"] == "binary" and json.loads(metadata["classes"]) == list("0123456789")
    assert "/" not in metadata["network"]  # nothing of the machine it was trained on
    assert sum(t.dtype == torch.uint8 for t in load_file(path).values()) == 6


def test_the_file_predicts_as_the_run_does(exported, finished, tmp_path):
    path, _ = exported
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    simulated = srrl.load(finished)
    simulated.model.to(memory_format=torch.channels_last)  # another layout may round otherwise
    assert srrl.load(path)(image) == simulated(image)
    assert command("predict", path, _digit(tmp_path, image), "--out", tmp_path / "out") == 0
    with open(tmp_path / "out/predictions.csv", newline="") as file:
        table = {r["class"]: float(r["probability"]) for r in csv.DictReader(file)}
    assert table == {g.name: round(g.probability, 5) for g in simulated(image)}


def test_export_refuses_in_one_line(exported, finished, capsys):
    path, _ = exported
    for arguments, message in [
        (["--format", "packed"], "exists: choose another --out, nothing is overwritten"),
        (["--format", "tflite"], "task binary can write: expected packed or onnx or onnx-int8"),
        (["--format", "onnx", "--out", "student.bin"], "expected a name that ends in .onnx"),
    ]:
        assert command("export", finished, *arguments) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1
    with pytest.raises(srrl.UserError, match="holds the student alone: for the teacher, give the run"):
        srrl.load(path, "teacher")
    with pytest.raises(srrl.UserError, match="was not written by python -m srrl.export"):
        srrl.load(finished / "weights/student.safetensors")


def test_other_pictures_can_check_the_file(finished, tmp_path, capsys):
    """Where those of the run are no longer there."""
    rng = np.random.default_rng(0)
    for name in "0123456789":
        for i in range(2):
            path = tmp_path / "pictures" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    arguments = ["--data", tmp_path / "pictures", "--out"]
    assert command("export", finished, "--format", "packed", *arguments, tmp_path / "a.safetensors") == 0
    assert "largest difference 0 on 20 test pictures" in capsys.readouterr().out
    assert command("export", finished, "--format", "onnx-int8", *arguments, tmp_path / "a.onnx") == 0
    assert "on 20 test pictures (pictures), which int8's ranges are from as well" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["evaluate", "benchmark", "export"])
def test_what_a_run_is_needed_for_says_so_of_a_file(exported, name, capsys):
    arguments = ["--format", "packed"] if name == "export" else []
    assert command(name, exported[0], *arguments) == 2
    error = capsys.readouterr().err
    assert (
        "student-packed.safetensors is a file, with which only srrl.predict and the app can work: expected a folder"
        in error
    )


def test_onnx_forms_of_a_binary_student(finished, tmp_path, capsys):
    """By the command line: the float graph answers as the run, the int8 one is measured beside it."""
    float32, int8 = tmp_path / "a.onnx", tmp_path / "b.onnx"
    assert command("export", finished, "--format", "onnx", "--out", float32) == 0
    assert "on 64 test pictures" in capsys.readouterr().out
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    found, expected = ({g.name: g.probability for g in srrl.load(f)(image)} for f in (float32, finished))
    assert found == pytest.approx(expected, abs=1e-4)
    assert command("export", finished, "--format", "onnx-int8", "--out", int8) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if " top1 " in line]
    figures = [float(line[line.index("top1") + 1]) for line in lines]
    results = json.loads((finished / "results.json").read_text())
    assert len(figures) == 3 and figures[0] == figures[1] == pytest.approx(results["student"]["top1"])
    assert command("predict", int8, _digit(tmp_path, image), "--out", tmp_path / "out") == 0


@pytest.mark.parametrize("form", ["packed", "onnx"])
def test_a_full_disk_leaves_no_file_and_the_next_export_is_whole(finished, tmp_path, form):
    """The operating system refuses to write more than 4 kB a file: status 1, and one line that names the file."""
    out = tmp_path / ("a.safetensors" if form == "packed" else "a.onnx")
    arguments = ["export", finished, "--format", form, "--out", out]
    before = sorted(finished.rglob("*"))
    status, printed, error = forked(*arguments, largest_file=4096)
    assert status == 1 and printed == "", error
    assert error.strip().splitlines()[-1].startswith(f"error: could not save {out}: File too large"), error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir()) and sorted(finished.rglob("*")) == before
    assert command(*arguments) == 0
    assert out.stat().st_size > 4096
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    found, expected = ({g.name: g.probability for g in srrl.load(f)(image)} for f in (out, finished))
    assert found == pytest.approx(expected, abs=1e-4)


def _digit(folder, image):
    cv2.imwrite(str(folder / "digit.png"), image[..., ::-1])
    return folder / "digit.png"


def test_a_file_that_differs_is_not_kept(finished, tmp_path, monkeypatch):
    from srrl_tasks.binary import packed_file

    right = packed_file._signs
    monkeypatch.setattr(packed_file, "_signs", lambda bits, weight: -right(bits, weight))
    assert command("export", finished, "--format", "packed", "--out", tmp_path / "wrong") == 1
    assert not list(tmp_path.iterdir())


def test_benchmark_times_the_packed_form(finished, tmp_path, capsys):
    file = tmp_path / "speed.json"
    assert command("benchmark", finished, "--rounds", "1", "--skip-epoch", "--json", file) == 0
    assert "student, packed" in capsys.readouterr().out
    found = json.loads(file.read_text())["latency_ms"]["1 threads"]
    assert set(found) == {"teacher", "student", "student, packed"}


def test_report_gives_the_accuracy_of_each_stage(finished):
    results = json.loads((finished / "results.json").read_text())
    opened = open_run(finished)
    data = opened.task.prepare(opened.cfg, lambda text: None, evaluation=True)
    first = opened.task.build_student(opened.task.stages(opened.cfg)[0][1]).eval()
    for name in ("baseline", "student"):
        stages = results[name]["stages"]
        assert list(stages) == ["stage1", "final"]
        assert stages["final"]["top1"] == results[name]["top1"]
        first.load_state_dict(load_file(finished / f"weights/{name}-stage1.safetensors"))
        samples = [data.test[i] for i in range(len(data.test))]
        x = torch.stack([torch.as_tensor(s["image"]) for s in samples]).float() / 255
        with torch.no_grad():
            guessed = first(x).argmax(1)
        right = sum(int(g) == int(s["label"]) for g, s in zip(guessed, samples, strict=True))
        assert stages["stage1"]["top1"] == pytest.approx(100 * right / len(samples))
    assert "stages" not in results["teacher"]
    report = (finished / "report.md").read_text()
    assert "top1 (%) by stage of training" in report
