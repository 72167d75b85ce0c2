"""Bad annotations and pictures: each gives one line that names it, or is dropped and counted when asked."""

import json
import shutil

import cv2
import numpy as np
import pytest
from face_files import FILES, path_of, some_points, write_image, write_pts
from srrl_tasks.faces.readers import detect, read
from srrl_tasks.faces.records import (
    FaceRecord,
    Records,
    check_points,
    decode_image,
    image_size,
    verify_images,
)

from srrl.errors import UserError

GOOD = some_points()


def message_of(call, *args, **options):
    """The one line of the UserError that the call must raise."""
    with pytest.raises(UserError) as error:
        call(*args, **options)
    text = str(error.value)
    assert "\n" not in text and len(text) > 30
    return text


@pytest.fixture
def folder(tmp_path):
    """Two good faces, good0 and good9, around the place where tests put a bad one."""
    for name in ("good0", "good9"):
        write_image(tmp_path / f"{name}.png")
        write_pts(tmp_path / f"{name}.pts", GOOD)
    return tmp_path


def swapped(index, value):
    return [value if i == index else point for i, point in enumerate(GOOD)]


HEAD = "version: 1\nn_points: {n}\n{{\n"
BAD_PTS = {
    "count": ((GOOD[:-1], "version: 1\nn_points: 68\n{{\n"), "67 points where n_points says 68"),
    "nan": ((swapped(3, ("nan", 5)), HEAD), "line 7: 'nan'"),
    "infinite": ((swapped(0, (5, "-inf")), HEAD), "line 4: '-inf'"),
    "word": ((swapped(1, (5, "x")), HEAD), "line 5: 'x'"),
    "three numbers": ((swapped(1, (5, "6 7")), HEAD), "line 5: '5 6 7'"),
    "junk head": ((GOOD, "<html>\n{{\n"), "line 1: '<html>'"),
    "no brace": ((GOOD, "version: 1\nn_points: 68\n"), "line 3"),
    "other scheme": ((GOOD[:5], HEAD), "5 points where the other faces have 68"),
    "one place": (([(4, 4)] * 68, HEAD), "all points lie at [3.0, 3.0]"),
    "none": (([], HEAD), "no points"),
}


@pytest.mark.parametrize("case", BAD_PTS)
def test_bad_pts_raise_or_are_skipped(folder, case):
    (points, head), words = BAD_PTS[case]
    write_image(folder / "good5.png")
    write_pts(folder / "good5.pts", points, head)
    text = message_of(read, folder)
    assert words in text and "good5.p" in text
    records = read(folder, on_error="skip")
    assert [r.name for r in records] == ["good0.png", "good9.png"]
    assert records.skipped == [text]


@pytest.mark.parametrize("content", [b"", b"version: 1\nn_points: 68\n{\n1 2\n", b"\xff\xfe\0\1 binary \x80"])
def test_pts_cut_short_or_binary(folder, content):
    (folder / "good0.pts").write_bytes(content)
    assert "good0.pts" in message_of(read, folder)
    assert len(read(folder, on_error="skip")) == 1


def test_pts_without_image(folder):
    (folder / "good0.png").unlink()
    text = message_of(read, folder)
    assert "good0.pts" in text and "no image of the same name" in text
    assert len(read(folder, on_error="skip").skipped) == 1


def test_all_bad_is_an_error_even_when_skipping(folder):
    for name in ("good0", "good9"):
        (folder / f"{name}.png").unlink()
    assert "no usable face" in message_of(read, folder, on_error="skip")


def test_missing_and_empty_paths(tmp_path):
    text = message_of(read, tmp_path / "nowhere", "wflw")
    assert str(tmp_path.resolve() / "nowhere") in text and "WFLW_images" in text
    (tmp_path / "empty").mkdir()
    assert "empty" in message_of(read, tmp_path / "empty") and "WFLW_annotations" in message_of(
        detect, tmp_path / "empty"
    )
    for name in ("ibug", "wflw", "300w", "cofw", "aflw", "coco", "csv"):
        text = message_of(read, tmp_path / "empty", name)
        assert str(tmp_path / "empty") in text and "layout" in text
    assert "the data path is empty" in message_of(read, "")
    write_image(tmp_path / "photos/a.png")
    assert "1 images but no annotations" in message_of(read, tmp_path / "photos")
    assert "beside its 1 images" in message_of(read, tmp_path / "photos", "ibug")


def test_unknown_format_split_and_policy(folder):
    assert "did you mean 'wflw'" in message_of(read, folder, "wflv")
    assert "did you mean '300w'" in message_of(read, folder, "300-W")
    assert "did you mean 'common'" in message_of(read, folder, "300w", "comon")
    text = message_of(read, FILES / "wflw", split="val")
    assert "train, test" in text and "set a part of train aside" in text
    assert "raise or skip" in message_of(read, folder, on_error="ignore")
    assert "is empty" in message_of(read, FILES / "aflw", split="test")
    assert "IsTr" in message_of(read, path_of("cofw"), split="train")
    assert "lacks afw, helen/trainset, lfpw/trainset" in message_of(read, folder, "300w", "train")


@pytest.mark.parametrize("name", ["a.mat", "a.json", "a.csv", "a.txt", "a.pts"])
@pytest.mark.parametrize("content", [b"", b"\x89\xfe\0\0junk", b"just words\n"])
def test_junk_files_give_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert name in message_of(read, tmp_path / name)


def edited_wflw(tmp_path, edit):
    shutil.copytree(FILES / "wflw", tmp_path, dirs_exist_ok=True)
    file = tmp_path / "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_test.txt"
    file.chmod(0o644)
    lines = [line.split(" ") for line in file.read_text().splitlines()]
    edit(lines[1])
    file.write_bytes("\r\n".join("  ".join(line) for line in [*lines[:1], [], *lines[1:]]).encode())


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda t: t.pop(5), "206 values, expected 207"),
        (lambda t: t.__setitem__(7, "nan"), "'nan' is not a finite number"),
        (lambda t: t.__setitem__(198, t[196]), "has no area"),
        (lambda t: t.__setitem__(201, "2"), "expected six values of 0 or 1"),
        (lambda t: t.__setitem__(206, "0--Parade/gone.jpg"), "'0--Parade/gone.jpg' is missing"),
    ],
)
def test_bad_wflw_lines_are_named(tmp_path, edit, words):
    edited_wflw(
        tmp_path, edit
    )  # with CRLF, doubled spaces and a blank second line, so that the bad one is line 3
    text = message_of(read, tmp_path, split="test")
    assert words in text and "list_98pt_rect_attr_test.txt line 3" in text
    records = read(tmp_path, split="test", on_error="skip")
    assert len(records) == 2 and len(records.skipped) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"keypoints": [1, 2, 2, 3]}, "4 values in keypoints"),
        ({"keypoints": [1, float("nan"), 2] * 68}, "not finite"),
        ({"keypoints": [1, 2, 0] * 68}, "no point is labelled"),
        ({"keypoints": "1 2 3"}, "not a list of numbers"),
        ({"bbox": [5, 5, 0, 9]}, "has no area"),
        ({"bbox": [5, 5]}, "expected x, y, width, height"),
        ({"image_id": 8}, "names no entry"),
    ],
)
def test_bad_coco_annotations_are_named(tmp_path, change, words):
    write_image(tmp_path / "a.png")
    good = {"image_id": 7, "keypoints": [v for x, y in GOOD for v in (x, y, 2)]}
    content = {"images": [{"id": 7, "file_name": "a.png"}], "annotations": [good, {**good, **change}]}
    (tmp_path / "k.json").write_text(json.dumps(content))
    text = message_of(read, tmp_path / "k.json")
    assert words in text and "annotations[1]" in text
    assert len(read(tmp_path / "k.json", on_error="skip")) == 1


XY = ",".join(f"{v}" for point in GOOD for v in point)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a.png," + XY + ",5", "138 cells, expected 137"),
        ("a.png," + XY.replace("50.0", "inf", 1), "'inf'"),
        ("a.png" + "," * 136, "no point is labelled"),
        ("gone.png," + XY, "'gone.png' is missing"),
        ("a.doc," + XY, "'a.doc' names no image"),
    ],
)
@pytest.mark.parametrize("first", [False, True])
def test_bad_csv_rows_are_named(tmp_path, row, words, first):
    write_image(tmp_path / "a.png")
    good = "a.png," + XY
    (tmp_path / "k.csv").write_text("\n".join([row, good, good] if first else [good, row, good]))
    if first and "cells" in words:
        words = "137 values beside the image name"  # the first row says how wide the table is
    text = message_of(read, tmp_path)
    assert (
        words in text
        and "k.csv" in text
        and ("values beside" in words or f"line {1 if first else 2}" in text)
    )


def test_pictures_that_do_not_decode(folder):
    write_image(folder / "good5.jpg", 300, 300)
    write_pts(folder / "good5.pts", GOOD)
    whole = (folder / "good5.jpg").read_bytes()
    for content, words in ((b"", "empty"), (b"text", "decode"), (whole[: len(whole) // 2], "cut short")):
        (folder / "good5.jpg").write_bytes(content)
        records = read(folder)
        text = message_of(records[1].load)
        assert "good5.jpg" in text and words in text
        assert message_of(verify_images, records) == text
        kept = verify_images(records, on_error="skip")
        assert [r.name for r in kept] == ["good0.png", "good9.png"] and kept.skipped == [text]
        assert kept.format == "ibug"


def test_a_whole_jpeg_with_trailing_data_decodes(tmp_path):
    write_image(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    assert decode_image(data + b"appended by a phone", "a.jpg").shape == (80, 100, 3)


def test_camera_orientation_does_not_turn_the_picture(tmp_path):
    """EXIF orientation 6 (turn by 90 degrees): the points were marked on the stored 100 x 80 pixels."""
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (100, 80), (200, 100, 50)).save(tmp_path / "a.png", exif=exif)
    record = FaceRecord("a", np.array(GOOD), image=tmp_path / "a.png")
    pixels = record.load()
    assert pixels.shape == (80, 100, 3) and pixels[0, 0].tolist() == [200, 100, 50]  # and red comes first
    assert image_size(record) == (80, 100)
    assert cv2.imread(str(tmp_path / "a.png")).shape == (100, 80, 3)  # OpenCV's default would have turned it


@pytest.mark.parametrize(
    ("point", "good"), [((-99, 40), True), ((200, 160), True), ((-101, 40), False), ((50, 161), False)]
)
def test_points_may_leave_the_frame_by_one_image_size(folder, point, good):
    record = FaceRecord("face", np.array([point, *GOOD[1:]], dtype=np.float64), image=folder / "good0.png")
    if good:
        record.load()
        return
    text = message_of(record.load)
    assert "face: point 0" in text and "100x80" in text
    assert message_of(check_points, record, (80, 100)) == text
    good = read(folder)[0]
    assert len(verify_images(Records([good, record]), on_error="skip").skipped) == 1
