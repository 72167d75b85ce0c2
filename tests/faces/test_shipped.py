"""Runs that come with the package: found by name, whole, as good as their figures say, and the default teacher where they fit."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from forked import forked
from small_run import ROOT
from srrl_tasks.faces import synthetic
from srrl_tasks.faces.synthetic.settings import GENERATOR_VERSION

import srrl
from srrl.api import open_run
from srrl.config import apply_overrides, read_yaml
from srrl.errors import UserError
from srrl.inspection import count_parameters
from srrl.runs import read_json
from srrl.shipped import FOLDER, PREFIX, comes_with_us, located, names
from srrl.task import get_task

LARGEST = {"faces68": 0.7e6, "faces68-small": 0.15e6}  # parameters of the students


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """48 faces as the shipped networks know them, none of which they were trained on."""
    settings = synthetic.SyntheticSettings(n_test=48, seed=77)
    return settings, tmp_path_factory.mktemp("кэш 1")


def test_a_name_is_a_folder_of_the_package_and_another_gets_the_nearest():
    assert located("shipped:faces68") == FOLDER / "faces68" and comes_with_us(FOLDER / "faces68/weights")
    assert str(located("runs/faces/001")) == "runs/faces/001" and not comes_with_us("runs/faces/001")
    for text in ("shipped:face68", "shipped:../faces68", "shipped:", "shipped:faces68/weights"):
        with pytest.raises(
            UserError, match="does not come with this version: (did you mean|expected) shipped:faces68"
        ):
            located(text)


@pytest.mark.parametrize("name", LARGEST)
def test_it_is_whole_small_enough_and_says_where_it_comes_from(name):
    opened = open_run(PREFIX + name)
    results = read_json(opened.run.results)
    for model in opened.names:
        assert count_parameters(opened.model(model)) == results[model]["params"]
        assert opened.run.weights(model).stat().st_size == results[model]["size_bytes"]
    assert count_parameters(opened.model("student")) <= LARGEST[name]
    # labels of another version lie elsewhere: its networks have to be trained again
    assert read_json(opened.run.path / "environment.json")["generator"] == GENERATOR_VERSION
    card = opened.run.report.read_text(encoding="utf-8")
    assert f"{results['student']['nme']:.2f} %" in card and "## Licence" in card and "## Limits" in card
    assert not re.search(r"(?<!\w)/(tmp|root|home|work)/", card + opened.run.config.read_text())


def test_all_together_they_are_under_30_megabytes():
    assert set(names()) == set(LARGEST)
    assert sum(p.stat().st_size for p in FOLDER.rglob("*") if p.is_file()) < 30e6


@pytest.mark.parametrize("name", LARGEST)
def test_they_find_the_points_of_faces_they_have_not_seen(name, drawn):
    """By a loop over pictures, not by the code that wrote the figures: mean distance over the eyes' distance."""
    faces = synthetic.records(drawn[0], "test", 68, cache_dir=drawn[1], progress=False)
    recorded = read_json(located(PREFIX + name) / "results.json")
    for model in open_run(PREFIX + name).names:
        find, errors = srrl.load(PREFIX + name, model), []
        for face in faces:
            low, high = face.points.min(0), face.points.max(0)
            found = find(face.load(), box=(*low, *high))[0].points
            errors.append(
                np.linalg.norm(found - face.points, axis=1).mean()
                / np.linalg.norm(face.points[36] - face.points[45])
            )
        assert 100 * np.mean(errors) == pytest.approx(recorded[model]["nme"], rel=0.3)
        assert 100 * np.mean(errors) < 8  # the mean shape has 30


@pytest.mark.parametrize(
    "overrides, expected",
    [
        ([], "shipped:faces68"),
        (["epochs=30", "student.width=12", "seed=3", "data.synthetic.n_train=50"], "shipped:faces68"),
        (["teacher.arch=resnet18", "teacher.width=20"], "shipped:faces68"),
        (["method=kd"], "shipped:faces68"),
        (["teacher=scratch"], None),
        (["teacher=scratch", "teacher.epochs=2"], None),
        (["teacher.epochs=2"], None),
        (["teacher.width=24"], None),
        (["image_size=96"], None),
        (["sigma=2"], None),
        (["cut=shallow"], None),
        (["data.n_points=98"], None),
        (["normaliser=box"], "shipped:faces68"),
        (["teacher.checkpoint=scratch"], None),
        (["data.train=photographs"], None),
        (["method=none"], None),
        (["teacher=runs/faces/001"], "runs/faces/001"),
        (["teacher=shipped:faces68", "image_size=96"], "shipped:faces68"),
    ],
)
def test_the_shipped_teacher_is_the_default_where_it_fits(overrides, expected):
    from srrl.train import resolve_settings

    args = type("Args", (), {"task": "faces", "config": None, "overrides": overrides, "quick": False})
    assert resolve_settings(args)[1].teacher.checkpoint == expected
    args.quick = True  # another picture size and teacher, unless they are given
    named = any(o.startswith("teacher=") for o in overrides)
    assert resolve_settings(args)[1].teacher.checkpoint == (expected if named else None)
    size = ["image_size=128", "teacher.arch=resnet18", "teacher.width=20", "teacher.decoder=[64,48,48]"]
    args.overrides = size
    assert resolve_settings(args)[1].teacher.checkpoint == "shipped:faces68"


def test_a_file_may_name_the_teacher_shortly(tmp_path):
    (tmp_path / "a.yaml").write_text("task: faces\nteacher: scratch\n")
    given = apply_overrides(read_yaml(tmp_path / "a.yaml"), ["teacher.width=20"])
    assert given["teacher"] == {"checkpoint": None, "width": 20}
    assert not get_task("faces").filled(given)
    assert get_task("faces").filled({}) == {"teacher": {"checkpoint": "shipped:faces68"}}
    cross = get_task("cross_domain", {"cross_domain": {"base": "faces"}})
    assert "teacher" not in cross.filled({"cross_domain": {"base": "faces"}})
    assert (
        apply_overrides({}, ["teacher=a"])
        == apply_overrides({"teacher": "a"}, [])
        == {"teacher": {"checkpoint": "a"}}
    )


def test_commands_take_the_name_and_write_nothing_into_the_package(tmp_path):
    before = {p: p.stat().st_mtime_ns for p in FOLDER.rglob("*")}
    picture = ROOT / "app" / "examples" / "face.jpg"
    status, said, error = forked("predict", "shipped:faces68", picture, "--out", "found", cwd=tmp_path)
    assert status == 0, error
    assert "1 prediction on 1 picture" in said
    faces = tmp_path / "photographs"
    faces.mkdir()
    shutil.copy(picture, faces)
    found = srrl.load("shipped:faces68")(str(picture))[0].points
    lines = "\n".join(f"{x + 1:.3f} {y + 1:.3f}" for x, y in found)
    (faces / "face.pts").write_text(f"version: 1\nn_points: 68\n{{\n{lines}\n}}\n")
    status, said, error = forked(
        "evaluate", "shipped:faces68", "--model", "student", "--data", faces, "--json", "e.json", cwd=tmp_path
    )
    assert status == 0, error
    assert read_json(tmp_path / "e.json")["student"]["nme"] < 3  # its own points, from another crop
    status, _, error = forked("evaluate", "shipped:faces86", cwd=tmp_path)
    assert status == 2 and "did you mean shipped:faces68?" in error
    assert {p: p.stat().st_mtime_ns for p in FOLDER.rglob("*")} == before


def test_its_graph_goes_to_the_folder_one_is_in(tmp_path, monkeypatch, capsys, drawn):
    """From a copy of the package's folder, whose settings name a shard of test faces instead of 400."""
    pytest.importorskip("onnxruntime")
    import argparse

    from srrl.export import COMMAND

    folder, here = tmp_path / "package", tmp_path / "here"
    shutil.copytree(located("shipped:faces68-small"), folder / "faces68-small")
    config = folder / "faces68-small" / "config.yaml"
    config.write_text(
        config.read_text().replace("n_test: 400", "n_test: 32").replace("    seed: 0", "    seed: 77")
    )
    here.mkdir()
    monkeypatch.setattr("srrl.shipped.FOLDER", folder)
    monkeypatch.setenv("SRRL_CACHE", str(drawn[1]))
    monkeypatch.chdir(here)
    parser = argparse.ArgumentParser()
    COMMAND.add_arguments(parser)
    assert COMMAND.run(parser.parse_args(["shipped:faces68-small", "--format", "onnx"])) == 0
    assert "32 test pictures" in capsys.readouterr().out
    assert (here / "student.onnx").is_file() and not list(folder.rglob("*.onnx"))


@pytest.mark.slow
def test_a_student_starts_from_it(tmp_path):
    """One config: its weights are the student's before the first step, and a rate that moves nothing leaves them there."""
    from srrl.checkpoint import read_weights

    faces = tmp_path / "photographs"
    from small_run import faces as draw

    draw(faces)
    status, said, error = forked(
        "train", "-c", ROOT / "configs" / "faces-finetune.yaml", f"data.train={faces}", "epochs=1", "optim.lr=1e-12",
        "optim.ema=0", "optim.weight_decay=0", "threads=1", "--run-dir", "run", cwd=tmp_path,
    )  # fmt: skip
    assert status == 0, error
    trained = read_weights(tmp_path / "run" / "weights" / "student.safetensors")
    shipped = read_weights(located("shipped:faces68") / "weights" / "student.safetensors")
    weights = [k for k in shipped if k.endswith("weight")]
    assert max(float((trained[k].float() - shipped[k].float()).abs().max()) for k in weights) < 1e-4
