"""Whole classification runs as real processes: the contract's results, prediction, other data, and what does not fit."""

import argparse
import csv
import json
import re
import shutil

import cv2
import pytest
from coloured import CLASSES, TINY, colours, pack
from forked import forked

import srrl
from srrl.cli import guarded
from srrl.evaluate import COMMAND as EVALUATE


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes é 2")
    archive = pack(colours(folder / "set"), folder / "colours.tar")
    arguments = ["--task", "classification", f"data.train={archive}", *TINY, "--run-dir", folder / "run"]
    status, out, error = forked("train", *arguments)
    assert status == 0, error
    return folder, out


def test_results_are_those_of_the_contract(run):
    folder, out = run
    results = json.loads((folder / "run/results.json").read_text())
    assert (results["task"], results["dataset"], results["split"]) == ("classification", "colours", "test")
    assert (
        "which is little to learn from: batch_size=" in out
    )  # of one's own pictures; the embedded ones are few on purpose
    report = (folder / "run/report.md").read_text()
    assert "28 training samples are 3 batches an epoch and 6 in all, which is little to learn from" in report
    assert results["largest_class_top1"] == pytest.approx(100 / 7)  # seven classes with four pictures each
    assert "always naming the largest class gives 14.3 %" in report and "Data colours, split *test*" in report
    for model in ("teacher", "student", "baseline"):
        assert {"top1", "top5", "params", "macs", "size_bytes", "latency_ms_p50"} <= results[model].keys()
        assert results[model]["classes"].keys() == set(CLASSES)
    for picture in ("curves", "classes", "contact"):
        assert cv2.imread(str(folder / "run/plots" / f"{picture}.png")).std() > 5
    assert "train 28 pictures, val 28 pictures, test 28 pictures, 7 classes, 16 pixels" in out


def test_saved_models_are_the_scored_ones(run):
    """Accuracy counted by hand over single predictions of srrl.load, against results.json."""
    folder, _ = run
    results = json.loads((folder / "run/results.json").read_text())
    classifier = srrl.load(folder / "run")
    right = top5 = 0
    for name in CLASSES:
        for i in range(4):
            guesses = classifier(folder / f"set/test/{name}/{i}.png")
            assert sum(g.probability for g in guesses) <= 1 + 1e-6 and len(guesses) == 5
            right += guesses[0].name == name
            top5 += name in [g.name for g in guesses]
    assert results["student"]["top1"] == pytest.approx(100 * right / 28)
    assert results["student"]["top5"] == pytest.approx(100 * top5 / 28)


def test_predict_writes_a_table_and_drawn_copies(run, tmp_path):
    folder, _ = run
    pictures, found = tmp_path / "bilder é", tmp_path / "gefunden 写真 1"
    shutil.copytree(folder / "set/test/red", pictures)
    (pictures / "0.png").rename(pictures / "ein bild ü.png")
    status, out, error = forked("predict", folder / "run", pictures, "--out", found, "--model", "teacher")
    assert status == 0, error
    (table,) = found.glob("*.csv")
    rows = list(csv.DictReader(open(table)))
    assert (
        str(pictures / "ein bild ü.png") in {r["file"] for r in rows} and (found / "ein bild ü.jpg").is_file()
    )
    assert len(rows) == 4 * 5 and {r["rank"] for r in rows} == set("12345")
    assert {r["class"] for r in rows} <= set(CLASSES)
    assert len(list(found.glob("*.jpg"))) == 4
    assert forked("predict", folder / "run", folder / "set", "--box", "whole")[0] == 2


def test_a_run_that_lost_a_setting_is_refused(run, tmp_path):
    shutil.copytree(run[0] / "run", tmp_path / "run")
    config = tmp_path / "run/config.yaml"
    text = re.sub(r"(?m)^#.*\n", "", config.read_text())  # no checksum, as runs were written before
    config.write_text(re.sub(r"(?m)^image_size: .*$", "image_size: null", text))
    status, _, error = forked("predict", tmp_path / "run", run[0] / "set/test/red", "--out", tmp_path / "out")
    assert status == 2 and "does not say image_size" in error and len(error.strip().splitlines()) == 1


def test_evaluation_on_other_data_of_the_same_classes_and_of_others(run, tmp_path):
    folder, _ = run
    colours(tmp_path / "other", splits=("",), count=2)
    status, out, error = forked(
        "evaluate", folder / "run", "--data", tmp_path / "other", "--model", "student"
    )
    assert status == 0, error
    assert "split all (14 samples)" in out
    colours(tmp_path / "strange", splits=("",), classes=("red", "green", "ochre"))
    status, _, error = forked("evaluate", folder / "run", "--data", tmp_path / "strange")
    assert status == 2 and "a class 'ochre' that this run was not trained for: it knows 7 (" in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--flip-test",), "--flip-test is for faces, not for classification"),
        (("--box", "detector"), "--box is for faces"),
        (("--json", "FOLDER"), "no file can be written there"),
        (("--json", "FOLDER/set.json/x.json"), "no file can be written there"),
    ],
)
def test_what_evaluate_cannot_use_is_said_before_it_measures(run, tmp_path, arguments, said, capsys):
    folder, _ = run
    (tmp_path / "set.json").touch()
    arguments = [a.replace("FOLDER", str(tmp_path)) for a in arguments]
    parser = argparse.ArgumentParser()
    EVALUATE.add_arguments(parser)
    args = parser.parse_args([str(folder / "run"), *arguments])
    assert guarded(lambda: EVALUATE.run(args)) == 2
    message = capsys.readouterr().err.strip().splitlines()
    assert len(message) == 1 and said in message[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["teacher.checkpoint=missing.pt"], "missing.pt does not exist"),
        (["student.arch=resnet9"], "network 'resnet9' is not known"),
        (["data.format=cifar10"], "no usable cifar10"),
        (["method=dkdd"], "did you mean 'dkd'"),
    ],
)
def test_what_does_not_fit_ends_with_two_and_one_line(run, tmp_path, changes, message):
    folder, _ = run
    data = tmp_path if "data.format=cifar10" in changes else folder / "set"
    arguments = ["--task", "classification", f"data.train={data}", *TINY, *changes]
    status, _, error = forked("train", *arguments, "--run-dir", tmp_path / "run")
    assert status == 2 and message in error.strip().splitlines()[-1] and "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_other_classes_is_refused(run, tmp_path):
    folder, _ = run
    colours(tmp_path / "fewer", classes=CLASSES[:3])
    arguments = ["--task", "classification", f"data.train={tmp_path / 'fewer'}", *TINY]
    checkpoint = f"teacher.checkpoint={folder / 'run'}"
    status, _, error = forked("train", *arguments, checkpoint, "--run-dir", tmp_path / "run")
    assert status == 2 and "classifier" in error.strip().splitlines()[-1]
