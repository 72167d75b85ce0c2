"""The linear probe against scikit-learn by hand, what it keeps, and data that it cannot use."""

import argparse
import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from coloured import TINY, colours
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from srrl_tasks.classification.task import ClassificationTask

from srrl.api import open_run
from srrl.cells import Cell
from srrl.checkpoint import load_weights, save_weights
from srrl.cli import guarded
from srrl.compare import COMMAND
from srrl.config import apply_overrides, dump, resolve
from srrl.pipeline import Pipeline
from srrl.probe import STRENGTHS, linear_probe, pooled_features, probe_cells
from srrl.runs import RunFolder

TASK = ClassificationTask()
QUICK = [t for t in TINY if t != "threads=1"]  # these tests share their process with others


def shapes(root, splits=("train", "test"), count=12, kinds=("circle", "cross", "square")):
    """Pictures of 20² with one shape of any colour and place on noise: the colour says nothing."""
    rng = np.random.default_rng(1)
    for split in splits:
        for kind in kinds:
            (root / split / kind).mkdir(parents=True)
            for i in range(count):
                picture = rng.integers(0, 90, (20, 20, 3), dtype=np.uint8)
                (x, y), r = rng.integers(7, 13, 2).tolist(), int(rng.integers(3, 6))
                colour = rng.integers(120, 255, 3).tolist()
                if kind == "circle":
                    cv2.circle(picture, (x, y), r, colour, 1)
                elif kind == "square":
                    cv2.rectangle(picture, (x - r, y - r), (x + r, y + r), colour, 1)
                else:
                    cv2.line(picture, (x - r, y), (x + r, y), colour, 1)
                    cv2.line(picture, (x, y - r), (x, y + r), colour, 1)
                assert cv2.imwrite(str(root / split / kind / f"{i}.png"), picture)
    return root


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A folder with the cells of none and simkd, as compare makes them, and the probe's data."""
    root = tmp_path_factory.mktemp("probe é 2")
    colours(root / "set", classes=("red", "green", "blue"))
    shapes(root / "shapes")
    out, cells = root / "out", [Cell("none", 0), Cell("simkd", 0)]
    overrides = [f"data.train={root / 'set'}", *QUICK, "baseline=false"]
    for cell in cells:
        own = apply_overrides({}, [*overrides, f"method={cell.method}"])
        run = RunFolder(out / cell.name)
        run.path.mkdir(parents=True)
        cfg = resolve(TASK.settings, own)
        Pipeline(TASK, cfg, run, say=lambda text: None).run()
    torch.manual_seed(9)
    last = TASK.build_student(cfg)  # other weights than the chosen ones, which two epochs do not always give
    save_weights(out / "none-seed0/weights/student-last.safetensors", last)
    return root, out, cells, overrides


def probe_data(root, size=16):
    return TASK.probe_data(str(root / "shapes"), resolve(TASK.settings, {"image_size": size}), print)


def by_hand(model, data):
    """Features one picture at a time, standardised with NumPy, and scikit-learn's regression for every C."""
    model.eval()
    with torch.no_grad():
        x, y = {}, {}
        for part in ("train", "val", "test"):
            samples = [getattr(data, part)[i] for i in range(len(getattr(data, part)))]
            maps = [model.forward_features(s["image"][None].float() / 255)[0] for s in samples]
            x[part] = np.array([[float(channel.mean()) for channel in m] for m in maps])
            y[part] = np.array([int(s["label"]) for s in samples])

    def score(c, features, labels, others, answers):
        mean, std = features.mean(0), features.std(0)
        std[std == 0] = 1
        regression = LogisticRegression(C=c, max_iter=5000).fit((features - mean) / std, labels)
        return 100 * float((regression.predict((others - mean) / std) == answers).mean())

    chosen = [score(c, x["train"], y["train"], x["val"], y["val"]) for c in STRENGTHS]
    c = STRENGTHS[chosen.index(max(chosen))]
    both = [np.concatenate([part["train"], part["val"]]) for part in (x, y)]
    return score(c, *both, x["test"], y["test"]), c, x["test"]


def test_probe_data_is_resized_cut_from_train_alone_and_not_augmented(compared):
    root = compared[0]
    data = probe_data(root)
    assert [len(s) for s in (data.train, data.val, data.test)] == [
        30,
        6,
        36,
    ]  # a fifth of 12, rounded, each class
    batch = data.test[0]
    expected = cv2.resize(
        cv2.imread(str(root / "shapes/test/circle/0.png"))[..., ::-1], (16, 16), interpolation=cv2.INTER_AREA
    )
    assert batch["image"].dtype == torch.uint8
    assert np.array_equal(batch["image"].permute(1, 2, 0).numpy(), expected)
    assert probe_data(root, 40).test[0]["image"].shape == (3, 40, 40)


def test_the_probe_is_scikit_learns_regression_on_pooled_features(compared):
    root, out, _, _ = compared
    data = probe_data(root)
    cfg = resolve(TASK.settings, {"data": {"n_classes": 3}, "student": {"width": 4}})
    torch.manual_seed(5)
    model = TASK.build_student(cfg)
    top1, c, features = by_hand(model, data)
    assert pooled_features(model.train(), data.test)[0] == pytest.approx(features, abs=1e-5)
    assert model.training  # as it was
    found = linear_probe(model, data)
    assert (found["C"], found["channels"]) == (c, 16) and found["top1"] == pytest.approx(top1)


def test_cells_are_probed_once_with_their_last_weights_beside_teacher_and_untrained_student(
    compared, monkeypatch
):
    root, out, cells, _ = compared
    data, said = probe_data(root), []
    found = probe_cells(TASK, "shapes", data, out, cells, said.append)
    cfg = resolve(TASK.settings, apply_overrides({}, compared[3]), {"data": {"n_classes": 3}})
    torch.manual_seed(0)
    untrained = TASK.build_student(cfg)
    assert found["untrained"] == {0: pytest.approx(by_hand(untrained, data)[0])}
    last = TASK.build_student(cfg)
    load_weights(last, out / "none-seed0/weights/student-last.safetensors")
    assert found["methods"]["none"] == {0: pytest.approx(by_hand(last, data)[0])}
    teacher = TASK.build_teacher(cfg)
    load_weights(teacher, out / "simkd-seed0/weights/teacher.safetensors")
    assert found["teacher"] == pytest.approx(by_hand(teacher, data)[0])
    # what simkd deploys ends in the teacher's width, 8 · 4 channels
    kept = json.loads((out / "simkd-seed0/probe-shapes-student.json").read_text())
    assert kept["channels"] == 32 and (kept["train"], kept["test"], kept["classes"]) == (36, 36, 3)
    assert len(said) == 4
    monkeypatch.setattr("srrl.probe.linear_probe", lambda model, data: pytest.fail("computed again"))
    assert probe_cells(TASK, "shapes", data, out, cells, said.append) == found
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        probe_cells(TASK, "other", data, out, cells, said.append)


def test_the_chosen_and_the_last_weights_are_told_apart(compared):
    opened = open_run(compared[1] / "none-seed0")
    for last, name in ((True, "student-last"), (False, "student")):
        saved = load_file(compared[1] / f"none-seed0/weights/{name}.safetensors")
        state = opened.model("student", last=last).state_dict()
        assert all(state[k].equal(v) for k, v in saved.items())


def ended_with(capsys, *arguments):
    parser = argparse.ArgumentParser()
    COMMAND.add_arguments(parser)
    status = guarded(lambda: COMMAND.run(parser.parse_args([str(a) for a in arguments])))
    return status, capsys.readouterr()


def test_compare_reports_the_probe_of_finished_cells(compared, capsys):
    """Whole command on cells that are there already; the gain by hand from the kept accuracies."""
    root, out, cells, overrides = compared
    teacher = out / "teacher"
    (teacher / "weights").mkdir(parents=True, exist_ok=True)
    shutil.copy(out / "simkd-seed0/weights/teacher.safetensors", teacher / "weights")
    cfg = resolve(TASK.settings, apply_overrides({}, overrides))
    (teacher / "config.yaml").write_text(dump(cfg))
    (teacher / "finished").touch()
    arguments = ["--task", "classification", "--methods", "none,simkd", "--seeds", "0", "--out", out]
    status, said = ended_with(capsys, *arguments, *overrides[:-1], "--probe", root / "shapes")
    assert status == 0, said.err
    table = json.loads((out / "table.json").read_text())["probe"]
    top1 = {
        (cell, name): json.loads((out / f"{cell}-seed0/probe-shapes-{name}.json").read_text())["top1"]
        for cell, name in (
            ("none", "student"),
            ("simkd", "student"),
            ("simkd", "teacher"),
            ("none", "untrained"),
        )
    }
    assert table["methods"]["none"]["seeds"] == [top1["none", "student"]]
    assert table["untrained"]["mean"] == top1["none", "untrained"]
    gain = top1["simkd", "student"] - top1["none", "student"]
    assert table["gains"]["simkd over none"]["mean"] == pytest.approx(gain)
    assert "Channels of the features: none 16, simkd 32." in said.out
    rows = {
        line.split("|")[1].strip(): line.split("|")[-3].strip()
        for line in said.out.splitlines()
        if "|" in line
    }
    assert rows["teacher"] == f"{top1['simkd', 'teacher']:.3f}"
    assert rows["untrained student"] == f"{top1['none', 'untrained']:.3f}"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: p / "missing", "no such file or folder"),
        (lambda p: shapes(p / "one", kinds=("circle",)), "has one class, 'circle'"),
        (lambda p: shapes(p / "untested", splits=("train",), count=3), "untested has no test pictures"),
        (lambda p: shapes(p / "untaught", splits=("test",), count=2), "untaught has no training pictures"),
        (lambda p: "cifar10", "expected cifar10:ROOT"),
        (lambda p: f"stl10:{p}", "no usable stl10"),
    ],
)
def test_data_that_cannot_be_probed_end_the_command_before_anything_is_trained(make, said, tmp_path, capsys):
    source, out = make(tmp_path), tmp_path / "out"
    for task in ("classification", "binary"):
        status, (_, error) = ended_with(capsys, "--task", task, "--out", out, "--probe", source)
        assert status == 2 and f"--probe {source}: " in error and said in error
        assert len(error.splitlines()) == 1 and not out.exists()


def test_a_task_without_classes_says_so(tmp_path, capsys):
    status, (_, error) = ended_with(capsys, "--task", "faces", "--out", tmp_path / "out", "--probe", "digits")
    assert status == 2 and "the task faces has no class labels to probe" in error
