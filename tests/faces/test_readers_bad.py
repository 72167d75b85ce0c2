"""Bad annotations and pictures: each gives one line that names it, or is dropped and counted when asked."""

import json
import os
import pickle
import shutil
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from face_files import FILES, path_of, some_points, write_image, write_pts
from small_run import flip_a_pixel, write_sums
from srrl_tasks.faces.dataset import FaceDataset
from srrl_tasks.faces.readers import detect, has_split, read
from srrl_tasks.faces.readers import detection as detection_module
from srrl_tasks.faces.records import (
    MAX_PIXELS,
    FaceRecord,
    Records,
    check_points,
    decode_image,
    image_size,
    verify_images,
)
from srrl_tasks.faces.schemes import scheme_for
from srrl_tasks.faces.settings import FacesSettings
from srrl_tasks.faces.target import found_faces

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
        ({"image_id": [7]}, "image_id is no number or text"),
        ({"image_id": {"id": 7}}, "image_id is no number or text"),
        ({"image_id": None}, "image_id is no number or text"),
        ({"image_id": 9}, "cannot be looked up"),
        ({"image_id": 10}, r"'a\x00.png' is missing"),
        ({"keypoints": [10**400, 2, 2] * 68}, "keypoints is not a list of numbers"),
        ({"bbox": [1, 2, [3], 4]}, "bbox is not a list of numbers"),
        ({"bbox": [1, 2, 3, 10**400]}, "bbox is not a list of numbers"),
        ({"center": [50, 60], "scale": [[1], [2, 3]]}, "scale is not a list of numbers"),
        ({"center": [50, 60], "scale": {"x": 1}}, "scale is not a list of numbers"),
        ({"center": [50, 60], "scale": 10**400}, "scale is not a list of numbers"),
        ({"center": [[50], [60, 1]], "scale": 1}, "center is not a list of numbers"),
    ],
)
def test_bad_coco_annotations_are_named(tmp_path, change, words):
    write_image(tmp_path / "a.png")
    good = {"image_id": 7, "keypoints": [v for x, y in GOOD for v in (x, y, 2)]}
    images = [
        {"id": 7, "file_name": "a.png"},
        {"id": [8], "file_name": "a.png"},  # no id that a face could name
        {"file_name": "a.png"},
        {"id": 9, "file_name": "a" * 300 + ".png"},  # longer than file systems allow
        {"id": 10, "file_name": "a\0.png"},
    ]
    content = {"images": images, "annotations": [good, {**good, **change}]}
    (tmp_path / "k.json").write_text(json.dumps(content))
    text = message_of(read, tmp_path / "k.json")
    assert words in text and "annotations[1]" in text
    assert len(read(tmp_path / "k.json", on_error="skip")) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "too deep"),
        ('{"images": [], "annotations": ' + "[" * 5000 + "]" * 5000 + "}", "too deep"),
        ('{"images": [' + "9" * 5000 + '], "annotations": []}', "more digits"),
        ('{"images": [}', "line 1: not JSON"),
    ],
)
def test_json_that_python_does_not_take(tmp_path, text, words):
    (tmp_path / "k.json").write_text(text)
    for on_error in ("raise", "skip"):
        found = message_of(read, tmp_path / "k.json", on_error=on_error)
        assert words in found and "k.json" in found


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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.png\nb.png\n", "no value beside the image name 'a.png'"),
        ("image\na.png\n", "no value beside the image name 'a.png'"),
        ("0,a.png\n1,b.png\n", "no value beside the image name 'a.png'"),
        ("a.png," + XY + "\na.png," + "1" * 200_000, "line 2: not a CSV table (field larger"),
        ("a" * 300 + ".png," + XY, "line 1: its image 'aaa"),
        ("a\0.png," + XY, r"line 1: its image 'a\x00.png' is missing"),
    ],
    ids=["names", "header", "numbers", "long-cell", "long-name", "nul"],
)
def test_tables_that_are_none_are_named(tmp_path, text, words):
    write_image(tmp_path / "a.png")
    (tmp_path / "k.csv").write_text(text)
    found = message_of(read, tmp_path / "k.csv")
    assert words in found and "k.csv" in found and len(found) < 400 + len(str(tmp_path))


@pytest.fixture
def aflw(tmp_path):
    """A copy of the AFLW files and a way to write their table with changes."""
    from scipy.io import loadmat, savemat

    shutil.copytree(FILES / "aflw", tmp_path / "aflw")
    file = tmp_path / "aflw/AFLWinfo_release.mat"
    file.chmod(0o644)
    table = {k: v for k, v in loadmat(file).items() if not k.startswith("__")}

    def write(**changes):
        savemat(file, {**table, **changes})
        return file

    write.table = table
    return write


def cells(*values):
    """A MATLAB cell array, one column."""
    made = np.empty((len(values), 1), dtype=object)
    made[:, 0] = values
    return made


@pytest.mark.parametrize("cell", [np.zeros((0, 0)), "", 3.0, cells("x", "y"), cells(np.zeros(0)), {"a": 1}])
def test_an_aflw_face_without_a_name_is_named(aflw, cell):
    names = aflw.table["nameList"].copy()
    names.ravel()[1] = cell
    file = aflw(nameList=names)
    assert "face 2: nameList holds no image name" in message_of(read, file)
    records = read(file, on_error="skip")
    assert len(records) == len(names.ravel()) - 1 and len(records.skipped) == 1


@pytest.mark.parametrize("name", ["data", "bbox", "mask_new", "ra"])
@pytest.mark.parametrize("kind", ["sparse", "struct", "cells", "text"])
def test_aflw_arrays_of_another_kind_are_named(aflw, name, kind):
    from scipy.sparse import csc_matrix

    value = aflw.table[name]
    other = {
        "sparse": lambda: csc_matrix(np.asarray(value, np.float64)),
        "struct": lambda: {"a": value},
        "cells": lambda: value.astype(object),
        "text": lambda: "text",
    }[kind]()
    file = aflw(**{name: other})
    for on_error in ("raise", "skip"):
        found = message_of(read, file, on_error=on_error)
        assert f"{file}: {name} is no array of plain numbers" in found


@pytest.mark.parametrize("compressed", [False, True])
def test_a_type_that_is_none_is_a_damaged_file(aflw, compressed):
    """It ends the whole process where scipy.io reads it."""
    file = aflw()
    data = file.read_bytes()
    size = 8 + struct.unpack("<I", data[132:136])[0]
    first, rest = data[128 : 128 + size], data[128 + size :]
    at = first.index(struct.pack("<II", 9, 4 * 4 * 8))  # the numbers of bbox, doubles
    for kind in (9, 158, 8, 14, 16):
        changed = first[:at] + bytes([kind]) + first[at + 1 :]
        if compressed:
            changed = zlib.compress(changed)
            changed = struct.pack("<II", 15, len(changed)) + changed
        file.write_bytes(data[:128] + changed + rest)
        if kind == 9:
            assert len(read(file)) == 4
        else:
            found = message_of(read, file)
            assert f"{file}: not a MATLAB v5 file, or damaged (" in found


def cofw_file(path, change=lambda file: None, picture=None):
    """One face in COFW's layout."""
    import h5py

    with h5py.File(path, "w") as file:
        picture = np.zeros((3, 40, 30), np.uint8) if picture is None else picture
        file.create_dataset("#refs#/a", data=picture)
        references = np.array([[file["#refs#/a"].ref]], dtype=h5py.ref_dtype)
        file.create_dataset("IsTr", data=references, dtype=h5py.ref_dtype)
        phis = np.r_[np.arange(1.0, 30), np.arange(2.0, 31), np.zeros(29)][:, None]
        file.create_dataset("phisTr", data=phis)
        file.create_dataset("bboxesTr", data=np.array([[1.0], [1], [10], [10]]))
        change(file)
    return path


def replaced(name, **options):
    def change(file):
        del file[name]
        file.create_dataset(name, **options) if options else file.create_group(name)

    return change


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("IsTr", {}),
        ("phisTr", {}),
        ("bboxesTr", {"data": np.array([b"text"] * 4)}),
        ("phisTr", {"data": np.zeros((87, 1), [("a", "f8"), ("b", "f8")])}),
        ("phisTr", {"shape": (87, 1 << 50), "chunks": (87, 1), "dtype": "f8"}),
    ],
    ids=["images-group", "points-group", "text", "compound", "endless"],
)
def test_cofw_arrays_of_another_kind_are_one_line(tmp_path, name, options):
    file = cofw_file(tmp_path / "COFW_train_color.mat", replaced(name, **options))
    for on_error in ("raise", "skip"):
        found = message_of(read, file, on_error=on_error)
        assert str(file) in found and "its arrays cannot be read, the file is damaged" in found


@pytest.mark.parametrize(
    ("change", "picture"),
    [
        (replaced("IsTr", data=np.array([[7.0]])), None),
        (lambda file: file["IsTr"].write_direct(np.array([[None]], dtype=file["IsTr"].dtype)), None),
        (lambda file: file.__delitem__("#refs#/a"), None),
        (lambda file: None, np.array([[b"x"] * 3])),
        (lambda file: None, np.zeros((3, 40, 30), [("a", "u1")])),
    ],
    ids=["numbers", "null", "nowhere", "text", "compound"],
)
def test_a_cofw_picture_that_cannot_be_read_is_one_line(tmp_path, change, picture):
    file = cofw_file(tmp_path / "COFW_train_color.mat", change, picture)
    (record,) = read(file)
    found = message_of(record.load)
    assert str(file) in found and "picture 1 of IsTr" in found
    assert "none of the 1 faces" in message_of(verify_images, [record], on_error="skip")


@pytest.mark.parametrize("word", [b"TREE", b"SNOD", b"HEAP"])
def test_a_damaged_tree_inside_cofw_is_one_line(tmp_path, word):
    data = (FILES / "COFW_test_color.mat").read_bytes()
    assert word in data
    file = tmp_path / "COFW_test_color.mat"
    file.write_bytes(data.replace(word, b"XXXX"))
    assert f"{file}: its arrays cannot be read" in message_of(read, file)


@pytest.mark.parametrize(
    ("name", "times"),
    [("COFW_test_color.mat", 150), ("aflw/AFLWinfo_release.mat", 20)],  # each of these is a process
)
def test_changed_bytes_in_matlab_files_are_taken_or_refused(tmp_path, name, times):
    shutil.copytree(FILES, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).chmod(0o644)
    data, refused = (tmp_path / name).read_bytes(), 0
    rng = np.random.default_rng(0)
    for _ in range(times):
        changed = bytearray(data)
        for at in rng.integers(0, 2600, 3):  # where both have their tables
            changed[at] ^= int(rng.integers(1, 256))
        (tmp_path / name).write_bytes(changed)
        try:
            read(tmp_path / name)
        except UserError as error:
            assert name in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > times / 10


def test_a_folder_is_no_annotation_file(tmp_path):
    (tmp_path / "x.json").mkdir()
    (tmp_path / "x.csv").mkdir()
    assert "no known annotation format" in message_of(detect, tmp_path)
    shutil.copytree(FILES / "coco", tmp_path, dirs_exist_ok=True)
    assert detect(tmp_path) == "coco" and len(read(tmp_path)) > 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"annotations": [], "keypoints": ' + " " * 500, True),
        ('\ufeff \n{"images": [' + " " * 57 + '], "annotations": [{"keypoints": []}]}', True),
        ('["annotations", "keypoints"]', False),
        ('{"annotations": []}', False),
    ],
)
@pytest.mark.parametrize("block", [17, 64, 1 << 20])
def test_json_is_recognised_block_by_block(tmp_path, text, found, block, monkeypatch):
    monkeypatch.setattr(detection_module, "BLOCK", block)
    (tmp_path / "k.json").write_text(text, encoding="utf-8")
    assert (detection_module._of_folder(tmp_path) == "coco") == found


def test_paths_that_the_system_does_not_take(tmp_path):
    assert "no such user's folder" in message_of(read, "~no-such-user-here/faces")
    assert "no such user's folder" in message_of(has_split, "~no-such-user-here/faces", "ibug", "val")
    for call in (read, detect):
        assert "File name too long" in message_of(call, tmp_path / ("x" * 300))
    (tmp_path / "round").symlink_to(tmp_path / "round")
    assert "no such file or folder" in message_of(read, tmp_path / "round")


def test_a_folder_that_cannot_be_read_is_named(folder, monkeypatch):
    write_image(folder / "part/good5.png")
    write_pts(folder / "part/good5.pts", GOOD)
    assert len(read(folder)) == 3
    scandir = os.scandir

    def guarded(path="."):
        if os.fspath(path).endswith("part"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    for on_error in ("raise", "skip"):
        found = message_of(read, folder, on_error=on_error)
        assert str(folder / "part") in found and "cannot be read (Permission denied)" in found
    for name in ("good0", "good9"):
        (folder / f"{name}.pts").unlink()
    assert str(folder / "part") in message_of(detect, folder)
    monkeypatch.setattr(os, "listdir", lambda path: guarded(str(path) + "/part"))
    monkeypatch.setattr("pathlib.Path.iterdir", lambda path: guarded(path / "part"))
    assert "cannot be read (Permission denied)" in message_of(detect, folder)


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


def png_head(width, height):
    """A PNG file of one row that says it has more."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(3 * width + 1))),
        (b"IEND", b""),
    ]
    made = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


def jpeg_head(width, height, end=b"\xff\xd9"):
    """A small JPEG file that says it is larger, with a fill byte before its frame."""
    data = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    at = data.index(b"\xff\xc0")
    frame = data[at : at + 5] + struct.pack(">HH", height, width)
    return data[:at] + b"\xff" + frame + data[at + 9 : -2] + end


def bmp_head(width, height):
    data = cv2.imencode(".bmp", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (png_head(20_000, 20_000), "its 20000x20000 pixels are more than 178 megapixels"),
        (jpeg_head(20_000, 10_000), "its 20000x10000 pixels are more than 178 megapixels"),
        (jpeg_head(60_000, 60_000, b""), "its 60000x60000 pixels are more than 178 megapixels"),
        (bmp_head(20_000, 20_000), "it has more than 178 megapixels"),
        (jpeg_head(400, 400, b""), "cut short"),
        (b"\xff\xd8" + b"\xff" * 5000, "cut short"),
    ],
    ids=["png", "jpeg", "jpeg-cut", "bmp", "small-cut", "filling"],
)
def test_too_many_pixels_are_refused_before_they_are_decoded(folder, data, words, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *a: pytest.fail("it is decoded"))
    (folder / "good0.png").write_bytes(data)
    record = read(folder)[0]
    found = message_of(record.load)
    assert words in found and "good0.png" in found
    if "megapixels" in words:
        monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 1000)  # as Pillow refuses them in its way
        assert "good0.png" in message_of(image_size, record)


def test_the_limit_is_that_of_pillow():
    from PIL import Image

    assert 2 * Image.MAX_IMAGE_PIXELS == MAX_PIXELS


@pytest.mark.parametrize(
    "words", ["error: (-4:Insufficient memory) Failed to allocate 6220800000 bytes", "std::bad_alloc"]
)
@pytest.mark.parametrize("call", ["imdecode", "cvtColor"])
def test_too_little_memory_drops_no_picture(folder, words, call, monkeypatch):
    def fail(*args):
        raise cv2.error(words)

    records = read(folder)
    monkeypatch.setattr(cv2, call, fail)
    with pytest.raises(MemoryError, match="good0.png"):
        verify_images(records, on_error="skip", workers=1)


def test_pictures_are_verified_some_at_a_time(folder, monkeypatch):
    """Thread pools make a future of each item that map is given."""
    given, whole = [], ThreadPoolExecutor.map

    def spied(pool, call, items):
        given.append(len(items))
        return whole(pool, call, items)

    monkeypatch.setattr(ThreadPoolExecutor, "map", spied)
    monkeypatch.setattr("srrl_tasks.faces.records.CHUNK", 2)
    for i in range(1, 4):
        write_image(folder / f"good{i}.png")
        write_pts(folder / f"good{i}.pts", GOOD)
    (folder / "good2.png").write_bytes(b"no picture")
    kept = verify_images(read(folder), on_error="skip")
    assert [r.name for r in kept] == [f"good{i}.png" for i in (0, 1, 3, 9)] and len(kept.skipped) == 1
    assert given == [2, 2, 1]


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


@pytest.fixture
def summed(tmp_path):
    """Three faces on BMP pictures, with SHA256SUMS; the second picture has another bit since."""
    for number in range(3):
        write_image(tmp_path / "set" / f"{number}.bmp")
        write_pts(tmp_path / "set" / f"{number}.pts", GOOD)
    write_sums(tmp_path / "set")
    flip_a_pixel(tmp_path / "set" / "1.bmp")
    return tmp_path / "set"


def test_a_picture_that_differs_from_its_checksum_is_named_or_skipped(summed):
    records = read(summed)
    said = "1.bmp differs from its line in .*SHA256SUMS: restore it"
    with pytest.raises(UserError, match=said):
        verify_images(records)
    kept = verify_images(records, on_error="skip")
    assert [r.name for r in kept] == [records[0].name, records[2].name] and "1.bmp differs" in kept.skipped[0]
    dataset = FaceDataset(records, scheme_for(68), 32)
    assert dataset[0]["image"].shape == (3, 32, 32)
    for look in (records[1].load, lambda: dataset[1], lambda: pickle.loads(pickle.dumps(dataset))[2, 1]):
        with pytest.raises(UserError, match=said):
            look()
    (summed / "SHA256SUMS").unlink()
    assert len(verify_images(read(summed))) == 3


def test_a_picture_without_a_line_is_named_and_a_list_file_has_its_folders_checksums(summed):
    rows = [f"{n}.bmp," + ",".join(f"{x},{y}" for x, y in GOOD) for n in range(3)]
    (summed / "all.csv").write_text("\n".join(rows))
    assert "1.bmp differs" in message_of(verify_images, read(summed / "all.csv"))
    text = (summed / "SHA256SUMS").read_text().splitlines(keepends=True)
    (summed / "SHA256SUMS").write_text(text[0])
    assert "1.bmp has no line in" in message_of(verify_images, read(summed / "all.csv"))
    assert len(verify_images(read(summed / "all.csv"), on_error="skip")) == 1


def test_faces_that_a_detector_is_to_find_are_compared_as_well(summed):
    cfg = FacesSettings()
    assert "1.bmp differs" in message_of(found_faces, summed, scheme_for(68), cfg, lambda text: None)
