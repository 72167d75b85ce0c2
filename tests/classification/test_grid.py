"""Grids: how trials are read, which one is chosen, and that nothing of the test split is."""

import argparse
import json

import pytest
import torch
from coloured import TINY, colours
from small_run import ROOT, faces
from srrl_tasks.classification.task import ClassificationTask
from srrl_tasks.faces.settings import FacesSettings
from srrl_tasks.faces.task import FacesTask

from srrl.cells import Cell
from srrl.cli import guarded
from srrl.compare import COMMAND
from srrl.config import apply_overrides, dump, read_yaml, resolve
from srrl.data import KeyedDataset
from srrl.errors import UserError
from srrl.grid import PAIRS, parse_grid, tabulate_grid
from srrl.pipeline import Pipeline
from srrl.runs import RunFolder
from srrl.task import get_task

TASK = ClassificationTask()
SETTINGS = resolve(TASK.settings, {})
QUICK = [t for t in TINY if t != "threads=1"]  # these tests share their process with others


def trials(text, methods=("srrl",)):
    return parse_grid(text, list(methods), TASK, SETTINGS)


def test_the_default_is_the_authors_three_pairs():
    pairs = {"srrl": [(f"alpha={a}", f"beta={b}") for a, b in ((1, 1), (1, 5), (10, 1))]}
    assert trials(PAIRS) == pairs == trials(" 1.0,1  1,5e0 alpha=10,beta=1 ")


def test_trials_of_every_method_and_of_one():
    assert trials("optim.lr=0.1 optim.lr=0.02,optim.ema=0.9", ["none", "kd"]) == {
        m: [("optim.lr=0.1",), ("optim.lr=0.02", "optim.ema=0.9")] for m in ("none", "kd")
    }
    found = trials("srrl_pooled:1,1 srrl_pooled:2,1 kd:kd_weight=2 kd:kd_temperature=2")
    assert list(found) == ["srrl_pooled", "kd"] and found["kd"] == [("kd_weight=2",), ("kd_temperature=2",)]
    both = trials("optim.schedule=step,optim.milestones=[10,20] optim.lr=0.1")["srrl"]
    assert both[0] == ("optim.schedule=step", "optim.milestones=[10,20]")


def test_folders_are_named_by_their_trial():
    assert Cell("srrl", 2, trials(PAIRS)["srrl"][1], in_grid=True).name == "srrl-alpha=1-beta=5-seed2"
    assert (
        Cell("none", 0, ("optim.milestones=[10,20]",), in_grid=True).name
        == "none-optim.milestones=_10_20_-seed0"
    )


BAD = {
    "": "no trial",
    "1,1": "one trial of srrl",
    "1,1 x,2": "'x,2' is no trial",
    "1,1 5": "'5' is no trial",
    "1,1 1,5,9": "'1,5,9' is no trial",
    "1,1 -1,5": "greater than or equal to 0",
    "1,1 nan,5": "alpha",
    "1,1 1,1.0": "stands twice for srrl",
    "1,1 kdd:kd_weight=2": "did you mean 'kd'",
    "kd:1,1 kd:1,5": "sets alpha, with which kd is not tuned",
    "1,1 epochs=50": "sets epochs",
    "data.train=photos": "sets data.train.*what every run shares stands before --grid",
    "1,1 optim.rate=3": "optim.rate",
}


@pytest.mark.parametrize("text", BAD)
def test_grids_that_cannot_be_read(text):
    with pytest.raises(UserError, match=BAD[text]):
        trials(text)


def ended_with(*arguments):
    parser = argparse.ArgumentParser()
    COMMAND.add_arguments(parser)
    return guarded(lambda: COMMAND.run(parser.parse_args([str(a) for a in arguments])))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--methods", "kd,srrl", "--grid", "srrl:1,1 srrl:1,5"), "no trial of kd"),
        (("--grid", "--probe", "digits"), "leave it out to compare"),
        (("--tuned", "missing.json"), "missing.json: No such file"),
        (("--tuned", __file__), "is not the table-grid.json"),
        (("--grid", "data.train=photos"), "sets data.train"),
    ],
)
def test_a_bad_grid_ends_with_two_and_one_line(arguments, said, tmp_path, capsys):
    assert ended_with("--task", "classification", "--out", tmp_path / "table", *arguments) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
    assert not (tmp_path / "table").exists()


def test_the_best_mean_of_each_method_is_chosen_whichever_way_the_metric_points():
    """The last epoch counts: 61 is only the figure of a chosen epoch."""
    figures = {
        ("srrl", "a"): [60.0, 50.0],
        ("srrl", "b"): [56.0, 57.0],
        ("kd", "c"): [40.0, 44.0],
        ("kd", "d"): [42.0],
    }
    finished = {}
    for (method, trial), values in figures.items():
        for seed, value in enumerate(values):
            student = {"top1": 61.0, "last_epoch": {"top1": value}}
            finished[Cell(method, seed, (trial,))] = {
                "student": student, "dataset": "d", "split": "val", "protocol": "p",
            }  # fmt: skip
    higher = tabulate_grid(finished, "top1", higher=True)
    assert higher["chosen"] == {"srrl": ["b"], "kd": ["c"]}  # 55 against 56.5; 42 against 42: the first
    assert higher["number_of_trials"] == {"srrl": 2, "kd": 2}
    assert [row["mean"] for row in higher["trials"]] == [55.0, 56.5, 42.0, 42.0]
    assert higher["trials"][0]["std"] == pytest.approx(50**0.5)
    assert tabulate_grid(finished, "top1", higher=False)["chosen"] == {"srrl": ["a"], "kd": ["c"]}


class Forbidden:
    """A test split that must be left alone."""

    def __len__(self):
        raise AssertionError("the test split was counted")

    def __getitem__(self, key):
        raise AssertionError("the test split was read")


class Guarded(ClassificationTask):
    """A task that hands out a test split whatever is set, as one of a plugin may."""

    def prepare(self, cfg, say, *, evaluation=False):
        data = super().prepare(cfg, say, evaluation=evaluation)
        data.test, data.details["split"] = KeyedDataset(Forbidden()), "test"
        return data


def test_a_run_on_validation_never_touches_the_test_split(tmp_path):
    changes = apply_overrides({}, [f"data.train={colours(tmp_path / 'set')}", *QUICK, "method=none"])
    cfg = resolve(TASK.settings, changes, {"score": "val"})
    results = Pipeline(Guarded(), cfg, RunFolder(tmp_path / "val"), say=lambda text: None).run()
    assert results["split"] == "val"
    header, *rows = (tmp_path / "val" / "metrics.csv").read_text().splitlines()
    logged = dict(zip(header.split(","), rows[-1].split(","), strict=True))["val_top1"]
    assert results["student"]["last_epoch"]["top1"] == pytest.approx(float(logged), abs=1e-3)
    tested = Pipeline(Guarded(), resolve(TASK.settings, changes), RunFolder(tmp_path / "test")).prepare()
    with pytest.raises(AssertionError, match="the test split was read"):
        tested.test[0]


@pytest.mark.parametrize("given", [{}, {"task": "cross_domain"}])
def test_a_run_on_validation_is_evaluated_on_it_again(given):
    """The embedded digits, which have no path, and the same on textures: the very pictures that the run was scored on."""
    task = get_task(given.get("task", "classification"))
    cfg = resolve(task.settings, task.filled({}), {"score": "val"})
    run = task.prepare(cfg, lambda text: None).on_validation()
    again = task.prepare(cfg, lambda text: None, evaluation=True)
    assert again.details["split"] == "val" and len(again.test) == 149
    assert torch.equal(again.test.images, run.test.images)


def test_faces_of_the_test_split_are_not_read(tmp_path):
    for split in ("train", "val", "test"):
        faces(tmp_path / split, 2)
    for path in (tmp_path / "test").iterdir():
        path.write_text("damaged")
    cfg = FacesSettings(score="val", data={"train": str(tmp_path)})
    data = FacesTask().prepare(cfg, lambda text: None)
    assert data.details["split"] == "val"
    assert [r.image for r in data.test.records] == [r.image for r in data.val.records]
    with pytest.raises(UserError):
        FacesTask().prepare(FacesSettings(data={"train": str(tmp_path)}), lambda text: None)


def test_a_grid_from_end_to_end_with_test_pictures_that_nobody_can_read(tmp_path, monkeypatch, capsys):
    pictures, out_folder, maps = (tmp_path / name for name in ("farben 写真", "gitter é 1", "karten ü 2"))
    colours(pictures, classes=("red", "green", "blue"))
    for path in (pictures / "test").glob("*/*.png"):
        path.write_text("damaged")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the cells' processes
    arguments = ["--task", "classification", "--out", out_folder, "--seeds", "3", "--jobs", "2"]
    arguments += [
        f"data.train={pictures}",
        f"teacher.memory={maps}",
        *QUICK,
        "epochs=1",
        "--grid",
        "1,1 10,1",
    ]
    assert ended_with(*arguments) == 0
    out = capsys.readouterr().out
    table = json.loads((out_folder / "table-grid.json").read_text())
    assert table["split"] == "val" and table["number_of_trials"] == {"srrl": 2}
    for pair, row in zip(("alpha=1-beta=1", "alpha=10-beta=1"), table["trials"], strict=True):
        results = json.loads((out_folder / f"srrl-{pair}-seed3" / "results.json").read_text())
        made = read_yaml(out_folder / f"srrl-{pair}-seed3" / "config.yaml")
        assert [f"alpha={float(made['alpha']):g}", f"beta={float(made['beta']):g}"] == row["settings"]
        assert results["split"] == "val" and row["seeds"] == [results["student"]["last_epoch"]["top1"]]
    chosen = max(table["trials"], key=lambda row: row["mean"])["settings"]
    assert table["chosen"] == {"srrl": chosen} and f"**Chosen for srrl: {' '.join(chosen)}**" in out
    assert (out_folder / "table-grid.png").stat().st_size > 5000
    assert list(maps.iterdir())


def test_the_tuned_settings_are_those_of_the_cells(tmp_path, capsys):
    """Cells as they would be there: compare accepts those made with the chosen settings, and no others."""
    out = tmp_path / "out"
    for method, settings in (("none", []), ("kd", ["kd_weight=2", "optim.lr=0.1"])):
        cfg = resolve(TASK.settings, apply_overrides(TASK.filled({}), settings), {"method": method})
        result = {"student": {"top1": 5.0}, "dataset": "d", "split": "test", "protocol": "p"}
        (out / f"{method}-seed0").mkdir(parents=True)
        (out / f"{method}-seed0" / "config.yaml").write_text(dump(cfg))
        (out / f"{method}-seed0" / "results.json").write_text(json.dumps(result))
    (out / "teacher").mkdir()
    (out / "teacher" / "config.yaml").write_text(dump(resolve(TASK.settings, TASK.filled({}))))
    (out / "teacher" / "finished").touch()
    grid = tmp_path / "table-grid.json"
    arguments = ["--task", "classification", "--methods", "none,kd", "--seeds", "0", "--out", out]
    for weight, status in ((2, 0), (3, 2)):
        chosen = {"chosen": {"kd": [f"kd_weight={weight}", "optim.lr=0.1"]}, "number_of_trials": {"kd": 3}}
        grid.write_text(json.dumps(chosen))
        assert ended_with(*arguments, "--tuned", grid) == status
    said = capsys.readouterr()
    assert "validation split: none not tuned; kd kd_weight=2 optim.lr=0.1 (3 trials)." in said.out
    assert "made with other settings (kd_weight)" in said.err
