"""Bad input: each kind ends with exit status 2 and one clear line that names the thing."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from small_run import TINY, faces, write_face, write_pts

from srrl.cli import guarded
from srrl.train import COMMAND


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return faces(tmp_path_factory.mktemp("fotos ü 写真"), 8)


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """Runs the training command in this process, in an empty folder; gives (status, standard error lines, output)."""
    import argparse

    monkeypatch.chdir(tmp_path)

    def run(*arguments: str):
        parser = argparse.ArgumentParser()
        COMMAND.add_arguments(parser)
        status = guarded(lambda: COMMAND.run(parser.parse_intermixed_args(list(map(str, arguments)))))
        captured = capsys.readouterr()
        return status, captured.err.strip().splitlines(), captured.out

    return run


def refused(result, *words):
    """Exit status 2 and one line with all the words."""
    status, lines, _ = result
    assert status == 2
    assert len(lines) == 1
    for word in words:
        assert word in lines[0]


def test_unknown_task_offers_the_nearest(train):
    refused(train("--task", "face"), "'face'", "did you mean 'faces'")


def test_no_task_lists_them(train):
    refused(train(), "--task", "faces")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("epoch=3", ["epoch", "'epochs'"]),
        ("student.widht=8", ["student.widht", "'student.width'"]),
        ("optim.lrr=1", ["optim.lrr", "'optim.lr'"]),
        ("epochs=many", ["epochs", "many"]),
        ("epochs=0", ["epochs", "0"]),
        ("cut=middle", ["cut", "deep", "shallow"]),
        ("nonsense", ["nonsense", "key=value"]),
        ("seed.x=1", ["seed", "integer", "keys x"]),
    ],
)
def test_wrong_keys_and_values(train, override, words):
    refused(train("--task", "faces", override, "--print-config"), *words)


@pytest.mark.parametrize("method", ["crd", "dkd", "dist"])
def test_a_method_that_does_not_fit_the_task_is_refused_before_anything_is_trained(train, photos, method):
    data = [f"data.train={photos}", f"data.val={photos}", f"data.test={photos}"]
    refused(
        train("--task", "faces", f"method={method}", *data, *TINY),
        f"method {method} compares logits",
        "heatmaps",
    )
    assert not list(Path.cwd().glob("runs/faces/*"))


def test_unknown_method(train, photos):
    refused(
        train("--task", "faces", "method=srl", f"data.train={photos}", *TINY), "srl", "did you mean 'srrl'"
    )


def test_missing_config_file_is_named(train):
    refused(train("--task", "faces", "-c", "nowhere.yaml"), "nowhere.yaml", "does not exist")


def test_config_that_is_no_mapping(train, tmp_path):
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    refused(train("--task", "faces", "-c", "list.yaml"), "list.yaml", "key: value")


def test_unknown_format(train, photos):
    refused(train("--task", "faces", f"data.train={photos}", "data.format=ibugg", *TINY), "ibugg", "ibug")


def test_missing_path_shows_where_it_looked(train, tmp_path):
    refused(train("--task", "faces", "data.train=photos/nowhere", *TINY), str(tmp_path / "photos/nowhere"))


def test_empty_folder(train, tmp_path):
    (tmp_path / "empty").mkdir()
    assert not (tmp_path / "runs").exists()
    refused(train("--task", "faces", "data.train=empty", *TINY), "empty")
    refused(train("--task", "faces", "data.train=empty", "data.format=ibug", *TINY), "empty", ".pts")
    assert not list((tmp_path / "runs" / "faces").iterdir())  # no empty run is left behind


def test_existing_run_folder_is_refused_and_untouched(train, tmp_path, photos):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("keep")
    refused(train("--task", "faces", "--run-dir", "mine", f"data.train={photos}", *TINY), "mine", "exists")
    assert os.listdir(tmp_path / "mine") == ["note.txt"]


@pytest.mark.parametrize("option", ["--dry-run", "--print-config", "--quick"])
def test_resume_takes_no_other_option(train, option):
    refused(train("--resume", "runs/faces/007", option), "leave out the other arguments")


def test_resume_of_nothing(train):
    refused(train("--resume", "runs/faces/007"), "runs/faces/007", "does not exist")


def bad_folder(tmp_path, name):
    folder = faces(tmp_path / name, 6)
    return folder, folder / "face03.jpg", folder / "face03.pts"


def test_image_that_does_not_decode_is_named_or_skipped(train, tmp_path):
    folder, image, _ = bad_folder(tmp_path, "broken")
    image.write_bytes(b"\xff\xd8 not a picture")
    refused(train("--task", "faces", f"data.train={folder}", *TINY), "face03.jpg")
    status, _, out = train(
        "--task", "faces", f"data.train={folder}", "data.on_error=skip", "--dry-run", *TINY
    )
    assert status == 0
    assert "1 faces skipped" in out
    assert "face03.jpg" in out


@pytest.mark.parametrize("damage", ["count", "nan", "outside", "junk"])
def test_bad_points_are_named(train, tmp_path, damage):
    folder, _, pts = bad_folder(tmp_path, damage)
    good = np.stack([np.linspace(20, 70, 68), np.linspace(30, 60, 68)], 1)
    if damage == "count":
        write_pts(pts, good[:67])
    elif damage == "nan":
        write_pts(pts, np.where(np.arange(68)[:, None] == 5, np.nan, good))
    elif damage == "outside":
        write_pts(pts, good + 5000)
    else:
        pts.write_text("version: 1\nn_points: 68\n{\nhello\n}\n")
    refused(train("--task", "faces", f"data.train={folder}", *TINY), "face03.")


def test_a_detector_that_finds_no_face(train, photos):
    refused(
        train("--task", "faces", f"data.train={photos}", "data.box=detector", *TINY),
        "the detector finds none of",
        "data.box=landmark",
    )


def test_rectangle_without_area(train, tmp_path):
    root = tmp_path / "wflw"
    write_face(root / "WFLW_images", "x", 0)
    lists = root / "WFLW_annotations" / "list_98pt_rect_attr_train_test"
    lists.mkdir(parents=True)
    numbers = " ".join(f"{v:.2f}" for v in np.linspace(10, 80, 196))
    for split in ("train", "test"):
        (lists / f"list_98pt_rect_attr_{split}.txt").write_text(f"{numbers} 30 30 30 60 0 0 0 0 0 0 x.jpg\n")
    refused(
        train("--task", "faces", f"data.train={root}", "data.format=wflw", "data.box=given", *TINY),
        "line 1",
        "area",
    )


def test_points_that_coincide(train, tmp_path):
    folder, _, pts = bad_folder(tmp_path, "same")
    write_pts(pts, np.full((68, 2), 40.0))
    refused(train("--task", "faces", f"data.train={folder}", *TINY), "face03")


def test_checkpoint_of_another_architecture(train, tmp_path, photos):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    refused(
        train("--task", "faces", f"data.train={photos}", "teacher.checkpoint=other.pt", *TINY),
        "other.pt",
        "architecture",
    )


class Trap:
    """A pickle that creates a file when it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("trapped",)


def test_pickle_that_would_run_code_is_not_run(train, tmp_path, photos):
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(1)}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(tmp_path / "trap.pt", "w") as target:
        for entry in source.namelist():
            content = pickle.dumps(Trap()) if entry.endswith("data.pkl") else source.read(entry)
            target.writestr(entry, content)
    refused(
        train("--task", "faces", f"data.train={photos}", "teacher.checkpoint=trap.pt", *TINY),
        "trap.pt",
        "code",
    )
    assert not (tmp_path / "trapped").exists()


def test_more_points_than_the_models_predict(train, tmp_path, photos):
    other = tmp_path / "five"
    write_face(other, "a", 0, points=np.array([[20.0, 30], [60, 30], [40, 45], [30, 60], [50, 60]]))
    refused(
        train("--task", "faces", f"data.train={photos}", f"data.val={photos}", f"data.test={other}", *TINY),
        "five",
    )


def test_a_face_of_the_test_split_that_does_not_decode_is_named_before_training(train, tmp_path, photos):
    other = tmp_path / "others"
    write_face(other, "a", 0)
    write_face(other, "b", 1)
    (other / "b.jpg").write_bytes(b"no picture")
    refused(
        train("--task", "faces", f"data.train={photos}", f"data.val={photos}", f"data.test={other}", *TINY),
        "b.jpg",
        "does not decode",
    )


def test_an_unlabelled_eye_corner_is_found_before_training_or_skipped(tmp_path):
    """The inter-ocular distance cannot be measured without it; found at the end it would cost the whole run."""
    folder = faces(tmp_path / "csv", 6)
    rows = []
    for number in range(6):
        points = np.random.default_rng(number).uniform(20, 60, (68, 2)).round(2)
        cells = [str(v) for v in points.ravel()]
        if number == 4:
            cells[90] = cells[91] = ""  # point 45, the left eye's outer corner
        rows.append(",".join([f"face{number:02d}.jpg", *cells]))
    (folder / "test.csv").write_text("\n".join(rows) + "\n")
    from srrl_tasks.faces.data import measurable
    from srrl_tasks.faces.readers import read
    from srrl_tasks.faces.schemes import scheme_for

    from srrl.errors import UserError

    records = read(str(folder / "test.csv"), "csv", None)
    with pytest.raises(UserError, match="face04.jpg.*inter-ocular"):
        measurable(records, scheme_for(68), None, "raise")
    kept = measurable(records, scheme_for(68), None, "skip")
    assert len(kept) == 5 and "face04.jpg" in kept.skipped[0]
    assert len(measurable(records, scheme_for(68), "diagonal", "raise")) == 6


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("data.workers=-1", ("data.workers",)),
        ("student.decoder=[0,8,8]", ("student.decoder",)),
        ("seed=99999999999999999999", ("seed",)),
        ("data.synthetic.n_train=0", ("data.synthetic.n_train",)),
        ("normaliser=interocular", ("interocular", "inter-ocular")),
        ("student.init=/nowhere.pt", ("/nowhere.pt", "does not exist")),
        ("method=srl", ("srl", "srrl")),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_trained(train, photos, setting, words):
    status, lines, out = train("--task", "faces", f"data.train={photos}", "--dry-run", *TINY, setting)
    refused((status, lines, out), *words)
    assert "teacher  epoch" not in out


@pytest.mark.parametrize(
    "setting",
    [
        *("optim.lr=1e308", "student.width=1e9", "augment.pad=1000000000", "image_size=1000000", "threads=1000000"),
        *(f"epochs={10**15}", f"batch_size={10**15}", "data.workers=1000000", "alpha=1e308", "optim.lr=inf", "teacher.lr=1e300"),
    ],
)  # fmt: skip
def test_settings_far_beyond_what_is_of_use_are_refused_at_once(train, setting):
    name, value = setting.split("=")
    refused(
        train("--task", "classification", "--print-config", setting), f"{name}: ", "less than or equal to"
    )


def test_every_number_of_every_task_has_an_upper_end():
    """A larger one would end in whatever a library says of it, or in a crash."""
    from annotated_types import Le, Lt

    from srrl.task import get_task, task_names

    def open_ended(schema, prefix=""):
        for name, field in schema.model_fields.items():
            kinds = getattr(field.annotation, "__args__", (field.annotation,))
            if hasattr(field.annotation, "model_fields"):
                yield from open_ended(field.annotation, f"{prefix}{name}.")
            elif {int, float} & set(kinds) and not any(isinstance(m, (Le, Lt)) for m in field.metadata):
                yield prefix + name

    for task in task_names():
        assert list(open_ended(get_task(task, {}).settings)) == []


def in_process(command, capsys, *arguments):
    """(status, standard error lines, output) of a command in this process."""
    from srrl.cli import main_of

    with pytest.raises(SystemExit) as stopped:
        main_of(command, list(map(str, arguments)))
    captured = capsys.readouterr()
    return stopped.value.code, captured.err.strip("\n").split("\n"), captured.out


def test_a_key_that_stands_twice_in_a_settings_file(train, tmp_path):
    (tmp_path / "twice.yaml").write_text("epochs: 1\nepochs: 2\n")
    refused(train("--task", "faces", "-c", "twice.yaml", "--print-config"), "twice.yaml", "'epochs'", "twice")


def test_a_zip_archive_is_not_called_a_damaged_tar(train, tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("ant/1.png", "x")
    result = train("--task", "classification", "data.train=set.zip", "--dry-run")
    refused(result, "set.zip", ".zip archives are not supported", ".tar.gz", "unpack")
    assert "fetch it again" not in result[1][0]


def test_control_characters_of_a_name_are_written_out(capsys):
    from srrl import evaluate, export

    name = "a\n\x1b[31m\x7f\x85\u2028é 写\udcff"
    for command, more in ((evaluate.COMMAND, ()), (export.COMMAND, ("--format", "onnx"))):
        status, lines, _ = in_process(command, capsys, name, *more)
        assert status == 2 and len(lines) == 1
        assert r"a\n\x1b[31m\x7f\x85\u2028é 写\udcff" in lines[0]
    status, lines, _ = in_process(evaluate.COMMAND, capsys, "run", "--unknown\n\x1b[31m")
    assert status == 2 and lines[-1].endswith(r"unrecognized arguments: --unknown\n\x1b[31m")


@pytest.mark.parametrize("command", ["benchmark", "compare"])
def test_counts_without_an_end_are_refused(command, capsys):
    from importlib import import_module

    option = {"benchmark": "--rounds", "compare": "--jobs"}[command]
    arguments = ["--task", "classification", option, "9" * 23, *(["--out", "x"] * (command == "compare"))]
    status, lines, _ = in_process(import_module(f"srrl.{command}").COMMAND, capsys, *arguments)
    assert status == 2 and option in lines[-1] and "is more than" in lines[-1]


def test_help_names_the_tasks_that_there_are(capsys):
    from srrl.task import BUILT_IN

    _, _, out = in_process(COMMAND, capsys, "--help")
    said = out.rpartition("--task NAME")[2].partition("-c FILE")[0]
    assert all(name in said for name in BUILT_IN)


def test_a_comparison_is_not_begun_in_the_folder_of_a_run(tmp_path, capsys):
    from srrl import compare

    run = tmp_path / "run"
    (run / "weights").mkdir(parents=True)
    (run / "config.yaml").write_text("task: classification\n")
    arguments = ["--task", "classification", "--methods", "none", "--seeds", "0", "data.train=nowhere"]
    status, lines, _ = in_process(compare.COMMAND, capsys, *arguments, "--out", run)
    assert status == 2 and len(lines) == 1 and "is the folder of a run" in lines[0]
    assert sorted(p.name for p in run.iterdir()) == ["config.yaml", "weights"]


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--host", "", "--host is empty"),
        ("--host", " ", "--host is empty"),
        ("--host", "nowhere.invalid", "--host nowhere.invalid: there is no such address"),
        ("--host", "x" * 70 + ".org", "there is no such address"),
        ("--host", "192.0.2.1", "192.0.2.1:7860 cannot be listened on"),
        ("--runs", "file", "--runs file is not a folder"),
        ("--runs", "file/below", "--runs file/below is not a folder"),
    ],
)
def test_an_address_or_a_folder_that_the_app_cannot_have(tmp_path, monkeypatch, capsys, option, value, words):
    import sys

    from srrl_app import command

    for module in (
        "gradio",
        "srrl_app.page",
        "srrl_app.shelf",
    ):  # what would serve it, and takes seconds to load
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    status, lines, _ = in_process(command.COMMAND, capsys, option, value)
    assert status == 2 and len(lines) == 1 and words in lines[0]


def test_an_error_that_nobody_foresaw_is_one_line_and_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def go():
        raise KeyError("a\nb")

    assert guarded(go) == 1
    (line,) = capsys.readouterr().err.splitlines()
    (file,) = tmp_path.iterdir()
    assert (
        line.startswith(r"error: this is a fault of the program (KeyError: 'a\nb'): ") and str(file) in line
    )
    assert "Traceback" in file.read_text() and "in go" in file.read_text()
    kept = tmp_path / "kept"  # what the image sets, whose temporary folder goes with its container
    kept.mkdir()
    monkeypatch.setenv("SRRL_FAULTS", str(kept))
    assert guarded(go) == 1 and str(kept / "srrl-fault-") in capsys.readouterr().err
    assert len(list(kept.iterdir())) == 1
    monkeypatch.setenv(
        "SRRL_FAULTS", str(tmp_path / "gone")
    )  # not there: the usual folder, and its name is said
    assert guarded(go) == 1 and str(tmp_path / "srrl-fault-") in capsys.readouterr().err
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    assert guarded(go) == 1 and len(capsys.readouterr().err.splitlines()) == 1


def too_large_a_tensor():
    torch.zeros(10**9, 10**9, 3, 3)


def too_large_an_array():
    np.zeros((10**9, 10**9, 10**9))


def too_large_a_picture():
    import cv2

    cv2.resize(np.zeros((2, 2, 3), np.uint8), (10**9, 10**6))


@pytest.mark.parametrize("ask", [too_large_a_tensor, too_large_an_array, too_large_a_picture])
def test_more_than_any_memory_holds_is_memory_that_ran_out(ask, capsys):
    assert guarded(ask) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory")


def test_an_error_in_a_loader_worker_is_still_one_line(capsys):
    """As torch raises it again in the parent: its worker's traceback in the message."""
    from torch.utils.data import DataLoader

    from srrl.errors import UserError

    class Broken(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            raise UserError("face03.jpg: not an image: Error: of the file")

    def go():
        next(iter(DataLoader(Broken(), num_workers=1)))
        return 0

    assert guarded(go) == 2
    assert capsys.readouterr().err == "error: face03.jpg: not an image: Error: of the file\n"
