"""A folder that may be read and not written, as a user without root has it: one line that names it, and nothing left behind."""

from __future__ import annotations

import shutil
from importlib import import_module

import cv2
import numpy as np
import pytest
from nobody import as_nobody, close, listing, readable_folder, reopen
from small_run import TINY

from srrl.cli import main_of
from srrl.shipped import located

# what the commands import while they run, some of it as late as their last line
LATER = [
    *("srrl.api", "srrl.cells", "srrl.comparison", "srrl.config", "srrl.distillers", "srrl.evaluate", "srrl.grid"),
    *("srrl.inspection", "srrl.interrupt", "srrl.onnx_export", "srrl.pipeline", "srrl.predict", "srrl.processes"),
    *("srrl.report", "srrl.runs", "srrl.speed", "srrl_tasks.faces.data", "srrl_tasks.faces.predict"),
    *("srrl_tasks.faces.models", "srrl_tasks.faces.task", "srrl_tasks.faces.detect", "accelerate", "torchvision"),
]  # fmt: skip
TRAIN = ["train", "--task", "classification"]


CASES = [
    (TRAIN, ["{place}/runs/classification cannot be written: Permission denied; give --run-dir DIR"]),
    ([*TRAIN, "--run-dir", "empty/new"], ["run folder {place}/empty/new cannot be made: Permission"]),
    ([*TRAIN, "--run-dir", "empty"], ["empty", "Permission denied"]),
    (["train", "--resume", "begun"], ["begun", "Permission denied"]),
    (["evaluate", "run", "--json", "empty/new.json"], ["--json empty/new.json: no file can be written"]),
    (["evaluate", "run", "--json", "kept/old.json"], ["--json kept/old.json: no file can be written"]),
    (["benchmark", "run", "--json", "empty/a.json"], ["--json empty/a.json: no file can be written"]),
    (["export", "run", "--format", "onnx", "--out", "empty/a.onnx"], ["--out empty/a.onnx: no file"]),
    (["export", "run", "--format", "onnx"], ["run/student.onnx: no file can be written"]),
    (["predict", "run", "photo.png", "--out", "empty/found"], ["empty/found", "Permission denied"]),
    (["predict", "run", "photo.png"], ["predictions/001", "Permission denied"]),
    (["compare", "--task", "classification", "--out", "empty/new"], ["--out empty/new/"]),
    (["compare", "--task", "classification", "--out", "empty"], ["--out empty/"]),
]


@pytest.fixture(scope="module")
def place():
    """A folder that all can read, with a copy of a run that comes with the package, a run that was begun, and a picture."""
    for name in LATER:
        import_module(name)
    with readable_folder() as folder:
        shutil.copytree(located("shipped:faces68-small"), folder / "run")
        (folder / "begun").mkdir()
        status, settings, error = as_nobody(
            lambda: main("train", "--task", "classification", "--print-config"), folder
        )
        assert status == 0, error
        (folder / "begun/config.yaml").write_text(settings)
        cv2.imwrite(str(folder / "photo.png"), np.zeros((64, 64, 3), np.uint8))
        (folder / "empty").mkdir()
        (folder / "kept").mkdir()
        (folder / "kept" / "old.json").write_text("{}")
        (folder / "kept" / "old.json").chmod(0o666)  # this file may be written, and none beside it
        close(folder)
        try:
            yield folder
        finally:
            reopen(folder)


def main(name: str, *arguments: str) -> None:
    """A command as its command line runs it."""
    main_of(import_module(f"srrl.{name}").COMMAND, list(arguments))


def test_the_folder_is_read_only_to_that_user(place):
    """What the other tests stand on: it can be listed and not written, and its files can be read."""

    def look():
        assert (place / "run/config.yaml").read_text() and listing(place)
        with pytest.raises(PermissionError):
            (place / "empty" / "new").touch()

    status, _, error = as_nobody(look, place)
    assert status == 0, error


@pytest.mark.parametrize(("arguments", "words"), CASES, ids=[" ".join(case[0]) for case in CASES])
def test_what_cannot_be_written_is_named(place, arguments, words):
    """Status 2: where to write was said by the user, or is where he stands."""
    before = listing(place)
    status, _, error = as_nobody(lambda: main(*arguments), place)
    assert status == 2, error
    lines = error.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), error
    for word in words:
        assert word.format(place=place) in lines[0]
    assert listing(place) == before
    assert (place / "kept/old.json").read_text() == "{}"


def test_a_memory_that_cannot_be_made_ends_the_training_before_it_began(place):
    """The run folder can be written here, and is not left behind."""
    with readable_folder() as own:
        own.chmod(0o777)
        setting = f"teacher.memory={place}/empty/maps"
        status, _, error = as_nobody(
            lambda: main("train", "--task", "faces", "--run-dir", "new", setting, *TINY), own
        )
        assert status == 2, error
        assert error.strip() == (
            f"error: teacher.memory='{place}/empty/maps' is not a folder that can be made (Permission denied)"
        )
        assert listing(own) == []
    assert listing(place / "empty") == []
