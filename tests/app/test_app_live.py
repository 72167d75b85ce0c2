"""Frames that follow each other: two paces, what is no video, files that are swept, and threads that overlap."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import gradio as gr
import numpy as np
import psutil
import pytest
import torch
from served import ROOT
from srrl_app.files import sweep
from srrl_app.images import as_url, prepare_images
from srrl_app.live import LONGEST, Camera, annotate
from srrl_app.live_tab import LiveTab
from srrl_app.shelf import Shelf
from srrl_app.words import in_words

from srrl.errors import UserError
from srrl.speed import threads


@pytest.fixture
def loaded(runs):
    return Shelf(runs).load("faces/001")


def frame(seed=0):
    return np.random.default_rng(seed).integers(0, 255, (90, 120, 3), dtype=np.uint8)


def video(path, count, fourcc="mp4v", size=(120, 90), rate=20, of=frame):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*fourcc), rate, size)
    for i in range(count):
        writer.write(cv2.resize(of(i), size))
    writer.release()
    return path


def test_the_student_does_not_wait_for_the_teacher(loaded):
    """A teacher that takes 0.6 s a frame: the student's frames come meanwhile, the teacher's newest one later."""
    camera = Camera(loaded, smooth=True, box="whole")
    usual, seen = camera.teacher.follower, []

    def slow(pixels, seconds):
        time.sleep(0.6)
        seen.append(pixels[0, 0].tolist())
        return usual(pixels, seconds)

    camera.teacher.follower = slow
    taught, began, count = [], time.monotonic(), 0
    while len(taught) < 2 and time.monotonic() - began < 60:
        drawn, other = camera.frame(frame(count))
        assert drawn.shape == (90, 120, 3)
        count += 1
        if other is not None:
            taught.append(other)
    assert len(taught) == 2 and count > 2 * len(seen)
    assert "**Student**" in camera.said() and "**Teacher**" in camera.said()


def test_another_run_does_not_keep_the_teachers_picture():
    """A camera that goes on while another run is chosen, which has no teacher: its picture is emptied, its column hidden."""
    shelf, request, kept = Shelf("nowhere"), SimpleNamespace(session_hash="one"), None
    with gr.Blocks():
        tab = LiveTab(shelf, gr.Dropdown(["shipped:faces68"], value="shipped:faces68"))
    assert [tab.columns[n].visible for n in ("teacher", "student")] == [True, True]
    picture = as_url(frame())

    def ask(run):
        nonlocal kept
        student, teacher, _, kept, _, *columns = tab.frame(
            picture, run, False, "the whole picture is one face", kept, request
        )
        assert student.startswith("data:image/jpeg")
        return teacher, columns

    teacher, columns = ask("shipped:faces68")
    assert not isinstance(teacher, dict) and [c.visible for c in columns] == [True, True]
    until(lambda: isinstance(ask("shipped:faces68")[0], str))
    teacher, columns = ask("shipped:faces68-small")
    assert teacher is None and [c.visible for c in columns] == [False, True]
    assert ask("shipped:faces68-small") == (gr.skip(), [gr.skip()] * 2)
    _, columns = ask("shipped:faces68")
    assert [c.visible for c in columns] == [True, True]


def test_a_teacher_that_fails_is_told_and_comes_back(loaded, capsys):
    camera = Camera(loaded, smooth=False, box="whole")
    usual = camera.teacher.follower

    def broken(pixels, seconds):
        raise RuntimeError("secret details")

    camera.teacher.follower = broken
    until(lambda: camera.frame(frame()) and "did not work (RuntimeError)" in camera.said())
    assert "secret" not in camera.said() and "secret details" in capsys.readouterr().err
    camera.teacher.follower = usual
    until(lambda: camera.frame(frame())[1] is not None)
    assert "did not work" not in camera.said()


def until(what, seconds=60):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_jitter_is_a_figure_only_while_the_face_holds_still(tmp_path):
    """A painted face before the camera and in a video, at rest and wandering."""
    shipped = Shelf("nowhere").load("shipped:faces68-small")
    face = cv2.resize(cv2.imread(str(ROOT / "app/examples/face.jpg")), (200, 200))[..., ::-1]

    def at(left):
        picture = np.full((220, 400, 3), face[:5].mean((0, 1)), np.uint8)
        picture[10:210, left : left + 200] = face
        return picture

    camera = Camera(shipped, smooth=False, box=None)
    assert "jitter" not in camera.said()
    camera.frame(at(100))
    assert "ms each, jitter: hold still to measure" in camera.said()
    until(lambda: camera.frame(at(100)) and "% of the distance between the eyes" in camera.said())
    camera.frame(at(130))
    assert "jitter: hold still to measure" in camera.said() and "%" not in camera.said()
    camera.frame(np.zeros((220, 400, 3), np.uint8))
    assert "%" not in camera.said()
    rests = video(tmp_path / "rests.mp4", 25, size=(400, 220), of=lambda i: at(100)[..., ::-1])
    moves = video(tmp_path / "moves.mp4", 25, size=(400, 220), of=lambda i: at(50 + 5 * i)[..., ::-1])
    for path, said in (
        (rests, "% of the distance between the eyes"),
        (moves, "jitter not measured, as no face"),
    ):
        assert said in list(annotate(shipped, path, tmp_path, smooth=False, box=None))[-1].said


def test_a_video_comes_back_annotated(loaded, tmp_path, monkeypatch):
    source = video(tmp_path / "a.mp4", 8)
    *shares, last = annotate(loaded, source, tmp_path, smooth=False, box="whole")
    assert [p.frames for p in shares] == list(range(1, 9)) and shares[-1].said == "8 of 8 frames"
    assert "8 frames done." in last.said and "first" not in last.said
    capture = cv2.VideoCapture(str(last.file))
    assert (capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (240, 90)
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(20, abs=0.1)
    stopped = list(
        annotate(loaded, source, tmp_path, smooth=False, box="whole", stopped=iter([0, 0, 1]).__next__)
    )
    assert stopped[-1].said.startswith("Stopped after 2 of 8 frames.") and "done" not in stopped[-1].said
    assert stopped[-1].frames == 2 and stopped[-1].file.stat().st_size > 0
    monkeypatch.setattr("srrl_app.live.video_length", lambda path: (0, 20.0))  # some files do not say it
    stopped = list(
        annotate(loaded, source, tmp_path, smooth=False, box="whole", stopped=iter([0, 1]).__next__)
    )
    assert stopped[-1].said.startswith("Stopped after 1 frame.")
    with pytest.raises(UserError, match="neither a teacher nor a student"):
        next(annotate(replace(loaded, predictors={}), source, tmp_path, smooth=False, box=None))


def test_long_videos_are_cut(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr("srrl_app.live.MOST_FRAMES", 4)
    *_, last = annotate(loaded, video(tmp_path / "a.mp4", 8), tmp_path, smooth=False, box="whole")
    assert "4 frames done. Only the first 0 seconds were looked at." in last.said and LONGEST > 0


def test_bombs_are_refused_before_a_frame_of_theirs_is_made(loaded, tmp_path):
    """A few hundred kilobytes that hold frames of 768 MB, and of 72: neither is decoded, as the memory shows."""
    from PIL import Image

    Image.new("P", (16000, 16000)).save(tmp_path / "bomb.gif")
    large = video(tmp_path / "large.avi", 2, "MJPG", (6000, 4000))
    level = psutil.Process().memory_info().rss
    for path, said in (
        (tmp_path / "bomb.gif", "not a video"),
        (large, "6000 × 4000 pixels: make it smaller"),
    ):
        with pytest.raises(UserError, match=said):
            next(annotate(loaded, path, tmp_path, smooth=False, box=None))
    assert psutil.Process().memory_info().rss < level + 50e6


def test_tiny_and_very_slow_videos(loaded, tmp_path):
    with pytest.raises(UserError, match="16 × 16 pixels, fewer than can show a face"):
        next(
            annotate(loaded, video(tmp_path / "a.avi", 2, "MJPG", (16, 16)), tmp_path, smooth=False, box=None)
        )
    slow = video(tmp_path / "b.avi", 3, "MJPG", rate=0.01)
    assert list(annotate(loaded, slow, tmp_path, smooth=False, box="whole"))[-1].file.stat().st_size > 0


def test_what_is_no_video_is_said_and_lists_of_other_files_are_not_followed(loaded, tmp_path):
    secret = video(tmp_path / "secret.mp4", 3)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n"
    for name, content in (("a.m3u8", playlist), ("a.mp4", playlist), ("b.mp4", "just text"), ("c.mp4", "")):
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match="not a video that can be opened here"):
            next(annotate(loaded, tmp_path / name, tmp_path, smooth=False, box=None))
    for name, fourcc in (("a.avi", "MJPG"), ("a.webm", "VP80"), ("a.mkv", "MJPG"), ("a.mov", "mp4v")):
        path = video(tmp_path / name, 2, fourcc)
        assert next(annotate(loaded, path, tmp_path, smooth=False, box="whole")).frames == 1, name


def test_old_files_are_swept_by_a_clock_that_nobody_sets(tmp_path):
    seen = {}

    def swept(now, **kept):
        sweep(tmp_path, 50, seen, now, **kept)
        return sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())

    for name in ("a/old.png", "b/own.png", "c/old.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (0, 0))  # the time of day had been set wrong, or has been set right since
    own = {tmp_path / "b/own.png", tmp_path / "b"}
    assert swept(1000, kept=own) == ["a/old.png", "b/own.png", "c/old.png"]
    (tmp_path / "c/new.png").write_text("x")
    assert swept(1049, kept=own) == ["a/old.png", "b/own.png", "c/new.png", "c/old.png"]
    assert swept(1051, kept=own) == ["b/own.png", "c/new.png"]
    assert not (tmp_path / "a").exists()
    (tmp_path / "a").mkdir()
    assert swept(1098, kept=own) == ["b/own.png", "c/new.png"]  # in sight for 49 seconds
    assert swept(1100, kept=own) == ["b/own.png"]
    assert swept(1200, kept=own) == ["b/own.png"] and seen.keys() == {tmp_path / "b/own.png"} - own
    (tmp_path / "b/again.png").write_text("x")
    assert swept(1300, kept=own) == ["b/again.png", "b/own.png"]
    os.utime(tmp_path / "b/again.png", (5, 5))  # handed out a second time
    assert swept(1349, kept=own) == swept(1399, kept=own) == ["b/again.png", "b/own.png"]
    assert swept(1400, kept=own) == ["b/own.png"]


def test_a_picture_that_is_shown_again_is_whole_for_those_who_fetch_it(tmp_path):
    """Equal answers are one file, which a second client's answer must not empty under the first one's eyes."""
    prepare_images()
    shown = gr.Image(format="png")
    shown.GRADIO_CACHE = str(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    path, ended = Path(shown.postprocess(pixels).path), threading.Event()
    whole = path.read_bytes()
    assert np.array_equal(cv2.imread(str(path))[..., ::-1], pixels)

    def fetch():
        found = []
        while not ended.is_set():
            found.append(path.read_bytes() == whole)
        return found

    with ThreadPoolExecutor(1) as pool:
        fetched = pool.submit(fetch)
        for _ in range(300):
            assert shown.postprocess(pixels).path == str(path)
        ended.set()
    assert len(fetched.result()) > 100 and all(fetched.result())
    assert [p.name for p in path.parent.iterdir()] == ["image.png"]


def test_overlapping_blocks_of_threads_leave_the_number_as_it_was():
    before, inside, leave = torch.get_num_threads(), threading.Event(), threading.Event()

    def other():
        with threads(1):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with threads(3):
        thread.start()
        inside.wait(10)
    leave.set()
    thread.join()
    assert torch.get_num_threads() == before


def test_only_what_is_meant_for_people_is_told(capsys):
    assert in_words(UserError("Choose a run.")) == "Choose a run."
    said = in_words(KeyError("/home/someone/secret"))
    assert "secret" not in said and "KeyError" in said
    assert "secret" in capsys.readouterr().err
