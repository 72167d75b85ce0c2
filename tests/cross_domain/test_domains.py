"""Runs of two domains: unlabelled pictures whose labels nobody reads, figures of both domains, what does not fit."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from coloured import TINY, colours, pack
from forked import forked
from safetensors.torch import load_file
from small_run import ROOT, write_face
from srrl_tasks.classification.sources import pictures_in
from srrl_tasks.faces import target as faces_target
from srrl_tasks.faces.schemes import scheme_for
from srrl_tasks.faces.target import found_faces

from srrl.config import read_yaml, resolve
from srrl.errors import UserError
from srrl.evaluate import COMMAND
from srrl.pipeline import Pipeline
from srrl.runs import RunFolder
from srrl.task import Task, get_task


def settings(*given: dict):
    task = get_task("cross_domain", given[0] if given else {})
    return task, resolve(task.settings, *given)


@pytest.fixture(scope="module")
def domains(tmp_path_factory):
    """Source: colours with labels. Target: the same colours darker, in one flat folder; some with labels to test on."""
    folder = tmp_path_factory.mktemp("länder 2")
    colours(folder / "bright")
    archive = pack(folder / "bright", folder / "bright.tar")
    flat, test = folder / "night", folder / "night-test"
    flat.mkdir()
    for i, file in enumerate(sorted((folder / "bright").rglob("*.png"))):
        dark = (cv2.imread(str(file)) * 0.4).astype(np.uint8)
        assert cv2.imwrite(str(flat / f"{i:04d}.png"), dark)
        if "test" in file.parts[-3]:
            (test / file.parts[-2]).mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(test / file.parts[-2] / file.name), dark)
    return archive, flat, test


@pytest.fixture(scope="module")
def run(domains, tmp_path_factory):
    archive, flat, test = domains
    folder = tmp_path_factory.mktemp("läufe 1") / "night"
    arguments = [f"data.train={archive}", f"cross_domain.train={flat}", f"cross_domain.test={test}", *TINY]
    status, out, error = forked("train", "--task", "cross_domain", *arguments, "--run-dir", folder)
    assert status == 0, error
    return folder, out


def test_results_are_of_the_target_with_the_source_beside(run):
    folder, out = run
    results = json.loads((folder / "results.json").read_text())
    assert (results["task"], results["dataset"], results["split"]) == (
        "cross_domain",
        "bright to night",
        "test",
    )
    for model in ("teacher", "student", "baseline"):
        assert {"top1", "source_top1", "classes", "latency_ms_p50"} <= results[model].keys()
    assert "84 pictures without labels" in out and "choose the epoch" in out
    assert "statistics" in (folder / "report.md").read_text()


def evaluated(folder, out, *more):
    """The figures that the command writes, in this process."""
    parser = argparse.ArgumentParser()
    COMMAND.add_arguments(parser)
    assert COMMAND.run(parser.parse_args([str(folder), "--json", str(out), *map(str, more)])) == 0
    return json.loads(out.read_text())


def test_two_processes_measure_students_on_the_source(domains, tmp_path):
    """The first one alone, with BatchNorms that the others have a part in while they train."""
    archive, flat, _ = domains
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [
        "-m",
        "srrl.train",
        "--task",
        "cross_domain",
        f"data.train={archive}",
        f"cross_domain.train={flat}",
    ]
    done = subprocess.run(
        [*launcher, *command, *TINY, "batch_size=4", "epochs=1", "--run-dir", tmp_path / "run"],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["dataset"] == "bright for night" and 0 <= results["student"]["top1"] <= 100


def test_evaluate_repeats_the_figures_and_takes_other_data(run, domains, tmp_path):
    folder, _ = run
    ours = json.loads((folder / "results.json").read_text())
    again = evaluated(folder, tmp_path / "again.json")
    for model in ("teacher", "student", "baseline"):
        for key in ("top1", "source_top1"):
            assert again[model][key] == ours[model][key]
    other = evaluated(folder, tmp_path / "other.json", "--data", domains[0])
    assert other["student"]["top1"] == ours["student"]["source_top1"]  # the source's own test pictures
    assert "source_top1" not in other["student"]


def test_the_teacher_itself_keeps_the_statistics_it_was_trained_with(run, domains):
    """What teaches is a copy; the given one, whose weights the run has saved, is as it was."""
    archive, flat, test = domains
    cross = {"train": str(flat), "test": str(test)}
    task, cfg = settings(
        {"data": {"train": str(archive)}, "teacher": {"arch": "resnet8", "width": 8}, "cross_domain": cross}
    )
    data = task.prepare(cfg, lambda text: None)
    teacher = task.build_teacher(cfg)
    teacher.load_state_dict(load_file(run[0] / "weights" / "teacher.safetensors"))
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    adapted, _ = task.teaching(teacher, data, cfg, lambda text: None)
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    changed = {k for k, v in adapted.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and all("running" in k or "num_batches" in k for k in changed)
    cfg.cross_domain.teacher_statistics = "source"
    assert task.teaching(teacher, data, cfg, lambda text: None)[0] is teacher


def test_the_teacher_is_chosen_in_the_source_and_students_in_the_target(tmp_path):
    """Validation of each phase, seen by its pictures: those of the target are dark."""
    source, dark = colours(tmp_path / "source"), colours(tmp_path / "dark")
    for file in dark.rglob("*.png"):
        assert cv2.imwrite(str(file), (cv2.imread(str(file)) * 0.3).astype(np.uint8))
    task, cfg = settings(
        {
            "data": {"train": str(source)},
            "cross_domain": {"train": str(dark)},
            "epochs": 1,
            "batch_size": 8,
            "teacher": {"arch": "resnet8", "width": 8},
            "student": {"arch": "resnet8", "width": 4},
        }
    )
    seen = []
    evaluate = type(task).evaluate

    def watched(model, dataset, cfg, *, full=False):
        if not full:
            seen.append(dataset.images.float().mean() < 60)
        return evaluate(task, model, dataset, cfg, full=full)

    task.evaluate = watched
    Pipeline(task, cfg, RunFolder.create("cross_domain", tmp_path / "run"), say=lambda text: None).run()
    # teacher; adapted and own statistics in the target; baseline; student; then the last epochs on the test pictures
    assert seen[:5] == [False, True, True, True, True]


def test_labels_of_the_target_are_not_looked_at(tmp_path):
    """Wrong folders, one folder or none: the same pictures, and no label among them."""
    right = colours(tmp_path / "right", splits=("train",))
    wrong, flat = tmp_path / "wrong", tmp_path / "flat"
    flat.mkdir()
    for i, file in enumerate(sorted(right.rglob("*.png"))):
        other = wrong / "train" / "elsewhere"
        other.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, other / f"{i:03d}.png")
        shutil.copy(file, flat / f"{i:03d}.png")
    source = colours(tmp_path / "source")
    found = []
    for target in (right, wrong, flat, pack(flat, tmp_path / "flat.tar")):
        task, cfg = settings({"data": {"train": str(source)}, "cross_domain": {"train": str(target)}})
        data = task.prepare(cfg, lambda text: None)
        assert set(data.unlabelled.labels.tolist()) == {-100}
        found.append(sorted(bytes(image.numpy()) for image in data.unlabelled.images))
        assert data.test is data.val or len(data.test) == 28  # the source's, where the target has none
    assert found[0] == found[1] == found[2] == found[3]


@pytest.mark.parametrize("split_name", ["val", "test", "validation"])
def test_what_is_kept_to_measure_with_is_not_learned_from(tmp_path, split_name):
    """Pictures at the top or in folders of any name, and labelled ones in val/ or test/ beside them."""
    root = colours(tmp_path / "target", splits=(split_name,))
    first = next(root.rglob("*.png"))
    shutil.copy(first, root / "one.png")
    (root / "evening").mkdir()
    shutil.copy(first, root / "evening" / "two.png")
    assert pictures_in(root).entries == ["evening/two.png", "one.png"]
    assert len(pictures_in(pack(root, tmp_path / "target.tar"))) == 2
    (root / "train").mkdir()
    shutil.copy(first, root / "train" / "three.png")
    assert pictures_in(root).entries == ["train/three.png"]


def test_photographs_to_measure_with_are_not_learned_from(tmp_path):
    task, cfg = settings({"cross_domain": {"base": "faces"}})
    write_face(tmp_path / "photos" / "test", "one", 0)
    with pytest.raises(UserError, match="holds no pictures"):
        found_faces(tmp_path / "photos", scheme_for(68), cfg, lambda text: None)


def test_each_split_of_photographs_is_read_from_its_own_part(tmp_path):
    for split, count in (("val", 2), ("test", 3)):
        for i in range(count):
            write_face(tmp_path / split, f"{split}{i}", i)
    task, cfg = settings({"cross_domain": {"base": "faces"}})
    paths = dict.fromkeys(("train", "format")) | dict.fromkeys(("val", "test"), str(tmp_path))
    for split, count in (("val", 2), ("test", 3)):
        records = faces_target._labelled(paths, split, cfg)
        assert [split in r.name for r in records] == [True] * count


@pytest.mark.parametrize(
    "cross, message",
    [
        ({"format": "xyz", "train": "{}"}, "format=xyz is not known"),
        ({"format": "cifar10"}, "needs cross_domain.train"),
        ({"format": "svhn", "train": "{}", "val": "{}"}, "no validation pictures"),
        ({"train": "{}", "test": "{}"}, "has no test pictures, only train, val"),
    ],
)
def test_a_split_that_is_not_there_is_not_another_one(tmp_path, cross, message):
    root = colours(tmp_path / "target", splits=("train", "val"))
    cross = {k: v.format(root) for k, v in cross.items()}
    source = colours(tmp_path / "source")
    task, cfg = settings({"data": {"train": str(source)}, "cross_domain": cross})
    with pytest.raises(UserError, match=message):
        task.prepare(cfg, lambda text: None)


def test_a_target_without_labels_is_not_reported_as_measured(domains):
    archive, flat, _ = domains
    task, cfg = settings({"data": {"train": str(archive)}, "cross_domain": {"train": str(flat)}})
    data = task.prepare(cfg, lambda text: None)
    assert data.name == "bright for night" and "→" not in data.details["label"]
    said = []
    task.teaching(task.build_teacher(cfg), data, cfg, said.append)
    notes = " ".join(data.details["notes"])
    assert "all figures are those of the source domain" in notes
    assert "on the source's validation pictures" in notes and "source's validation" in said[0]
    task.teaching(task.build_teacher(cfg), data.shortened(5), cfg, said.append)  # as in a dry run
    assert (
        "on the source's validation pictures" in said[1]
        and data.details["scored"] == "on the source's pictures"
    )


@pytest.mark.parametrize("labelled", [False, True])
def test_on_pictures_of_the_source_a_student_is_measured_with_their_statistics(domains, labelled):
    """Of a student the target's are saved, by which it would seem worse in the source than a teacher or a baseline without."""
    archive, flat, test = domains
    given = {"data": {"train": str(archive)}, "cross_domain": {"train": str(flat)}}
    given["cross_domain"] |= {"test": str(test)} if labelled else {}
    task, cfg = settings(given)
    data = task.prepare(cfg, lambda text: None)
    student = task.build_student(cfg)

    def figures(name):
        return [
            task.evaluate(task.as_scored(name, student, d, cfg), d, cfg)["top1"]
            for d in (data.val, data.test)
        ]

    first = figures("student")
    for name, values in student.named_buffers():
        if name.endswith("running_mean"):
            values += 1e4  # of another world: one class whatever the picture
    before = {k: v.clone() for k, v in student.state_dict().items()}
    second = figures("student")
    constant = 100 / 7  # of seven classes with as many pictures each
    assert second[0] == first[0]  # nothing labelled to choose the epoch with, either way
    assert second[1] == pytest.approx(constant) if labelled else second[1] == first[1]
    assert figures("teacher") == pytest.approx([constant] * 2)  # which keeps what it was trained with
    assert all(v.equal(before[k]) for k, v in student.state_dict().items())


@pytest.mark.parametrize(
    "given, message",
    [
        ({"method": "dkd"}, "label of every sample"),
        ({"method": "crd"}, "label of every sample"),
        ({"added_kd": 0, "cross_domain": {"share": 1}}, "added_kd above 0"),
        ({"method": "at", "cross_domain": {"share": 1}}, "a smaller share"),
        ({"method": "at", "cross_domain": {"confidence": 1}}, "confidence needs kd"),
        ({"sr_form": "pearson", "cross_domain": {"confidence": 1}}, "whole batches"),
        ({"cross_domain": {"base": "classifikation"}}, "did you mean 'classification'"),
        ({"cross_domain": {"base": "cross_domain"}}, "choose the task"),
        ({"cross_domain": {"bases": "faces"}}, "did you mean 'cross_domain.base'"),
    ],
)
def test_what_does_not_fit_is_said(given, message):
    with pytest.raises(UserError, match=message):
        task, cfg = settings(given)
        task.check(cfg)


@pytest.mark.parametrize(
    "given",
    [{"method": "none", "cross_domain": {"share": 1}}, {"method": "kd", "cross_domain": {"share": 1}}],
)
def test_what_fits_is_accepted(given):
    task, cfg = settings(given)
    task.check(cfg)
    assert len(task.prepare(cfg, lambda text: None).unlabelled) == 648


def test_a_source_without_embedded_target_needs_pictures(tmp_path):
    source = colours(tmp_path / "source")
    task, cfg = settings({"data": {"train": str(source)}})
    with pytest.raises(UserError, match="cross_domain.train is missing"):
        task.prepare(cfg, lambda text: None)
    (tmp_path / "empty").mkdir()
    for path, message in ((tmp_path / "empty", "no pictures"), (tmp_path / "gone", "no such file")):
        task, cfg = settings({"data": {"train": str(source)}, "cross_domain": {"train": str(path)}})
        with pytest.raises(UserError, match=message):
            task.prepare(cfg, lambda text: None)
    other = colours(tmp_path / "other", splits=("test",), classes=("red", "violet"))
    cross = {"train": str(source), "test": str(other)}
    task, cfg = settings({"data": {"train": str(source)}, "cross_domain": cross})
    with pytest.raises(UserError, match="violet"):
        task.prepare(cfg, lambda text: None)


def test_tuning_reads_no_test_pictures(domains):
    """The path of the target's is wrong, and nobody notices; validation stands in its place."""
    archive, flat, labelled = domains
    cross = {"train": str(flat), "val": str(labelled), "test": str(flat.parent / "gone")}
    task, cfg = settings({"score": "val", "data": {"train": str(archive)}, "cross_domain": cross})
    data = task.prepare(cfg, lambda text: None)
    assert torch.equal(data.test.images, data.val.images) and len(data.val) == 28
    cfg.score = "test"
    with pytest.raises(UserError, match="gone"):
        task.prepare(cfg, lambda text: None)


@pytest.mark.parametrize("evaluation", [False, True])
def test_a_target_with_validation_pictures_alone_is_scored_on_them(domains, evaluation):
    """The source has test pictures, but of the other domain: a run and evaluate take the target's."""
    archive, flat, labelled = domains
    cross = {"train": str(flat), "val": str(labelled)}
    task, cfg = settings({"data": {"train": str(archive)}, "cross_domain": cross})
    task.prepare(cfg, lambda text: None)
    data = task.prepare(cfg, lambda text: None, evaluation=evaluation)
    assert data.details["split"] == "val" and len(data.test) == 28
    assert data.test.images.float().mean() < 60  # the dark ones


def test_a_task_without_another_domain_cannot_be_the_base():
    class Own(Task):
        name = "own"

    with pytest.raises(UserError, match="task own cannot be the base"):
        Own().target_domain(None, None, {}, print)


def test_textured_digits_keep_their_shape():
    """Brightness of the picture follows the stroke, each picture depends on its number alone."""
    from srrl_tasks.classification.target import textured

    task, cfg = settings({})
    images = task.prepare(cfg, lambda text: None).train.images[:50]
    found = textured(images, 0)
    assert found.shape == images.shape and found.dtype == torch.uint8
    assert torch.equal(found[:10], textured(images[:10], 0)) and not torch.equal(found, textured(images, 1))
    stroke, bright = images.float().mean(1).flatten(1), found.float().mean(1).flatten(1)
    correlations = [
        float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in zip(stroke, bright, strict=True)
    ]
    assert np.median(correlations) > 0.8 and min(correlations) > 0.3
    assert found.float().std(1).mean() > 10  # in colour, unlike the digits


def test_hard_camera_darkens_and_moves_nothing():
    """The centroid of a bright disc, by its moments, stays within a third of a pixel on average over cameras."""
    from srrl_tasks.faces.target import hard_camera

    picture = np.zeros((120, 100, 3), np.uint8)
    cv2.circle(picture, (41, 67), 12, (255, 255, 255), -1)
    y, x = np.mgrid[:120, :100]
    moved, light = [], []
    for seed in range(60):
        out = hard_camera(picture, np.random.default_rng(seed))
        assert out.shape == picture.shape and out.dtype == np.uint8
        assert np.array_equal(out, hard_camera(picture, np.random.default_rng(seed)))
        weight = np.where(out.mean(2) > 0.5 * out.mean(2).max(), out.mean(2), 0)
        moved.append([(weight * x).sum() / weight.sum() - 41, (weight * y).sum() / weight.sum() - 67])
        light.append(out.mean() / picture.mean())
    assert np.abs(np.mean(moved, 0)).max() < 0.33
    assert np.mean(light) < 0.8


def test_unlabelled_faces_are_cropped_around_what_the_teacher_finds():
    from srrl_tasks.faces.crop import Crop
    from srrl_tasks.faces.predict import make_codec, predict_dataset

    synthetic = {"n_train": 12, "n_val": 4, "n_test": 4}
    task, cfg = settings(
        {
            "cross_domain": {"base": "faces"},
            "image_size": 64,
            "data": {"synthetic": synthetic},
            "student": {"width": 4, "decoder": [8, 8, 8]},
        }
    )
    data = task.prepare(cfg, lambda text: None)
    assert len(data.unlabelled) == 12 and data.name == "synthetic to hard camera"
    assert not any(sample["mask"].any() for sample in data.unlabelled)
    assert all(data.test[i]["mask"].all() for i in range(4))
    assert data.test[0]["image"].float().mean() < 0.8 * task.source.test[0]["image"].float().mean()
    torch.manual_seed(0)
    network = task.build_student(cfg)
    found = predict_dataset(network, data.unlabelled.plain(), make_codec(cfg, network))
    refined = task.refined(data.unlabelled, network, cfg)
    for i in range(12):
        low, high = found[i].min(0), found[i].max(0)
        if (high > low).any():
            expected = Crop.around_rect((*low, *high), 64, cfg.data.scale)
            assert refined.crop(i).center == pytest.approx(expected.center)
            assert refined.crop(i).side == pytest.approx(expected.side)
    teacher, mixture = task.teaching(network, data, cfg, lambda text: None)
    batch = [mixture[0, i] for i in range(4)]
    assert sorted(s["labelled"] for s in batch) == [False, False, True, True]
    assert teacher is not network


def test_the_config_for_photographs_is_one_of_faces():
    given = read_yaml(Path(__file__).resolve().parents[2] / "configs" / "cross-faces.yaml")
    task, cfg = settings(given)
    assert task.metric == "nme" and cfg.cross_domain.base == "faces" and cfg.data.train is None
    assert sum(p.numel() for p in task.build_student(cfg).parameters()) < 0.7e6


def test_photographs_without_a_face_are_an_error(tmp_path):
    task, cfg = settings({"cross_domain": {"base": "faces"}})
    write_face(tmp_path / "dots", "one", 0)
    for path, message in ((tmp_path / "dots", "finds no face in the 1"), (tmp_path / "gone", "no folder")):
        with pytest.raises(UserError, match=message):
            found_faces(path, scheme_for(68), cfg, lambda text: None)
