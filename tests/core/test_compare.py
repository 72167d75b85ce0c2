"""Tables of compare: means, deviations and paired intervals against SciPy's own t test and hand-worked values."""

import argparse
import json
import subprocess
import sys
import time

import pytest
import torch
from scipy import stats
from torch import nn

from srrl import cells
from srrl.cli import guarded
from srrl.compare import COMMAND, parse_methods
from srrl.comparison import paired_interval, tabulate
from srrl.errors import RunError, UserError
from srrl.train import resolve_settings


def settings_for_test(task, *overrides):
    args = argparse.Namespace(config=None, overrides=list(overrides), task=task, quick=False)
    return resolve_settings(args)


def cell(value):
    return {
        "student": {"nme": value},
        "teacher": {"nme": 4.5},
        "dataset": "d",
        "split": "test",
        "protocol": "p",
    }


def test_paired_interval_is_that_of_the_paired_t_test():
    srrl, none = [5.1, 5.3, 5.0, 5.2], [5.6, 5.5, 5.4, 5.9]
    found = paired_interval([b - a for a, b in zip(srrl, none)])
    expected = stats.ttest_rel(none, srrl).confidence_interval(0.95)
    assert found["interval"] == pytest.approx([expected.low, expected.high])
    assert found["excludes_zero"] == (expected.low > 0 or expected.high < 0)


def test_two_pairs_by_hand():
    # gains 0.2 and 0.4: mean 0.3, s = 0.1414, half width = 12.706 * 0.1414 / sqrt(2) = 1.2706
    found = paired_interval([0.2, 0.4])
    assert found["mean"] == pytest.approx(0.3)
    assert found["interval"] == pytest.approx([0.3 - 1.2706, 0.3 + 1.2706], abs=1e-3)
    assert not found["excludes_zero"]


def test_one_seed_has_no_interval_and_claims_nothing():
    assert paired_interval([0.7]) == {"mean": 0.7, "interval": None, "excludes_zero": False, "pairs": 1}
    assert paired_interval([]) == {"mean": None, "interval": None, "excludes_zero": False, "pairs": 0}


def test_the_last_epoch_counts_and_the_chosen_one_stands_beside_it():
    chosen, plain = cell(5.0), cell(6.0)
    chosen["student"]["last_epoch"] = {"nme": 5.5}
    finished = {("none", 0): plain, ("srrl", 0): chosen}
    table = tabulate(finished, {"none": [0], "srrl": [0]}, "nme", higher=False)
    assert table["methods"]["srrl"]["seeds"] == [5.5] and table["methods"]["srrl"]["best"]["seeds"] == [5.0]
    assert table["gains"]["srrl over none"]["mean"] == pytest.approx(0.5)


def test_gain_is_positive_where_srrl_is_better_whichever_way_the_metric_points():
    finished = {
        ("none", 0): cell(6.0),
        ("none", 1): cell(6.2),
        ("srrl", 0): cell(5.0),
        ("srrl", 1): cell(5.4),
    }
    methods = {"none": [0, 1], "srrl": [0, 1]}
    lower = tabulate(finished, methods, "nme", higher=False)
    assert lower["methods"]["none"]["mean"] == pytest.approx(6.1)
    assert lower["methods"]["none"]["std"] == pytest.approx(0.1414, abs=1e-4)  # n - 1: sqrt(0.02 / 1)
    assert lower["gains"]["srrl over none"]["mean"] == pytest.approx(0.9)
    higher = tabulate(finished, methods, "nme", higher=True)
    assert higher["gains"]["srrl over none"]["mean"] == pytest.approx(-0.9)
    json.dumps(lower, allow_nan=False)


def test_methods_with_their_own_seeds_are_paired_over_those_that_both_have():
    values = {
        "none": [6.0, 6.2, 5.8],
        "srrl": [5.0, 5.4, 5.3],
        "at": [5.5, None, 5.6],
        "ofd": [None, 5.9, None],
    }
    values["kd"] = [None, None, None, 7.0]
    finished = {(m, s): cell(v) for m, vs in values.items() for s, v in enumerate(vs) if v is not None}
    methods = {m: [s for s, v in enumerate(vs) if v is not None] for m, vs in values.items()}
    table = tabulate(finished, methods, "nme", higher=False)
    rows, gains = table["methods"], table["gains"]
    assert rows["at"]["seeds"] == [5.5, 5.6] and rows["at"]["seed_numbers"] == [0, 2]
    assert rows["at"]["mean"] == pytest.approx(5.55) and rows["ofd"]["mean"] == 5.9
    # srrl over at, seeds 0 and 2: gains 0.5 and 0.3: mean 0.4, s = 0.1414, half width 12.706 * 0.1414 / sqrt(2)
    over_at = gains["srrl over at"]
    assert (over_at["pairs"], over_at["mean"]) == (2, pytest.approx(0.4))
    assert over_at["interval"] == pytest.approx([0.4 - 1.2706, 0.4 + 1.2706], abs=1e-3)
    assert gains["srrl over none"]["pairs"] == 3
    assert gains["srrl over ofd"]["mean"] == pytest.approx(0.5) and gains["srrl over ofd"]["interval"] is None
    assert (gains["srrl over kd"]["pairs"], gains["srrl over kd"]["mean"]) == (0, None)
    json.dumps(table, allow_nan=False)


def test_methods_name_their_own_seeds():
    found = parse_methods("none, srrl,fitnet:0,at:1+2", [0, 1, 2])
    assert found == {"none": [0, 1, 2], "srrl": [0, 1, 2], "fitnet": [0], "at": [1, 2]}


@pytest.mark.parametrize("text", ["none,fitnet:x", "none,fitnet:", "at:0+0", "none,none", "none,fitnett:0"])
def test_methods_that_cannot_be_read(text):
    with pytest.raises(UserError, match="fitnet|at|none"):
        parse_methods(text, [0])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--methods", "none,srl"], "srl"),
        (["--seeds", "0,x"], "0,x"),
        (["--seeds", "-1"], "-1"),
        (["--seeds", "0,0"], "twice"),
    ],
)
def test_bad_methods_and_seeds_end_with_two(arguments, word, tmp_path, capsys):
    import argparse

    parser = argparse.ArgumentParser()
    COMMAND.add_arguments(parser)
    args = parser.parse_args(["--task", "faces", "--out", str(tmp_path / "t"), *arguments])
    assert guarded(lambda: COMMAND.run(args)) == 2
    assert word in capsys.readouterr().err


def ended_with(tmp_path, capsys, *arguments):
    import argparse

    parser = argparse.ArgumentParser()
    COMMAND.add_arguments(parser)
    args = parser.parse_args(["--task", "faces", "--out", str(tmp_path), *arguments])
    status = guarded(lambda: COMMAND.run(args))
    return status, capsys.readouterr().err


@pytest.fixture
def finished_cells(tmp_path):
    """A folder in which compare finds a teacher of its own and one cell of every method finished."""
    from srrl.config import dump, resolve
    from srrl.task import get_task

    cfg = resolve(get_task("faces").settings, {})
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "config.yaml").write_text(dump(cfg))
    (tmp_path / "teacher" / "finished").touch()
    cfg.teacher.checkpoint = str(tmp_path / "teacher" / "weights" / "teacher.safetensors")
    for value, method in enumerate(("none", "kd", "srrl"), 5):
        folder = tmp_path / f"{method}-seed0"
        folder.mkdir()
        cfg.method = method
        (folder / "config.yaml").write_text(dump(cfg))
        (folder / "results.json").write_text(json.dumps(cell(float(value))))
    return tmp_path


@pytest.mark.parametrize(
    ("change", "folder"),
    [
        ("alpha=7", "srrl-seed0"),
        ("kd_weight=7", "kd-seed0"),
        ("student.width=16", "none-seed0"),
        ("data.val_fraction=0.2", "teacher"),
        ("teacher.width=24", "teacher"),
    ],
)
def test_a_cell_made_with_other_settings_is_not_passed_off_as_this_one(
    change, folder, finished_cells, capsys
):
    status, message = ended_with(finished_cells, capsys, "--seeds", "0", "teacher=scratch", change)
    assert status == 2
    assert f"{finished_cells / folder} was made with other settings ({change.partition('=')[0]})" in message


def test_what_the_data_said_is_no_other_setting_unless_it_is_set(tmp_path, capsys):
    """Cells hold the size and the classes that their data had; the command that made them left them open."""
    from srrl.config import dump, resolve
    from srrl.task import get_task

    task = get_task("classification")
    cfg = resolve(task.settings, task.filled({}))
    cfg.image_size, cfg.data.classes, cfg.data.n_classes, cfg.data.format = 16, ["a", "b"], 2, "digits"
    cfg.method = "none"
    (tmp_path / "none-seed0").mkdir()
    (tmp_path / "none-seed0" / "config.yaml").write_text(dump(cfg))
    result = {**cell(5.0), "student": {"top1": 5.0}, "teacher": {"top1": 9.0}}
    (tmp_path / "none-seed0" / "results.json").write_text(json.dumps(result))
    again = ("--methods", "none", "--seeds", "0", "--task", "classification")
    assert ended_with(tmp_path, capsys, *again)[0] == 0
    status, message = ended_with(tmp_path, capsys, *again, "image_size=24")
    assert status == 2 and "made with other settings (image_size)" in message


@pytest.mark.parametrize(
    ("methods", "change"),
    [
        ("none,kd,srrl", "threads=1"),
        ("none,kd", "alpha=7"),
        ("none,srrl", "kd_weight=7"),
        ("none", "teacher.width=24"),
    ],
)
def test_settings_that_a_cell_does_not_read_leave_it_finished(methods, change, finished_cells, capsys):
    assert (
        ended_with(finished_cells, capsys, "--seeds", "0", "--methods", methods, "teacher=scratch", change)[0]
        == 0
    )
    table = json.loads((finished_cells / "table.json").read_text())
    assert set(table["methods"]) == set(methods.split(","))


def test_a_folder_from_before_a_setting_existed_has_its_default(finished_cells, capsys):
    for path in finished_cells.glob("*/config.yaml"):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if not line.startswith("score:")))
    assert ended_with(finished_cells, capsys, "--seeds", "0", "teacher=scratch")[0] == 0
    assert "(score)" in ended_with(finished_cells, capsys, "--seeds", "0", "teacher=scratch", "score=val")[1]


def test_the_table_shows_each_method_with_its_own_seeds(finished_cells, capsys):
    assert (
        ended_with(
            finished_cells, capsys, "teacher=scratch", "--methods", "none:0,kd:0,srrl", "--seeds", "0"
        )[0]
        == 0
    )
    results = finished_cells / "srrl-seed0"
    (finished_cells / "srrl-seed1").mkdir()
    for name in ("config.yaml", "results.json"):
        (finished_cells / "srrl-seed1" / name).write_text((results / name).read_text().replace("7.0", "8.0"))
    assert (
        ended_with(
            finished_cells, capsys, "teacher=scratch", "--methods", "none:0,kd:0,srrl", "--seeds", "0,1"
        )[0]
        == 0
    )
    text = (finished_cells / "table.md").read_text()
    assert "over 2 seeds (none: n = 1, kd: n = 1)" in text
    assert "| srrl | 7.500 ± 0.707 | 7.000, 8.000 | 7.500 |" in text  # sqrt(0.5)
    assert "| none | 5.000 | 5.000 | 5.000 |" in text
    assert "| srrl over none | -2.000 | – | – | 1 |" in text


def test_a_signal_reaches_the_cells_and_begins_no_other(tmp_path):
    """A real parent with real children, in the place of trainings one that notes when it begins and how it ends."""
    cell_script = tmp_path / "cell.py"
    cell_script.write_text(
        "import signal, sys, time\n"
        "name = sys.argv[1]\n"
        "def end(signum, frame):\n"
        "    open(name + '.ended', 'w').write(str(signum)); sys.exit(128 + signum)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "open(name + '.begun', 'w').close()\n"
        "time.sleep(60)\n"
    )
    parent = (
        "import sys; from pathlib import Path; from srrl import cells; from srrl.cli import guarded\n"
        f"out = Path({str(tmp_path)!r})\n"
        f"cells.train_command = lambda out, cell: [sys.executable, {str(cell_script)!r}, str(out / cell.name)]\n"
        "waiting = [cells.Cell(m, 0) for m in ('none', 'kd', 'srrl')]\n"
        "sys.exit(guarded(lambda: cells.run_cells(out, waiting, 2)))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent])
    begun = [tmp_path / "none-seed0.begun", tmp_path / "kd-seed0.begun"]
    deadline = time.monotonic() + 60
    while not all(path.exists() for path in begun) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=30) == 143
    assert [(tmp_path / f"{m}-seed0.ended").read_text() for m in ("none", "kd")] == ["15", "15"]
    assert not (tmp_path / "srrl-seed0.begun").exists()


def test_what_a_cell_was_given_wrongly_is_said_by_the_comparison(tmp_path, monkeypatch):
    """A real process that ends as a command line does; nothing else is begun after it."""
    status = {"none": 2, "kd": 2}

    def command(out, cell):
        code = (
            f"import sys; open({str(out / cell.name)!r}, 'w').close(); print('error: no {cell.name}'); "
            f"sys.exit({status[cell.method]})"
        )
        return [sys.executable, "-c", code]

    monkeypatch.setattr(cells, "train_command", command)
    waiting = [cells.Cell(m, 0) for m in ("none", "kd")]
    with pytest.raises(UserError, match="^none-seed0: no none-seed0$"):
        cells.run_cells(tmp_path, waiting, 1)
    assert not (tmp_path / "kd-seed0").exists()
    status["none"] = 1
    with pytest.raises(RunError, match="ended with status 1"):
        cells.run_cells(tmp_path, waiting, 1)
    assert not (tmp_path / "kd-seed0").exists()


def test_a_cell_that_what_a_killed_comparison_left_behind_has_just_ended_is_taken(tmp_path, monkeypatch):
    """Its own process is refused, as a real one is while another trains the folder, whose results come before it has ended."""
    refused = "import sys; print('error: it is being trained by another process'); sys.exit(2)"
    waiting = [cells.Cell("none", 0), cells.Cell("kd", 0)]
    (tmp_path / "none-seed0").mkdir()
    (tmp_path / "made.json").write_text('{"student": 5}')
    there = tmp_path / "none-seed0" / "results.json"
    made = f"import os; os.rename({str(tmp_path / 'made.json')!r}, {str(there)!r}); "

    def command(out, cell):
        return [sys.executable, "-c", made + refused if cell.method == "none" else refused]

    monkeypatch.setattr(cells, "train_command", command)
    assert cells.run_cells(tmp_path, waiting[:1], 1) == {waiting[0]: {"student": 5}}
    with pytest.raises(UserError, match="^kd-seed0: it is being trained"):  # and what has no results is not
        cells.run_cells(tmp_path, waiting, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--task", "classification", "method=kd"), "name them with --methods"),
        (("--task", "classification", "baseline=true"), "the row of method none"),
        (("--task", "cross_domain", "--methods", "none,crd"), "needs the label of every sample"),
        (("--task", "classification", "--methods", "srrl_stages", "srrl_stages=[7]"), "stage"),
        (("--task", "classification", "data.train=/nonexist"), "/nonexist"),
        (("--task", "classification", "--methods", "none", "data.train=/nonexist"), "/nonexist"),
        (("--task", "classification", "--seeds", "99999999999"), "seed"),
        (("--task", "classification", "teacher.checkpoint=/nonexist"), "/nonexist"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_trained(arguments, said, tmp_path, capsys):
    status, message = ended_with(tmp_path / "out", capsys, *arguments)
    assert status == 2 and said in message and len(message.strip().splitlines()) == 1
    assert not list(tmp_path.glob("out/*/checkpoints")) and not (tmp_path / "out" / "teacher").exists()


def test_methods_are_compared_without_the_rules_of_one_that_is_not_named(tmp_path):
    """share=1 leaves nothing for SRRL without KD's loss, which is the default method, but not for kd."""
    task, cfg = settings_for_test("cross_domain", "cross_domain.share=1", "added_kd=0")
    for cell in (cells.Cell("none", 0), cells.Cell("kd", 0)):
        task.check(cells.settings_of(task, cfg, cell))
    with pytest.raises(UserError, match="a smaller share"):
        task.check(cells.settings_of(task, cfg, cells.Cell("srrl", 0)))


def test_a_cell_of_another_teacher_is_refused(tmp_path):
    from srrl.checkpoint import save_weights

    ours, other = nn.Linear(2, 2), nn.Linear(2, 2)
    save_weights(tmp_path / "teacher.safetensors", ours, phase="teacher", epoch="3")
    waiting = [cells.Cell(m, 0) for m in ("none", "kd", "srrl")]
    save_weights(tmp_path / "none-seed0/weights/teacher.safetensors", other)
    save_weights(tmp_path / "srrl-seed0/weights/teacher.safetensors", ours)
    cells.check_teacher(tmp_path, waiting, tmp_path / "teacher.safetensors")
    save_weights(tmp_path / "kd-seed0/weights/teacher.safetensors", other)
    with pytest.raises(UserError, match="kd-seed0 learned from another teacher"):
        cells.check_teacher(tmp_path, waiting, tmp_path / "teacher.safetensors")


def test_a_teacher_kept_in_half_precision_is_the_same_one(tmp_path):
    from srrl.checkpoint import load_weights, save_weights

    half, model = tmp_path / "half.safetensors", nn.Linear(2, 2)
    save_weights(half, nn.Linear(2, 2).half())
    load_weights(model, half)
    assert model.weight.dtype == torch.float32
    cell = cells.Cell("kd", 0)
    save_weights(tmp_path / "kd-seed0/weights/teacher.safetensors", model)
    cells.check_teacher(tmp_path, [cell], half)
    with torch.no_grad():
        model.weight.mul_(1.001)
    save_weights(tmp_path / "kd-seed0/weights/teacher.safetensors", model)
    with pytest.raises(UserError, match="kd-seed0 learned from another teacher"):
        cells.check_teacher(tmp_path, [cell], half)


@pytest.mark.parametrize("arguments", [("--jobs", "0"), ("--out", "FILE")])
def test_no_job_and_a_file_for_a_folder_end_with_two(arguments, tmp_path, capsys):
    import argparse

    (tmp_path / "FILE").touch()
    arguments = [a.replace("FILE", str(tmp_path / "FILE")) for a in arguments]
    parser = argparse.ArgumentParser()
    COMMAND.add_arguments(parser)
    with pytest.raises(SystemExit) as stopped:
        args = parser.parse_args(["--task", "faces", "--out", str(tmp_path), *arguments])
        raise SystemExit(guarded(lambda: COMMAND.run(args)))
    assert stopped.value.code == 2
    assert arguments[-1] in capsys.readouterr().err


def test_the_points_that_the_data_named_are_no_other_setting(finished_cells, capsys):
    """The folder as a run on 29-point faces leaves it: data.n_points was written by the data, not by the user."""
    from srrl.config import read_yaml
    from srrl.runs import write_text

    for path in finished_cells.glob("*/config.yaml"):
        values = read_yaml(path)
        values["data"] |= {"n_points": 29, "train": "faces"}
        write_text(path, json.dumps(values))
    assert ended_with(finished_cells, capsys, "--seeds", "0", "data.train=faces")[0] == 0
