"""The readers against files in the published layouts; `formats/expected.json` says what each of them means.

The files there are the independent truth: made from the descriptions of the formats, not by this project's
code.
"""

import json
import pickle
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from face_files import FILES, path_of, some_points, write_image, write_pts
from srrl_tasks.faces.readers import FORMATS, detect, read
from srrl_tasks.faces.records import verify_images

EXPECTED = json.loads((FILES / "expected.json").read_text())
BITS = ("pose", "expression", "illumination", "make-up", "occlusion", "blur")


@pytest.mark.parametrize("name", ["wflw", "ibug", "cofw", "aflw", "coco", "csv"])
def test_published_layout(name):
    records = read(path_of(name), split="test" if name == "wflw" else None)
    assert records.format == name == detect(path_of(name)) and records.skipped == []
    assert len(records) == len(EXPECTED[name])
    for record, expected in zip(records, EXPECTED[name], strict=True):
        assert record.points.dtype == np.float64
        np.testing.assert_allclose(record.points, expected["points"], atol=1e-9)
        if "image" in expected:
            assert record.image.as_posix().endswith("/" + expected["image"])
            assert record.name.split("#")[0] == expected["image"]
        if "rect_xyxy" in expected:
            assert record.rect == tuple(expected["rect_xyxy"])
        if "attributes" in expected:
            assert record.attributes == expected["attributes"]
            assert record.subsets == tuple(bit for bit in BITS if expected["attributes"][bit])
        pixels = record.load()
        assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
    assert len(verify_images(records)) == len(records)
    assert len(pickle.loads(pickle.dumps(list(records)))) == len(records)


def test_wflw_names_two_faces_of_one_image_apart():
    names = [record.name for record in read(FILES / "wflw", "wflw", "train")]
    assert names == [
        "0--Parade/0_Parade_one.jpg#1",
        "0--Parade/0_Parade_one.jpg#2",
        "1--Handshaking/1_Handshaking_two.jpg",
    ]


def test_wflw_from_a_list_file_and_from_a_root_without_the_annotations_folder(tmp_path):
    lists = FILES / "wflw/WFLW_annotations/list_98pt_rect_attr_train_test"
    from_file = read(lists / "list_98pt_rect_attr_train.txt")
    assert from_file.format == "wflw" and len(from_file) == 3
    shutil.copytree(lists, tmp_path / lists.name)
    shutil.copytree(FILES / "wflw/WFLW_images", tmp_path / "WFLW_images")
    assert len(read(tmp_path)) == 6  # train and test


def test_cofw_pixels_occlusion_and_boxes():
    records = read(path_of("cofw"))
    for record, expected in zip(records, EXPECTED["cofw"], strict=True):
        pixels = record.load()
        assert pixels.shape == (expected["height"], expected["width"], 3)
        np.testing.assert_array_equal(record.visible, np.array(expected["occluded"]) == 0)
        x, y, w, h = expected["bbox_xywh_on_disk"]  # counts from 1, as its points
        assert record.rect == (x - 1, y - 1, x - 1 + w, y - 1 + h)
        assert (pixels[..., 0] == pixels[..., 2]).all() == expected["grey"]


def test_cofw_rows_are_rows(tmp_path):
    """One bright pixel at row 2, column 5, channel 0, stored as MATLAB does: (channel, column, row)."""
    import h5py

    with h5py.File(tmp_path / "COFW_train_color.mat", "w") as file:
        stored = np.zeros((3, 40, 30), np.uint8)
        stored[0, 5, 2] = 255
        reference = file.create_dataset("#refs#/a", data=stored).ref
        file.create_dataset("IsTr", data=np.array([[reference]], dtype=h5py.ref_dtype), dtype=h5py.ref_dtype)
        file.create_dataset(
            "phisTr", data=np.r_[np.arange(1.0, 30), np.arange(2.0, 31), np.zeros(29)][:, None]
        )
        file.create_dataset("bboxesTr", data=np.array([[1.0], [1], [10], [10]]))
    (record,) = read(tmp_path, split="train")
    assert np.argwhere(record.load()).tolist() == [[2, 5, 0]]
    np.testing.assert_array_equal(record.points, np.stack([np.arange(29.0), np.arange(1.0, 30)], 1))


def test_aflw_train_follows_ra():
    names = [record.name for record in read(FILES / "aflw", split="train")]
    assert names == [EXPECTED["aflw"][i - 1]["image"] for i in (3, 1, 4, 2)]


def test_aflw_hidden_points_stay_and_missing_ones_become_nan(tmp_path):
    from scipy.io import loadmat, savemat

    shutil.copytree(FILES / "aflw", tmp_path, dirs_exist_ok=True)
    (tmp_path / "AFLWinfo_release.mat").chmod(0o644)
    table = {k: v for k, v in loadmat(tmp_path / "AFLWinfo_release.mat").items() if not k.startswith("__")}
    table["mask_new"][0, [3, 4]] = 0
    table["data"][0, [4, 19 + 4]] = 0
    savemat(tmp_path / "AFLWinfo_release.mat", table)
    first, second = read(tmp_path)[:2]
    assert not first.visible[3] and first.labelled[3] and not first.labelled[4]
    assert first.labelled.sum() == 18 and first.subsets == () and second.subsets == ("frontal",)


def test_coco_visibility_crowds_center_and_scale(tmp_path):
    write_image(tmp_path / "images/a.png")
    flat = [value for i, (x, y) in enumerate(some_points()) for value in (x, y, i % 3)]
    base = {"image_id": "i", "keypoints": flat}
    annotations = [
        {**base, "bbox": [1, 2, 30, 40], "is_crowd": 0},
        {**base, "center": [50, 60], "scale": 0.25},
        {**base, "center": [50, 60], "scale": [0.25, 0.5]},
        base,
        {**base, "iscrowd": 1},
        {**base, "is_crowd": 1},
    ]
    (tmp_path / "annotations").mkdir()
    file = tmp_path / "annotations/face_landmarks_val.json"
    file.write_text(json.dumps({"images": [{"id": "i", "file_name": "a.png"}], "annotations": annotations}))
    records = read(tmp_path, split="val")
    assert records.format == "coco" and len(records.notes) == 1 and "2 crowd" in records.notes[0]
    assert [r.rect for r in records] == [(1, 2, 31, 42), (25, 35, 75, 85), (25, 10, 75, 110), None]
    assert [r.name for r in records] == ["a.png#1", "a.png#2", "a.png#3", "a.png#4"]
    unlabelled = np.arange(68) % 3 == 0
    np.testing.assert_array_equal(np.isnan(records[0].points).all(axis=1), unlabelled)
    np.testing.assert_array_equal(records[0].visible, np.arange(68) % 3 == 2)
    np.testing.assert_allclose(records[0].points[~unlabelled], np.array(some_points())[~unlabelled])


XY = [f"{value}" for point in some_points() for value in point]
X_THEN_Y = XY[::2] + XY[1::2]


@pytest.mark.parametrize(
    "lines",
    [
        [["a.JPG", *XY]],
        [[*XY, "a.JPG"]],
        [["0", "a.JPG", *XY], ["1", "a.JPG", *XY]],
        [["", "image", *map(str, range(136))], ["0", "a.JPG", *XY]],
        [["image", *map(str, range(136))], ["a.JPG", *XY], [""], ["a.JPG", *XY]],
        [["", *map(str, range(136))], ["a.JPG", *XY]],
        [["file", *(f"x{i}" for i in range(68)), *(f"y{i}" for i in range(68))], ["a.JPG", *X_THEN_Y]],
    ],
    ids=[
        "name-first",
        "name-last",
        "running-number",
        "unnamed-number",
        "blank-line",
        "unnamed-name",
        "x-then-y",
    ],
)
@pytest.mark.parametrize(
    "form", [(",", "\n", ""), (";", "\r\n", "\ufeff"), ("\t", "\n", "")], ids=["comma", "excel", "tab"]
)
def test_csv_variations(tmp_path, lines, form):
    delimiter, end, mark = form
    write_image(tmp_path / "images/a.JPG")
    (tmp_path / "k.csv").write_bytes((mark + end.join(map(delimiter.join, lines)) + end).encode())
    records = read(tmp_path)
    assert records.format == "csv" and len(records) == sum("a.JPG" in line for line in lines)
    for record in records:
        np.testing.assert_allclose(record.points, some_points())


def test_csv_empty_cells_are_unlabelled(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "k.csv").write_text("a.png,,," + ",".join(XY[2:]))
    (record,) = read(tmp_path / "k.csv")
    assert record.labelled.tolist() == [False] + [True] * 67


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "head", ["version: 1\nn_points:  {n}\n{{\n", "\ufeffversion: 1\n\nn_points:{n}\n\n{{\n\n"]
)
@pytest.mark.parametrize("extension", [".JPG", ".PNG", ".jpeg"])
def test_pts_variations(tmp_path, end, head, extension):
    write_image(tmp_path / f"deep/er/A face{extension}")
    write_image(tmp_path / "without points.png")
    write_pts(tmp_path / "deep/er/A face.pts", [(f" {x} ", f" {y}") for x, y in some_points()], head, end)
    (tmp_path / "deep/er/._A face.pts").write_bytes(b"\0\1\2")  # left by macOS in archives
    records = read(tmp_path)
    assert [r.name for r in records] == [f"deep/er/A face{extension}"] and "1 images" in records.notes[0]
    np.testing.assert_allclose(records[0].points, np.array(some_points()) - 1)


def test_ibug_split_folders(tmp_path):
    for split, n in (("train", 2), ("val", 1)):
        for i in range(n):
            write_image(tmp_path / split / f"{i}.png")
            write_pts(tmp_path / split / f"{i}.pts", some_points())
    assert [r.name for r in read(tmp_path, split="train")] == ["0.png", "1.png"]
    assert len(read(tmp_path, split="validation")) == 1 and len(read(tmp_path)) == 3
    assert (
        len(read(tmp_path / "train", split="test")) == 2
    )  # a plain folder is whole, whatever it is used for


def test_300w_official_splits(tmp_path):
    sizes = {
        "afw": 1,
        "helen/trainset": 2,
        "helen/testset": 3,
        "lfpw/trainset": 4,
        "lfpw/testset": 5,
        "ibug": 6,
    }
    for folder, n in sizes.items():
        for i in range(n):
            write_image(tmp_path / folder / f"image {i}.png")
            write_pts(tmp_path / folder / f"image {i}.pts", some_points())
    read_sizes = {split: len(read(tmp_path, split=split)) for split in FORMATS["300w"].splits}
    assert read_sizes == {"train": 7, "test": 14, "common": 8, "challenging": 6, "full": 14}
    full = read(tmp_path, split="full")
    assert full.format == "300w" and "official one 554" in full.notes[0]
    assert {r.name.split("/")[0]: r.subsets for r in full} == {
        "helen": ("common",),
        "lfpw": ("common",),
        "ibug": ("challenging",),
    }
    assert {r.subsets for r in read(tmp_path, split="train")} == {()}


@pytest.mark.parametrize(("name", "bound"), [("list.txt", 3300), ("k.csv", 2300)])
def test_memory_of_a_long_list(tmp_path, name, bound):
    """Bytes a face at the peak of reading 2,000: WFLW 2,870 (of 98 points 1,568), CSV 1,880 (of 68 points 1,088).

    With the whole text in memory they were 4,750 and 15,960.
    """
    count, images = 2000, [f"face number {i}.png" for i in range(20)]
    for image in images:
        write_image(tmp_path / image, 4, 4)
    points = np.round(np.random.default_rng(0).uniform(1, 99, (count, 196)), 6)
    with (tmp_path / name).open("w") as file:
        for i, values in enumerate(points.tolist()):
            bits = [i >> k & 1 for k in range(6)]
            line = [*values, 1, 1, 90, 90, *bits, images[i % 20]]
            if name == "list.txt":
                print(*line, file=file)
            else:
                print(images[i % 20], *values[:136], sep=",", file=file)
    read(tmp_path / name)  # so that what is imported for it does not count
    tracemalloc.start()
    records = read(tmp_path / name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(records) == count and peak / count < bound
    assert not hasattr(records[0], "__dict__")
    if name == "k.csv":
        assert records[0].attributes is records[1].attributes == {}


def test_importing_the_readers_imports_no_file_library():
    import subprocess
    import sys

    root = Path(__file__).parents[2]
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from srrl.task import ensure_tasks_importable as "
        "e; e();"
        "before = set(sys.modules); import srrl_tasks.faces.readers;"
        "print([m for m in ('h5py', 'scipy.io', 'pandas', 'PIL') if m in set(sys.modules) - before])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
