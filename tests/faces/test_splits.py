"""Which faces a run trains on, chooses with and is scored on, for each way of giving them."""

import json
from pathlib import Path

import numpy as np
import pytest
from face_files import FILES, some_points, write_image, write_pts
from srrl_tasks.faces.data import cut_validation, prepare, read_for_evaluation
from srrl_tasks.faces.records import FaceRecord, Records
from srrl_tasks.faces.settings import FacesSettings

from srrl.errors import UserError

COUNTS = {"train": 4, "val": 2, "test": 3}


def write_ibug(root, splits):
    for split in splits:
        for i in range(COUNTS[split]):
            write_image(root / split / f"{split}{i}.png")
            write_pts(root / split / f"{split}{i}.pts", some_points())


def write_csv(root, splits):
    for split in splits:
        rows = [["image", *(f"{axis}{k}" for k in range(68) for axis in "xy")]]
        for i in range(COUNTS[split]):
            write_image(root / "images" / f"{split}{i}.png")
            rows.append([f"{split}{i}.png", *np.ravel(some_points())])
        (root / f"faces_{split}.csv").write_text("\n".join(",".join(map(str, row)) for row in rows))


def write_coco(root, splits):
    for split in splits:
        keypoints = np.ravel([(x, y, 2) for x, y in some_points()]).tolist()
        images = [{"id": i, "file_name": f"{split}{i}.png"} for i in range(COUNTS[split])]
        for image in images:
            write_image(root / "images" / image["file_name"])
        faces = [{"id": i["id"], "image_id": i["id"], "keypoints": keypoints} for i in images]
        (root / f"{split}.json").write_text(json.dumps({"images": images, "annotations": faces}))


WRITERS = {"ibug": write_ibug, "csv": write_csv, "coco": write_coco}


def names(dataset):
    return sorted(Path(record.name).stem for record in dataset.records)


def expected(split):
    return [f"{split}{i}" for i in range(COUNTS[split])]


def prepared(**data):
    said = []
    return prepare(FacesSettings(data=data), said.append), said


@pytest.mark.parametrize("format", WRITERS)
def test_a_folder_that_names_its_splits_is_taken_at_its_word(format, tmp_path):
    WRITERS[format](tmp_path, COUNTS)
    data, said = prepared(train=str(tmp_path))
    assert [names(d) for d in (data.train, data.val, data.test)] == [expected(s) for s in COUNTS]
    assert data.details["split"] == "test" and not any("set aside" in line for line in said)


@pytest.mark.parametrize("format", WRITERS)
def test_a_folder_without_test_faces_is_scored_on_val_and_says_so(format, tmp_path):
    WRITERS[format](tmp_path, ["train", "val"])
    data, said = prepared(train=str(tmp_path))
    assert [names(d) for d in (data.train, data.val, data.test)] == [
        expected(s) for s in ("train", "val", "val")
    ]
    assert data.details["split"] == "val" and any("no data.test given" in line for line in said)


def test_a_folder_of_one_split_gives_a_part_of_it_to_choose_the_epoch(tmp_path):
    write_ibug(tmp_path, ["train"])
    data, said = prepared(train=str(tmp_path / "train"), val_fraction=0.25)
    assert len(data.val) == 1 and sorted(names(data.train) + names(data.val)) == expected("train")
    assert any("1 faces of train are set aside" in line for line in said)


def test_what_is_set_aside_does_not_change_with_the_seed(tmp_path):
    """One teacher serves all seeds of a comparison: it must not have trained on the faces that a student is chosen with."""
    write_ibug(tmp_path, ["train"])
    data = {"train": str(tmp_path / "train"), "val_fraction": 0.25}
    chosen = {
        (seed, split): names(
            prepare(FacesSettings(seed=seed, data={**data, "split_seed": split}), print).val
        )[0]
        for seed in range(6)
        for split in range(6)
    }
    assert len({chosen[seed, 0] for seed in range(6)}) == 1
    assert len({chosen[0, split] for split in range(6)}) > 1


@pytest.mark.parametrize("format", WRITERS)
def test_named_folders_win_over_those_inside_train(format, tmp_path):
    WRITERS[format](tmp_path / "a", COUNTS)
    WRITERS[format](tmp_path / "b", ["test"])
    data, _ = prepared(train=str(tmp_path / "a"), test=str(tmp_path / "b"))
    assert data.test.records[0].image.is_relative_to(tmp_path / "b")
    assert names(data.val) == expected("val")


def test_published_root_is_tested_on_its_own_test_list():
    data, _ = prepared(train=str(FILES / "wflw"), val_fraction=0.5)
    assert len(data.train) + len(data.val) == 3 and len(data.test) == 3 and data.details["split"] == "test"


def test_a_published_root_cannot_choose_the_epoch():
    """It would be its test list that chose."""
    with pytest.raises(UserError, match="wflw has no split 'val'.*set a part of train aside"):
        prepared(train=str(FILES / "wflw"), val=str(FILES / "wflw"))


@pytest.mark.parametrize("format", WRITERS)
def test_evaluation_of_a_folder_scores_its_test_faces(format, tmp_path):
    WRITERS[format](tmp_path, COUNTS)
    records, split = read_for_evaluation(str(tmp_path), None, "raise")
    assert (len(records), split) == (COUNTS["test"], "test")


def test_evaluation_of_a_folder_without_splits_scores_all_of_it(tmp_path):
    write_ibug(tmp_path, ["train"])
    records, split = read_for_evaluation(str(tmp_path / "train"), None, "raise")
    assert (len(records), split) == (COUNTS["train"], "all")


def test_faces_of_one_picture_stay_on_one_side_of_the_cut():
    points = np.array(some_points())
    records = Records([FaceRecord(f"{p}#{i}", points, image=Path(p)) for p in "abcdefgh" for i in (1, 2, 3)])
    train, val = cut_validation(records, 0.25, seed=0)
    sides = [{r.image for r in side} for side in (train, val)]
    assert len(train) == 18 and len(val) == 6 and not sides[0] & sides[1]
    assert [r.name for r in cut_validation(records, 0.25, seed=0)[1]] == [r.name for r in val]


def test_few_labels_are_drawn_once_and_nested(tmp_path):
    write_ibug(tmp_path, COUNTS)
    kept = {}
    for count in (1, 3, 4):
        data, _ = prepared(train=str(tmp_path), n_train=count)
        kept[count] = set(names(data.train))
        assert len(kept[count]) == count and len(data.test) == COUNTS["test"]
    assert kept[1] < kept[3] < kept[4]
    other = prepare(FacesSettings(seed=5, data={"train": str(tmp_path), "n_train": 1}), print)
    assert set(names(other.train)) == kept[1]
    with pytest.raises(UserError, match="data.n_train=5: there are 4"):
        prepared(train=str(tmp_path), n_train=5)
