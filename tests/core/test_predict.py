"""The predict command with a task that finds the brightest pixel: tables, drawn copies, videos and bad inputs."""

import csv
import json
import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image
from small_run import flip_a_pixel, write_sums

import srrl.api
from srrl.cli import main_of
from srrl.predict import COMMAND, parse_box


class Brightest:
    """One row for the brightest pixel, none for a picture that is all black."""

    def __init__(self):
        self.boxes = []

    def __call__(self, image, box="detector"):
        self.boxes.append(box)
        grey = image.astype(int).sum(2)
        return (
            [tuple(int(v) for v in np.unravel_index(grey.argmax(), grey.shape)[::-1])]
            if grey.max() > 60
            else []
        )

    def rows(self, found):
        return [{"x": x, "y": y, "half": x / 2} for x, y in found]

    def draw(self, image, found):
        return 255 - image


class Plain(Brightest):
    def __call__(self, image):
        return super().__call__(image)


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """The command works in tmp_path and opens this run whatever it is given."""
    found = SimpleNamespace(predictor=Brightest(), model=None)
    task = SimpleNamespace(name="bright", predictor=lambda model, cfg: found.predictor)

    def open_run(path, model):
        found.model = model
        return SimpleNamespace(task=task, cfg=None, model=lambda name: None)

    monkeypatch.setattr(srrl.api, "open_run", open_run)
    monkeypatch.chdir(tmp_path)
    return found


def call(*argv):
    with pytest.raises(SystemExit) as stop:
        main_of(COMMAND, ["some-run", *map(str, argv)])
    return stop.value.code


def picture(path, x, y, width=40, height=30, value=255):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[y, x] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def table(folder):
    with open(folder / "predictions.csv", newline="") as handle:
        return list(csv.DictReader(handle))


def test_pictures_to_csv_and_overlays(opened, tmp_path, capsys):
    picture(tmp_path / "a.png", 7, 5)
    picture(tmp_path / "in" / "b.png", 31, 22)
    picture(tmp_path / "in" / "a.png", 3, 4)
    picture(tmp_path / "in" / "deep" / "c.png", 1, 1)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    assert call("a.png", "in", "--model", "teacher") == 0
    assert opened.model == "teacher"
    out = tmp_path / "predictions" / "001"
    assert [(r["file"], r["frame"], r["x"], r["y"], r["half"]) for r in table(out)] == [
        ("a.png", "", "7", "5", "3.5"),
        ("in/a.png", "", "3", "4", "1.5"),
        ("in/b.png", "", "31", "22", "15.5"),
    ]
    assert sorted(p.name for p in out.iterdir()) == ["a-2.jpg", "a.jpg", "b.jpg", "predictions.csv"]
    drawn = np.asarray(Image.open(out / "b.jpg"))
    assert drawn.shape == (30, 40, 3) and drawn[5, 5].min() > 240  # what draw returned: the negative
    assert "3 predictions on 3 pictures" in capsys.readouterr().out
    assert call("a.png") == 0 and (tmp_path / "predictions" / "002").is_dir()


def test_json_recursive_without_overlays(opened, tmp_path, capsys):
    picture(tmp_path / "in" / "deep" / "c.png", 9, 8)
    picture(tmp_path / "in" / "z.png", 0, 0, value=0)
    picture(tmp_path / "in" / ".hidden" / "h.png", 9, 8)
    assert call("in", "--recursive", "--format", "json", "--no-overlay", "--out", "found") == 0
    assert json.loads((tmp_path / "found" / "predictions.json").read_text()) == [
        {"file": "in/deep/c.png", "predictions": [{"x": 9, "y": 8, "half": 4.5}]},
        {"file": "in/z.png", "predictions": []},
    ]
    assert [p.name for p in (tmp_path / "found").iterdir()] == ["predictions.json"]
    error = capsys.readouterr().err
    assert "nothing found in 1 of 2 files" in error and "in/z.png" in error and "--box whole" in error


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_video_of_five_frames(opened, tmp_path, kind):
    places = [(8, 8), (24, 8), (40, 24), (8, 40), (56, 40)]
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for x, y in places:
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[y - 3 : y + 4, x - 3 : x + 4] = 255
        writer.write(frame)
    writer.release()
    assert call("clip.avi", "--out", "v", "--format", kind) == 0
    if kind == "csv":
        rows = [(int(r["frame"]), int(r["x"]), int(r["y"])) for r in table(tmp_path / "v")]
    else:
        entries = json.loads((tmp_path / "v" / "predictions.json").read_text())
        rows = [(e["frame"], e["predictions"][0]["x"], e["predictions"][0]["y"]) for e in entries]
    assert [r[0] for r in rows] == [0, 1, 2, 3, 4]
    assert np.abs(np.array(rows)[:, 1:] - places).max() <= 5  # the brightest of 7 x 7 pixels of a lossy film
    capture = cv2.VideoCapture(str(tmp_path / "v" / "clip.mp4"))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    assert (
        len(frames) == 5
        and frames[0].shape == (48, 64, 3)
        and capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    )
    assert np.median(frames[0]) > 240  # drawn: the negative of black


def test_bad_inputs(opened, tmp_path, capsys):
    picture(tmp_path / "good.png", 7, 5)
    (tmp_path / "bad.png").write_text("no picture")
    (tmp_path / "bad.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    for argv, message in [
        (["gone.png"], "gone.png does not exist"),
        (["https://example.org/gone.png"], "https://example.org/gone.png is an address: fetch it"),
        (["empty"], "holds no picture"),
        (["good.png", "--box", "1,2,3"], "--box"),
        (["good.png", "--out", "good.png"], "is a file"),
    ]:
        assert call(*argv) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert not (tmp_path / "predictions").exists()
    assert call("good.png", "bad.png", "bad.mp4", "--out", "one") == 2
    said = capsys.readouterr().err
    assert (
        "bad.png does not decode" in said and "--skip-bad goes on with the others, into a new --out)" in said
    )
    (part,) = (tmp_path / "one").glob("predictions*")  # what was found before stays, and is not taken for all
    assert part.name == "predictions.csv.part" and len(list(csv.DictReader(part.open()))) == 1
    assert (
        call("good.png", "bad.png") == 2 and "--skip-bad goes on with the others)" in capsys.readouterr().err
    )
    assert call("good.png", "bad.png", "--skip-bad") == 0 and "skipped 1 bad file" in capsys.readouterr().err
    assert call("bad.png", "bad.mp4", "good.png", "--out", "two", "--skip-bad") == 0
    assert "skipped 2 bad files" in capsys.readouterr().err
    assert [r["file"] for r in table(tmp_path / "two")] == ["good.png"]
    assert call("bad.png", "bad.mp4", "--out", "three", "--skip-bad") == 2
    assert "none of the 2 files could be read" in capsys.readouterr().err


def test_a_folder_with_something_in_it_is_left_alone(opened, tmp_path, capsys):
    picture(tmp_path / "good.png", 7, 5)
    (tmp_path / "out").mkdir()
    assert call("good.png", "--out", "out") == 0  # empty is fine
    before = (tmp_path / "out" / "predictions.csv").read_text()
    assert call("good.png", "--out", "out") == 2
    assert (
        "is not empty" in capsys.readouterr().err
        and (tmp_path / "out" / "predictions.csv").read_text() == before
    )


def test_boxes(opened, tmp_path, capsys):
    picture(tmp_path / "good.png", 7, 5)
    assert (
        parse_box("1,2.5,30,-4") == (1.0, 2.5, 30.0, -4.0)
        and parse_box("whole") == "whole"
        and parse_box(None) is None
    )
    assert (
        call("good.png", "--box", "1,2,30,20") == 0
        and call("good.png", "--box", "whole") == 0
        and call("good.png") == 0
    )
    assert opened.predictor.boxes == [(1.0, 2.0, 30.0, 20.0), "whole", "detector"]
    opened.predictor = Plain()
    assert call("good.png") == 0
    capsys.readouterr()
    assert call("good.png", "--box", "whole") == 2
    assert "leave --box out" in capsys.readouterr().err


def test_help_needs_no_heavy_import():
    code = "import sys, srrl.predict as p; sys.exit(any(m in sys.modules for m in ('torch', 'cv2', 'numpy', 'PIL')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_pictures_of_a_folder_with_checksums_are_compared(opened, tmp_path, capsys):
    for name in ("a.bmp", "deep/b.bmp"):
        picture(tmp_path / "in" / name, 7, 5)
    write_sums(tmp_path / "in")
    assert call("in", "--recursive", "--out", "whole") == 0
    flip_a_pixel(tmp_path / "in/deep/b.bmp")
    assert call("in", "--recursive", "--out", "out") == 2
    assert "b.bmp differs from its line in" in capsys.readouterr().err
    assert call("in", "--recursive", "--out", "skipped", "--skip-bad") == 0
    assert [r["file"] for r in table(tmp_path / "skipped")] == ["in/a.bmp"]
    assert "skipped 1 bad file" in capsys.readouterr().err
    assert call("in/deep/b.bmp", "--out", "given") == 0  # as a file of its own
