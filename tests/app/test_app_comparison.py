"""What the page is told: which runs there are, how far two networks are apart, what they cost."""

import copy
import os
import threading

import numpy as np
import psutil
import pytest
import torch
from srrl_app.benchmark import Timed, draw
from srrl_app.comparison import compare, costs, further
from srrl_app.runs_tab import described, split_report
from srrl_app.shelf import Shelf
from srrl_tasks.faces.landmarker import Face

from srrl.errors import UserError
from srrl.inspection import count_parameters
from srrl.shipped import located


def test_runs_with_weights_are_listed_the_newest_first(runs):
    os.utime(runs / "faces/001/config.yaml", (1e9, 1e9))
    ours = ["shipped:faces68", "shipped:faces68-small"]
    assert list(Shelf(runs).folders()) == ["classification/001", "faces/001", *ours]
    assert list(Shelf(runs, runs / "faces/001").folders()) == ["faces/001", "classification/001", *ours]
    assert list(Shelf(runs, ours[1]).folders()) == [ours[1], "classification/001", "faces/001", ours[0]]


@pytest.mark.parametrize(
    "name", ["../..", "shipped:../shipped/faces68", "/etc", "faces/../faces/001", "faces/002", "", None]
)
def test_only_what_is_listed_is_opened(runs, name):
    with pytest.raises(UserError, match="no such run"):
        Shelf(runs).load(name)


def test_without_runs_there_is_what_comes_with_the_package(tmp_path):
    shelf = Shelf(tmp_path)
    assert not shelf.own() and next(iter(shelf.folders())) == "shipped:faces68"
    assert shelf.load("shipped:faces68").names == ["teacher", "student"]
    assert shelf.load("shipped:faces68-small").names == ["student"]
    (tmp_path / "link").symlink_to(located("shipped:faces68-small"))
    assert next(iter(Shelf(tmp_path, tmp_path / "link").folders())) == "shipped:faces68-small"
    with pytest.raises(UserError, match="does not exist"):
        Shelf(tmp_path, tmp_path / "gone")


def test_networks_stay_loaded_until_their_run_goes_on(runs, tmp_path):
    import shutil

    shutil.copytree(runs / "classification", tmp_path / "classification")
    shelf = Shelf(tmp_path)
    first = shelf.load("classification/001")
    assert shelf.load("classification/001") is first and first.names == ["teacher", "student"]
    (tmp_path / "classification/001/results.json").write_text('{"student": {"top1": 50.0}}')
    assert shelf.load("classification/001").results["student"]["top1"] == 50.0


def test_distance_between_two_networks_by_hand(runs):
    """Eyes 40 pixels apart; every point moved by (3, 4), one by (6, 8): 12.5 % and 25 %."""
    student = Shelf(runs).load("faces/001").predictors["student"]
    points = np.random.default_rng(0).uniform(20, 80, (68, 2))
    points[36], points[45] = (30, 50), (70, 50)
    moved = points + (3.0, 4.0)
    moved[8] += (3.0, 4.0)
    ours, theirs = ([Face(p, (0, 0, 99, 99), 1.0, np.ones(68))] for p in (moved, points))
    picture, rows = student.difference(np.full((100, 100, 3), 200, np.uint8), ours, theirs)
    assert rows[0]["mean_percent"] == pytest.approx((67 * 12.5 + 25) / 68)
    assert rows[0]["largest_percent"] == pytest.approx(25) and rows[0]["point"] == 8
    assert picture[0, 0].tolist() == [90] * 3  # darkened
    y, x = points[40].round().astype(int)[::-1]
    assert picture[y, x].min() > 200  # a white dot where the other network's point is
    y, x = (points[33] + (12.0, 16.0)).round().astype(int)[::-1]
    assert picture[y, x].tolist() != [90] * 3  # the line towards ours is longer than the way of (3, 4)


def test_faces_are_looked_for_once_and_compared_face_by_face(runs):
    run = Shelf(runs).load("faces/001")
    pixels = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    found = compare(run, pixels, "whole")
    assert set(found.drawn) == {"teacher", "student", "baseline"}
    assert [r[:2] for r in found.rows] == [["student", 1], ["baseline", 1]]
    assert found.summary.startswith("1 face found.") and found.difference.shape == pixels.shape
    two = compare(run, pixels, "whole", baseline=False)
    assert set(two.drawn) == {"teacher", "student"} and [r[:2] for r in two.rows] == [["student", 1]]
    blank = compare(run, np.full((90, 120, 3), 128, np.uint8), "detector")
    assert "No face was found" in blank.summary and blank.difference is None and not blank.rows


def test_the_student_of_a_second_run_is_shown_beside_the_first(runs):
    shelf = Shelf(runs)
    run, pixels = (
        shelf.load("faces/001"),
        np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8),
    )
    found = compare(run, pixels, "whole", run)
    assert list(found.drawn) == ["teacher", "student", "baseline", "other student"]
    student, other = (next(r for r in found.rows if r[0] == n) for n in ("student", "other student"))
    assert student[1:] == other[1:]  # it is the same network
    assert [r[0] for r in costs(run, 1, run)[1]] == list(found.drawn)
    with pytest.raises(UserError, match="another kind of task"):
        compare(run, pixels, "whole", shelf.load("classification/001"))


def test_classes_of_both_networks_side_by_side(runs):
    run = Shelf(runs).load("classification/001")
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    found = compare(run, pixels, "detector")
    teacher, student = (run.predictors[n](pixels) for n in ("teacher", "student"))
    assert found.header == ["class", "teacher, %", "student, %"]
    assert {r[0] for r in found.rows} == {g.name for g in teacher + student}  # of ten classes
    assert [list(bars) for bars in found.bars.values()] == [[g.name for g in n] for n in (teacher, student)]
    shown = torch.from_numpy(pixels).double().permute(2, 0, 1)[None] / 255
    for column, name in enumerate(
        ("teacher", "student"), 1
    ):  # also of classes that only the other one holds likely
        with torch.no_grad():
            probability = copy.deepcopy(run.models[name]).double()(shown)[0].softmax(0)
        for row in found.rows:
            assert row[column] == pytest.approx(100 * float(probability[int(row[0])]), abs=0.051)
    assert ("disagree" in found.summary) == (teacher[0].name != student[0].name)


def test_costs_are_those_of_each_network(runs):
    run = Shelf(runs).load("faces/001")
    header, rows = costs(run, 1)
    assert [r[0] for r in rows] == ["teacher", "student", "baseline"]
    table = {r[0]: dict(zip(header, r, strict=True)) for r in rows}
    assert table["student"]["landmark error (NME), %"] == 5.25
    assert table["baseline"]["landmark error (NME), %"] is None
    assert table["teacher"]["parameters, millions"] == round(count_parameters(run.models["teacher"]) / 1e6, 3)
    for r in table.values():
        assert 0 < r["one picture, ms (median)"] <= r["19 of 20 take at most, ms"]


def test_a_run_for_the_api(runs):
    found = described("faces/001", runs / "faces/001")
    assert found["finished"] and found["networks"]["student"] == {"nme": 5.25} and found["task"] == "faces"
    assert not described("classification/001", runs / "classification/001")["finished"]


def test_report_and_its_pictures_are_taken_apart(runs):
    text, captions = split_report((runs / "faces/001/report.md").read_text())
    assert captions == {"curves.png": "Curves by epoch."} and "Curves" not in text
    assert "`fr@0.10`" in text


def test_plots_asked_for_by_many_threads_open_no_font_twice():
    """A server's threads come and go, and matplotlib keeps what it opened for each of them."""
    timed = [Timed("faces/001", "student", "float32", 2.0, 2.5, 500.0, 5.0, "nme", "test", False)]
    sizes = [draw(timed).shape]
    fonts = len(open_fonts())
    together = threading.Barrier(6)

    def ask():
        sizes.append(draw(timed).shape)
        together.wait(60)  # all of them are alive at once, so none has the number of another

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sizes) == 7 and len(set(sizes)) == 1
    assert len(open_fonts()) == fonts


def open_fonts():
    return [f.path for f in psutil.Process().open_files() if f.path.endswith(".ttf")]


def test_further_figures_are_those_of_the_results():
    shelf = Shelf(located("shipped:faces68").parent)
    large, small = (shelf.load(f"shipped:{name}") for name in ("faces68", "faces68-small"))
    names = ["teacher", "student", "other student"]
    rows = {words: values for words, *values in further(large, names, small)}
    assert set(rows) == {
        "faces with more than 8 %, %",
        "faces with more than 10 %, %",
        "area below the error curve up to 8 %, 0 to 1",
    }
    expected = [
        large.results["teacher"]["fr@0.10"],
        large.results["student"]["fr@0.10"],
        small.results["student"]["fr@0.10"],
    ]
    assert rows["faces with more than 10 %, %"] == expected and expected[1] == 4.5
