"""The run folder: numbering, what is never overwritten, and a metrics.csv that stays one table."""

import csv
import json
import math
import os
import socket
import stat
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from small_run import ROOT

from srrl.config import read_yaml
from srrl.errors import RunError, UserError
from srrl.runs import (
    MetricsLog,
    RunFolder,
    atomic,
    check_writable,
    environment,
    read_json,
    write_json,
    write_text,
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_empty_folder_can_be_taken(tmp_path):
    (tmp_path / "run").mkdir()
    assert RunFolder.create("faces", str(tmp_path / "run")).path == tmp_path / "run"
    (tmp_path / "run" / "file").touch()
    with pytest.raises(UserError, match="exists"):
        RunFolder.create("faces", str(tmp_path / "run"))


def test_runs_are_numbered_after_the_largest(here):
    assert [str(RunFolder.create("faces").path) for _ in range(2)] == ["runs/faces/001", "runs/faces/002"]
    (here / "runs/faces/041").mkdir()
    (here / "runs/faces/notes").mkdir()
    (here / "runs/faces/²").mkdir()  # a digit to Python, a number to nobody
    assert RunFolder.create("faces").path.name == "042"
    assert str(RunFolder.create("binary").path) == "runs/binary/001"
    (here / "runs/faces/999").mkdir()
    assert RunFolder.create("faces").path.name == "1000"


def test_two_runs_at_once_take_two_numbers(here, monkeypatch):
    RunFolder.create("faces")
    monkeypatch.setattr("pathlib.Path.glob", lambda *_: iter(()))  # it has not seen the other's folder yet
    assert RunFolder.create("faces").path.name == "002"


def test_an_explicit_folder_must_be_new(here):
    run = RunFolder.create("faces", "out/mine")
    assert run.path.is_dir()
    (here / "out/mine/precious.txt").write_text("x")
    with pytest.raises(UserError, match=r"out/mine exists: choose another --run-dir, or go on with --resume"):
        RunFolder.create("faces", "out/mine")
    assert (here / "out/mine/precious.txt").read_text() == "x"
    (here / "file").write_text("")
    for bad in ("file", "file/below"):
        with pytest.raises(UserError) as error:
            RunFolder.create("faces", bad)
        assert "\n" not in str(error.value)


def test_opening_what_is_no_run(here):
    with pytest.raises(UserError, match="does not exist: expected a folder"):
        RunFolder.open("runs/faces/007")
    (here / "empty").mkdir()
    with pytest.raises(UserError, match=r"has no config\.yaml"):
        RunFolder.open("empty")
    (here / "empty/config.yaml").write_text("task: faces\n")
    assert RunFolder.open("empty").models() == []


def test_models_are_those_with_weights(here):
    run = RunFolder.create("faces")
    for name in ("student", "student-last", "teacher"):
        run.weights(name).parent.mkdir(exist_ok=True)
        run.weights(name).write_bytes(b"")
    assert run.models() == ["teacher", "student"]
    assert run.weights("student").relative_to(run.path).as_posix() == "weights/student.safetensors"
    assert run.checkpoint("student").relative_to(run.path).as_posix() == "checkpoints/student.pt"


def table(path):
    with open(path, newline="") as handle:
        return list(csv.DictReader(handle))


def test_metrics_have_one_header_that_grows(tmp_path):
    path = tmp_path / "metrics.csv"
    log = MetricsLog(path)
    log.add({"phase": "teacher", "epoch": 1, "loss": 1 / 3})
    log.add({"phase": "student", "epoch": 1, "loss": 2.0, "fm": 0.5})
    log = MetricsLog(path)  # another process goes on
    log.add({"phase": "student", "epoch": 2, "loss": 1.5, "fm": 1e-9, "note": 'a "b", c'})
    lines = path.read_text().splitlines()
    assert lines[0] == "phase,epoch,loss,fm,note"
    assert sum(line.startswith("phase") for line in lines) == 1
    rows = table(path)
    assert [(r["phase"], r["epoch"]) for r in rows] == [("teacher", "1"), ("student", "1"), ("student", "2")]
    assert float(rows[0]["loss"]) == pytest.approx(1 / 3, rel=1e-5)
    assert rows[0]["fm"] == ""
    assert float(rows[2]["fm"]) == pytest.approx(1e-9)
    assert rows[2]["note"] == 'a "b", c'


def test_trim_cuts_only_this_phase_after_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.csv"
    log = MetricsLog(path)
    for phase in ("teacher", "student"):
        for epoch in range(1, 12):
            log.add({"phase": phase, "epoch": epoch, "loss": float(epoch)})
    log = MetricsLog(path)
    log.trim("student", 9)  # a comparison of texts would put 10 before 9
    log.add({"phase": "student", "epoch": 10, "loss": 0.0})
    rows = table(path)
    assert [int(r["epoch"]) for r in rows if r["phase"] == "teacher"] == list(range(1, 12))
    assert [int(r["epoch"]) for r in rows if r["phase"] == "student"] == list(range(1, 11))
    assert rows[-1]["loss"] == "0"
    log.trim("student", 0)
    log.add({"phase": "student", "epoch": 1, "loss": 5.0})
    assert len(table(path)) == 12


def test_json_is_standard_and_readable(tmp_path):
    path = tmp_path / "r.json"
    write_json(path, {"name": "ü", "n": [1, 2.5]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "ü", "n": [1, 2.5]}
    assert "ü" in path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"x": math.nan})  # no JSON reader takes NaN
    assert json.loads(path.read_text(encoding="utf-8"))["n"] == [1, 2.5]


def test_environment_names_the_versions():
    from importlib.metadata import version

    info = environment()
    assert info["packages"]["torch"] == version("torch")
    assert {"python", "device", "threads", "command", "srrl"} <= info.keys()
    json.dumps(info, allow_nan=False)


@pytest.mark.parametrize(
    ("name", "taken"), [(".lock", True), (".config.yaml.17-0a1b2c3d.tmp", True), (".git", False)]
)
def test_only_what_a_stopped_run_leaves_may_lie_in_an_explicit_folder(tmp_path, name, taken):
    """A run that fails before it trains removes its folder: somebody's hidden files must not go with it."""
    (tmp_path / name).touch()
    if taken:
        assert RunFolder.create("faces", str(tmp_path)).path == tmp_path
    else:
        with pytest.raises(UserError, match="exists"):
            RunFolder.create("faces", str(tmp_path))


def test_a_run_that_goes_on_clears_what_a_killed_process_had_begun_and_nothing_else(tmp_path):
    begun = (".results.json.17-0a1b2c3d.tmp", "weights/.student.safetensors.17-0a1b2c3d.tmp")
    others = (".lock", "config.yaml", "weights/student.safetensors", ".mine.tmp", "notes.17-0a1b2c3d.tmp")
    for name in (*begun, *others):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    RunFolder(tmp_path).clear()
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()} == set(others)


def test_what_atomic_leaves_when_its_process_dies_is_what_a_run_clears(tmp_path):
    pid = os.fork()
    if pid == 0:
        with atomic(tmp_path / "results.json") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    assert len(list(tmp_path.iterdir())) == 1
    RunFolder(tmp_path).clear()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("letter", ["x", "é", "写"])
def test_a_name_may_be_as_long_as_the_system_allows(tmp_path, letter):
    path = tmp_path / (letter * (250 // len(letter.encode())) + ".json")
    check_writable("--json", str(path))
    write_json(path, {"a": 1})
    assert [p.name for p in tmp_path.iterdir()] == [path.name] and read_json(path) == {"a": 1}
    with pytest.raises(UserError, match="no file can be written there"):
        check_writable("--json", str(path) + letter * 10)


def test_two_processes_of_one_number_do_not_share_a_temporary_file(tmp_path):
    """As in two containers with one volume, where each is process 1."""
    with atomic(tmp_path / "x") as one:
        one.write_text("one")
        with atomic(tmp_path / "x") as two:
            two.write_text("two")
        assert one.read_text() == "one"
    assert (tmp_path / "x").read_text() == "one"


def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    pipe, said = tmp_path / "pipe", []
    os.mkfifo(pipe)
    check_writable("--json", str(pipe))
    reader = threading.Thread(target=lambda: said.append(pipe.read_text()), daemon=True)
    reader.start()
    write_json(pipe, [1])
    still = stat.S_ISFIFO(pipe.stat().st_mode)
    if not still:
        return pytest.fail("the pipe was replaced by a file")
    reader.join(10)
    assert said == ["[\n  1\n]\n"] and os.listdir(tmp_path) == ["pipe"]


def test_a_link_is_followed_and_stays_one(tmp_path):
    """Also one to a file that is not there yet, in another folder."""
    (tmp_path / "other").mkdir()
    link, target = tmp_path / "link", tmp_path / "other" / "file"
    link.symlink_to(target)
    for content in ("first", "second"):
        check_writable("--json", str(link))
        write_text(link, content)
        assert link.is_symlink() and target.read_text() == content and not target.is_symlink()
    assert os.listdir(tmp_path / "other") == ["file"]


def test_links_in_a_circle_a_socket_and_a_folder_are_refused(tmp_path):
    circle, bound, dangling = tmp_path / "circle", tmp_path / "socket", tmp_path / "dangling"
    circle.symlink_to(circle)
    (tmp_path / "file").touch()
    dangling.symlink_to(tmp_path / "file" / "below")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(bound))
        for path in (circle, bound, tmp_path, dangling, tmp_path / ("x" * 300)):
            with pytest.raises(UserError, match="--json .*: no file can be written there"):
                check_writable("--json", str(path))
            with pytest.raises(RunError, match="could not save"):
                write_text(path, "x")
    assert circle.is_symlink() and stat.S_ISSOCK(bound.lstat().st_mode)


def test_standard_output_that_is_a_file_is_not_replaced(tmp_path):
    """As with --json /dev/stdout > FILE: what is printed before and after it stays, too. A link of our own, not the system's."""
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")
    code = "import srrl.runs as r; print('a'); r.write_text(r.Path('stdout'), 'b\\n'); print('c')"
    with open(tmp_path / "file", "w") as out:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code]
        subprocess.run(command, stdout=out, env=environment, check=True, timeout=60, cwd=tmp_path)
    assert (tmp_path / "file").read_text() == "a\nb\nc\n" and (tmp_path / "stdout").is_symlink()


@pytest.mark.parametrize(
    "content",
    [
        b"phase,epoch,loss\nstudent,1,0.5\nstudent,2",
        b"phase,epoch,loss\nstudent,1x,0.5\n",
        b"qhase,epoch,loss\nstudent,1,0.5\n",
        b"phase,epoch,loss\nstudent,1,0.5,7\n",
        b"\xff\xfephase",
        b"phase,epoch\nstudent," + b"9" * 5000,
    ],
)
def test_damaged_metrics_are_named(tmp_path, content):
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"metrics\.csv is damaged .*: restore it, or remove it") as error:
        MetricsLog(tmp_path / "metrics.csv")
    assert "\n" not in str(error.value)


def test_a_damaged_json_file_is_named(tmp_path):
    path = tmp_path / "results.json"
    for content in (b'{"a": 1', b"\xff", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"results\.json is damaged .*: restore or remove it"):
            read_json(path)


def test_names_that_are_not_utf8_are_written_as_what_they_are(tmp_path):
    """A file called \\xff comes from the system as a lone surrogate; JSON writes it as such, and reads it back."""
    name = os.fsdecode(b"face\xff.png")
    write_json(tmp_path / "r.json", {"file": name})
    assert json.loads((tmp_path / "r.json").read_bytes())["file"] == name


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (3.1, 10.4, [5, 7, 10]),
        (0.8, 900, [1, 10, 100]),
        (10, 33, [10, 15, 20, 30]),
        (1.11, 1.29, [1.15, 1.2, 1.25]),
    ],
)
def test_ticks_of_a_logarithmic_axis_are_round(low, high, expected):
    from srrl.report import log_ticks

    assert log_ticks(low, high) == pytest.approx(expected)


SETTINGS = "task: classification\nepochs: 30\nalpha: 1.0\ndata:\n  train: 'ü \udce4'\n"


@pytest.fixture
def begun(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.begin(SETTINGS.replace("\udce4", ""), None)
    return run


def test_settings_come_back_as_they_were_written(begun):
    written = {"task": "classification", "epochs": 30, "alpha": "1.0", "data": {"train": "ü "}}
    assert begun.settings() == read_yaml(begun.config) == written
    begun.write_settings(SETTINGS)  # a name that is no UTF-8
    assert begun.settings()["epochs"] == 30
    begun.config.write_bytes(begun.config.read_bytes().replace(b"\n", b"\r\n"))  # as some tools copy texts
    assert begun.settings()["epochs"] == 30


def test_settings_with_a_flipped_bit_anywhere_are_refused(begun):
    whole = begun.config.read_bytes()
    for place in range(len(whole)):
        flipped = whole[place] ^ 1 << place % 8
        begun.config.write_bytes(whole[:place] + bytes([flipped]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"config\.yaml was edited or damaged"):
            begun.settings()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("alpha: 1.0", "alpha: 9.0"),
        lambda text: text[: text.index("alpha")],
        lambda text: text + "nickname: 3\n",
        lambda text: text[:-12] + "\n",
        lambda text: text.partition("\n")[2].replace("alpha: 1.0", "alpha: 9.0"),
        lambda text: text.replace("ü", "\ufffd"),
    ],
)
def test_edited_settings_are_refused_and_the_way_to_use_them_is_named(begun, damage):
    begun.config.write_text(damage(begun.config.read_text()))
    with pytest.raises(UserError) as error:
        begun.settings()
    said = str(error.value)
    assert said.count("\n") == 0 and "was edited or damaged since the run began" in said
    assert said.endswith(f"-c {begun.config}")
    read_yaml(begun.config)  # which -c takes, edited or not


def test_settings_without_a_checksum_are_taken(tmp_path):
    (tmp_path / "config.yaml").write_text("task: faces\nepochs: 3\n# mine\n")
    assert RunFolder(tmp_path).settings() == {"task": "faces", "epochs": 3}


@pytest.mark.parametrize(
    ("baseline", "student", "higher", "said"),
    [
        (5.0, 4.0, True, "1.000 worse"),
        (5.0, 4.0, False, "1.000 better"),
        (4.0, 5.0, True, "1.000 better"),
        (5.0, 5.0001, True, "the same"),  # as it is printed
        (5.0, 5.0001, False, "the same"),
    ],
)
def test_a_report_says_what_distillation_brought(baseline, student, higher, said):
    from srrl.report import _summary

    task = SimpleNamespace(metric="m", higher=higher, unit="%")
    results = {"split": "test", "protocol": "p", "baseline": {"m": baseline}, "student": {"m": student}}
    cfg = SimpleNamespace(method="srrl", seed=0)
    assert f" % ({said}). One run" in _summary(task, cfg, results, SimpleNamespace(name="d", details={}))
