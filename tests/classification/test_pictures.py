"""Pictures of classes: splits, archives, the batched augmentation, and both kinds of data set."""

import bz2
import io
import lzma
import os
import shutil
import struct
import tarfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from coloured import pack
from sklearn.metrics import top_k_accuracy_score
from small_run import flip_a_pixel, write_sums
from srrl_tasks.classification.augment import _mix, crop_and_flip, keyed_uniform
from srrl_tasks.classification.data import prepare
from srrl_tasks.classification.dataset import FileImages, MemoryImages, central
from srrl_tasks.classification.metrics import accuracy
from srrl_tasks.classification.settings import AugmentSettings, ClassificationSettings
from srrl_tasks.classification.sources import (
    cut,
    digits,
    few,
    folder,
    picture,
    pictures_in,
    size_of,
    torchvision_set,
)
from srrl_tasks.classification.task import ClassificationTask
from torch._subclasses.fake_tensor import FakeTensorMode

from srrl.data import eval_loader, train_loader
from srrl.errors import UserError


def write(path, value, size=12):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((size, size, 3), value, np.uint8))


def write_set(root, splits=("train", "val", "test"), classes=("ant", "bee", "cat"), count=4, size=12):
    """Pictures whose grey value tells class and number: 60·class + number."""
    for split in splits:
        for c, name in enumerate(classes):
            for i in range(count):
                write(root / split / name / f"{i}.png", 60 * c + i, size)
    return root


def prepared(evaluation=False, **changes):
    said = []
    return prepare(ClassificationSettings(**changes), said.append, evaluation=evaluation), said


def test_splitmix_gives_the_published_numbers():
    """The first outputs of the generator for seed 1234567, from Rosetta Code's test of splitmix64."""
    states = [(1234567 + k * 0x9E3779B97F4A7C15) % 2**64 for k in (1, 2, 3)]
    signed = torch.tensor([s - 2**64 * (s >= 2**63) for s in states])
    found = [int(n) % 2**64 for n in _mix(signed)]
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (3, 349), (2**40 + 1, 5)])
def test_draws_are_those_of_unsigned_arithmetic(seed, epoch):
    """Whole numbers of Python modulo 2^64; recorded results rest on these draws."""

    def mix(z):
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    index = [0, 1, 17, 49_999]
    found = keyed_uniform(seed, epoch, torch.tensor(index), 3)
    for i, row in zip(index, found.tolist(), strict=True):
        key = mix(mix(mix((seed + 0x9E3779B97F4A7C15) % 2**64) ^ epoch) ^ i)
        assert row == [(mix((key + k * 0x9E3779B97F4A7C15) % 2**64) >> 11) / 2**53 for k in (1, 2, 3)]


def test_draws_are_uniform_and_depend_on_every_part_of_the_key():
    index = torch.arange(20_000)
    u = keyed_uniform(3, 5, index, 4)
    assert u.shape == (20_000, 4) and u.min() >= 0 and u.max() < 1
    counts = np.histogram(u, bins=20, range=(0, 1))[0]
    assert abs(counts - 4000).max() < 5 * 4000**0.5
    correlations = np.corrcoef(
        np.vstack([u.T, keyed_uniform(3, 6, index, 4).T, keyed_uniform(4, 5, index, 4).T])
    )
    assert abs(correlations - np.eye(12)).max() < 0.03
    shuffled = index.flip(0)[::7]
    assert (keyed_uniform(3, 5, shuffled, 4) == u[shuffled]).all()  # whatever the batch


def test_crop_and_flip_by_a_loop():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 3, 5, 7), dtype=np.uint8))
    uniform = torch.tensor(
        [[0, 0, 0], [0.99, 0.99, 0.99], [0.5, 0.1, 0.2], [0.1, 0.7, 0.3], [0.3, 0.9, 0.6], [0.8, 0.2, 0.1]],
        dtype=torch.float64,
    )
    found = crop_and_flip(images, uniform, pad=2, flip=0.25)
    for n, (a, b, c) in enumerate(uniform.tolist()):
        dy, dx, flip = int(a * 5) - 2, int(b * 5) - 2, c < 0.25
        for y in range(5):
            for x in range(7):
                sx = (6 - x if flip else x) + dx
                inside = 0 <= y + dy < 5 and 0 <= sx < 7
                expected = images[n, :, y + dy, sx].tolist() if inside else [0, 0, 0]
                assert found[n, :, y, x].tolist() == expected, (n, y, x)


def memory(augment=None):
    images = torch.arange(20 * 3 * 4 * 4).view(20, 3, 4, 4).to(torch.uint8)
    return MemoryImages(images, torch.arange(20) % 3, seed=7, augment=augment)


def test_a_batch_from_memory_is_its_samples_whatever_their_company():
    data = memory(AugmentSettings(pad=1, flip=0.5))
    batch = data.__getitems__([(2, 5), (2, 0), (2, 19)])
    assert batch["index"].tolist() == [5, 0, 19] and batch["label"].tolist() == [2, 0, 1]
    for k, i in enumerate((5, 0, 19)):
        assert data[2, i]["image"].equal(batch["image"][k])
    assert not data[3, 5]["image"].equal(data[2, 5]["image"]) or not data[4, 5]["image"].equal(
        data[2, 5]["image"]
    )
    assert data[5]["image"].equal(data.images[5])  # without an epoch there is no augmentation


def test_every_epoch_of_a_sample_has_draws_of_its_own_in_any_order():
    data, numbers = memory(AugmentSettings(pad=1, flip=0.5)), torch.tensor([5, 0, 19])
    for epoch in (2, 3, 2, 0):  # back, too
        found = data.__getitems__((epoch, numbers.numpy()))["image"]
        assert found.equal(crop_and_flip(data.images[numbers], keyed_uniform(7, epoch, numbers, 3), 1, 0.5))


def test_batches_are_made_where_the_pictures_are():
    """torch's pretended CUDA tensors: an operation that mixed devices, or read a value back, would raise."""
    data = memory(AugmentSettings(pad=1, flip=0.5))
    numbers = np.array([5, 0, 19])
    assert all(
        v.equal(w)
        for v, w in zip(
            data.__getitems__((2, numbers)).values(),
            data.__getitems__([(2, 5), (2, 0), (2, 19)]).values(),
            strict=True,
        )
    )
    with FakeTensorMode(allow_non_fake_inputs=True):
        batch = data.to(torch.device("cuda")).__getitems__((2, numbers))
    assert {k: v.device.type for k, v in batch.items()} == dict.fromkeys(("image", "label", "index"), "cuda")
    assert batch["image"].shape == (3, 3, 4, 4)


def test_loaders_pass_whole_batches_on():
    data = memory()
    seen = [b["index"] for b in eval_loader(data, 8)]
    assert [len(s) for s in seen] == [8, 8, 4] and torch.cat(seen).tolist() == list(range(20))
    loader, batches = train_loader(data, 6, 0, "auto")
    assert loader.num_workers == 0
    seen = torch.cat([b["index"] for b in loader]).tolist()
    assert len(seen) == 18 and len(set(seen)) == 18


def test_digits_are_split_once_for_all_with_each_digits_share():
    found = digits()
    assert [len(found[s]) for s in ("train", "val", "test")] == [648, 149, 1000]
    for samples in found.values():
        share = np.bincount(samples.labels, minlength=10) / len(samples)
        assert abs(share - 0.1).max() < 0.015
    rows = {s: {e.tobytes() + bytes([n]) for e, n in zip(v.entries, v.labels)} for s, v in found.items()}
    assert not rows["train"] & rows["test"] and not rows["val"] & rows["test"]
    assert found["train"].entries.max() == 255


@pytest.mark.parametrize("packed", [False, True])
def test_folders_and_archives_give_their_splits(packed, tmp_path):
    path = write_set(tmp_path / "set")
    path = pack(path, tmp_path / "set.tar") if packed else path
    data, said = prepared(data={"train": str(path)}, image_size=12)
    assert [len(d) for d in (data.train, data.val, data.test)] == [12, 12, 12]
    values = data.train.images[:, 0, 0, 0].int()
    assert (values // 60).tolist() == data.train.labels.tolist()
    assert data.details["split"] == "test" and "3 classes" in said[-1] and data.name == "set"


def test_classes_alone_are_training_pictures_of_which_some_choose(tmp_path):
    write_set(tmp_path / "set", splits=("",), count=10)
    data, said = prepared(data={"train": str(tmp_path / "set"), "val_fraction": 0.2})
    assert (len(data.train), len(data.val)) == (24, 6) and data.details["split"] == "val"
    assert data.val.labels.bincount().tolist() == [2, 2, 2]
    assert any("also chose the epoch" in line for line in said) and data.image_size == 12


def test_named_splits_take_the_classes_numbers_of_train(tmp_path):
    write_set(tmp_path / "a", splits=("",))
    write_set(tmp_path / "b", splits=("",), classes=("bee", "cat"))
    data, _ = prepared(data={"train": str(tmp_path / "a"), "test": str(tmp_path / "b")})
    assert data.test.labels.tolist() == [1] * 4 + [2] * 4
    write_set(tmp_path / "c", splits=("",), classes=("bee", "dog"))
    with pytest.raises(UserError, match="data.test has a class 'dog' that data.train does not have"):
        prepared(data={"train": str(tmp_path / "a"), "test": str(tmp_path / "c")})


def test_few_labels_are_as_many_of_each_class_and_drawn_by_the_seed(tmp_path):
    samples = digits()["train"]
    assert np.bincount(few(samples, 7, 0).labels).tolist() == [7] * 10
    assert (few(samples, 7, 0).entries == few(samples, 7, 0).entries).all()
    assert not (few(samples, 7, 0).entries == few(samples, 7, 1).entries).all()
    with pytest.raises(UserError, match="per_class=500: class '0' has 6"):
        few(samples, 500, 0)
    rest, part = cut(samples, 0.5, 0)
    assert len(rest) + len(part) == len(samples)


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("size", [16, 200])
def test_a_picture_that_does_not_decode_is_named_or_skipped(size, split, tmp_path):
    """Before anything is trained, also one of the test split, which is read for the first time when all is trained."""
    write_set(tmp_path / "set", size=size)
    (tmp_path / f"set/{split}/bee/1.png").write_bytes(b"nothing of the kind")
    data, said = prepared(data={"train": str(tmp_path / "set"), "on_error": "skip"})
    assert len(getattr(data, split)) == 11
    assert any(f"{split}: 1 pictures skipped" in s and "bee/1.png" in s for s in said)
    with pytest.raises(UserError, match=f"{split}/bee/1.png does not decode"):
        prepared(data={"train": str(tmp_path / "set")})


def test_a_very_large_training_set_is_first_decoded_by_the_first_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr("srrl_tasks.classification.data.DECODED_FIRST", 11)
    write_set(tmp_path / "set", size=200)
    for split in ("train", "val"):
        (tmp_path / f"set/{split}/bee/1.png").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="val/bee/1.png"):
        prepared(data={"train": str(tmp_path / "set")})
    write(tmp_path / "set/val/bee/1.png", 9, 200)
    data, said = prepared(data={"train": str(tmp_path / "set")})
    assert "data: train: 12 pictures, which the first epoch is the first to decode" in said
    with pytest.raises(UserError, match="train/bee/1.png"):
        data.train[data.train.files.index("train/bee/1.png")]


@pytest.mark.parametrize(("large", "size"), [(1, 40), (3, 40), (13, 224)])
def test_pictures_of_both_kinds_are_brought_to_the_size_of_most(tmp_path, large, size):
    write_set(tmp_path / "set", size=40)
    files = sorted((tmp_path / "set/train").rglob("*.png"))
    assert len(files) == 12
    for file in files[:large]:
        write(file, 9, 97)
    data, said = prepared(data={"train": str(tmp_path / "set")})
    assert data.train[0]["image"].shape == (3, size, size)
    longer = [s for s in said if "longer sides are 40 to 97 pixels" in s]
    assert len(longer) == (large < 12) and all(f"image_size={size}" in s for s in longer)


def test_splits_inside_of_the_classes_are_refused(tmp_path):
    """They would all be taken for training pictures, those of the test as well."""
    for name in ("ant/train", "ant/test", "bee/train", "bee/test"):
        write(tmp_path / "set" / name / "0.png", 9)
    with pytest.raises(
        UserError, match="set has test and train inside of the folders of classes: expected one"
    ):
        prepared(data={"train": str(tmp_path / "set")})
    for name in ("ant/red", "bee/test"):  # pictures of a test, say
        write(tmp_path / "other" / name / "0.png", 9)
        write(tmp_path / "other" / name / "1.png", 9)
    assert folder(tmp_path / "other")["train"].labels.tolist() == [0, 0, 1, 1]


def test_classes_without_pictures_are_named_and_other_data_may_have_fewer(tmp_path):
    write_set(tmp_path / "set")
    shutil.rmtree(tmp_path / "set/test/bee")
    data, said = prepared(data={"train": str(tmp_path / "set")})
    assert "data: test has no pictures of 1 (bee): its figures say nothing of them" in said
    assert data.test.labels.tolist() == [0] * 4 + [2] * 4
    classes = {"classes": ["ant", "bee", "cat"], "n_classes": 3}
    write_set(tmp_path / "own", splits=("",), classes=("bee", "cat"))
    data, said = prepared(data={"test": str(tmp_path / "own"), **classes}, evaluation=True)
    assert data.test.labels.tolist() == [1] * 4 + [2] * 4 and any("no pictures of 1 (ant)" in s for s in said)
    write_set(tmp_path / "own", splits=("",), classes=("dog",))
    with pytest.raises(
        UserError,
        match=r"own has a class 'dog' that this run was not trained for: it knows 3 \(ant, bee, cat\)",
    ):
        prepared(data={"test": str(tmp_path / "own"), **classes}, evaluation=True)


@pytest.mark.parametrize("damage", ["short", "text", "picture"])
def test_damaged_archives_are_refused_in_one_line(damage, tmp_path):
    archive = pack(write_set(tmp_path / "set"), tmp_path / "set.tar")
    content = archive.read_bytes()
    if damage == "picture":
        with tarfile.open(archive, "a") as tar:
            info = tarfile.TarInfo("train/ant/zz.png")
            info.size = 5
            tar.addfile(info, io.BytesIO(b"12345"))
        match = "zz.png does not decode"
    else:
        archive.write_bytes(content[: len(content) // 2 + 100] if damage == "short" else b"no archive" * 100)
        match = "not a readable .tar file"
    with pytest.raises(UserError, match=match) as error:
        prepared(data={"train": str(archive)})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_damage_inside_of_a_compressed_archive_names_the_picture(kind, tmp_path):
    plain, rng = io.BytesIO(), np.random.default_rng(0)
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for i in range(2):
            info = tarfile.TarInfo(f"train/ant/{i}.png")
            info.size = 300_000
            tar.addfile(info, io.BytesIO(rng.bytes(300_000)))
    if kind == "gz":
        packer = zlib.compressobj(wbits=31)
        content = packer.compress(plain.getvalue()[:400_000]) + packer.flush(zlib.Z_FULL_FLUSH)
        content += b"\x07" * 1000  # a block of a type that there is not
    else:
        whole = plain.getvalue()
        content = bytearray(bz2.compress(whole, 1) if kind == "bz2" else lzma.compress(whole))
        content[480_000:480_064] = bytes(64)
    (tmp_path / f"set.tar.{kind}").write_bytes(content)
    expected = r"set.tar.* not a readable .tar file \(.* in train/ant/1.png\): fetch it again"
    with pytest.raises(UserError, match=expected) as error:
        folder(tmp_path / f"set.tar.{kind}")
    assert "\n" not in str(error.value)


def test_what_leads_out_of_an_archive_is_left_out(tmp_path):
    """Links, devices, absolute names and those with .. are counted, never followed, and nothing is written."""
    inside = tmp_path / "in/side"
    inside.mkdir(parents=True)
    write(tmp_path / "secret.png", 77)
    picture = (tmp_path / "secret.png").read_bytes()
    with tarfile.open(inside / "set.tar", "w") as tar:
        for name in ("ant/0.png", "bee/0.png", "../../up.png", "ant/../../up.png", f"{tmp_path}/abs.png"):
            info = tarfile.TarInfo(name)
            info.size = len(picture)
            tar.addfile(info, io.BytesIO(picture))
        links = {
            "soft": tarfile.SYMTYPE,
            "hard": tarfile.LNKTYPE,
            "device": tarfile.CHRTYPE,
            "pipe": tarfile.FIFOTYPE,
        }
        for name, kind in links.items():
            info = tarfile.TarInfo(f"ant/{name}.png")
            info.type, info.linkname = kind, f"{tmp_path}/secret.png" if name == "soft" else "ant/0.png"
            tar.addfile(info)
    before, said = sorted(tmp_path.rglob("*")), []
    found = folder(inside / "set.tar", said.append)["train"]
    assert found.entries == ["ant/0.png", "bee/0.png"] and found.classes == ("ant", "bee")
    assert sorted(tmp_path.rglob("*")) == before
    assert len(said) == 1 and "7 pictures that are links or devices, or whose names lead out" in said[0]


@pytest.mark.parametrize(
    "error", [ValueError("bad"), TypeError(), struct.error("short"), EOFError(), SyntaxError("x")]
)
def test_whatever_pillow_raises_names_archive_and_picture(error, tmp_path, monkeypatch):
    archive = pack(write_set(tmp_path / "set", splits=("",)), tmp_path / "set.tar")

    def fail(*args):
        raise error

    monkeypatch.setattr("PIL.Image.open", fail)
    for size in (None, 16):  # looked at for the usual size, and decoded
        with pytest.raises(UserError, match=r"set.tar/\w+/\d.png does not decode \(.+\)") as found:
            data, _ = prepared(data={"train": str(archive), "val_fraction": 0.3}, image_size=size)
            data.train[0]
        assert "\n" not in str(found.value)


def test_folders_that_cannot_be_read_and_paths_that_mean_nothing(tmp_path, monkeypatch):
    for key in ("train", "test"):
        with pytest.raises(UserError, match="no such user's folder"):
            prepared(data={key: "~no-such-user-here/set"})
    write_set(tmp_path / "set")
    with pytest.raises(UserError, match="no such user's folder"):
        prepared(data={"train": str(tmp_path / "set"), "val": "~no-such-user-here/set"})
    with pytest.raises(UserError, match="File name too long"):
        prepared(data={"train": str(tmp_path / ("x" * 300))})
    scandir = os.scandir

    def guarded(path="."):
        if os.fspath(path).endswith("bee"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(UserError, match=r"set/test/bee: cannot be read \(Permission denied\)"):
        prepared(data={"train": str(tmp_path / "set")})


def test_links_back_are_not_followed_and_others_are(tmp_path):
    """A link to a folder above it would repeat the set; one split that links to another is meant."""
    write_set(tmp_path, splits=("train", "val"))
    (tmp_path / "test").symlink_to(tmp_path / "val")
    (tmp_path / "train/ant/up").symlink_to(tmp_path)
    (tmp_path / "train/bee/self").symlink_to(".")
    (tmp_path / "train/bee/other").symlink_to(tmp_path / "train/cat")
    (tmp_path / "train/cat/other").symlink_to(tmp_path / "train/bee")
    found = folder(tmp_path)
    assert {s: len(v) for s, v in found.items()} == {"train": 20, "val": 12, "test": 12}
    assert [e for e in found["train"].entries if "other" in e] == [
        f"train/{c}/other/{i}.png" for c in ("bee", "cat") for i in range(4)
    ]


def test_pictures_are_checked_some_at_a_time(tmp_path, monkeypatch):
    """Thread pools make a future of each item that map is given."""
    given, whole = [], ThreadPoolExecutor.map

    def spied(pool, call, items, **options):
        given.append(len(items))
        return whole(pool, call, items, **options)

    monkeypatch.setattr(ThreadPoolExecutor, "map", spied)
    monkeypatch.setattr("srrl_tasks.classification.data.CHUNK", 5)
    write_set(tmp_path / "set")
    (tmp_path / "set/train/bee/1.png").write_bytes(b"nothing of the kind")
    data, _ = prepared(data={"train": str(tmp_path / "set"), "on_error": "skip"}, image_size=12)
    assert given == [5, 5, 2] * 3
    assert data.train.images[:, 0, 0, 0].tolist() == [
        60 * c + i for c in range(3) for i in range(4) if (c, i) != (1, 1)
    ]
    assert data.train.labels.tolist() == [0] * 4 + [1] * 3 + [2] * 4


def test_more_small_pictures_than_memory_holds_are_refused_before_they_are_read(tmp_path, monkeypatch):
    """12 pictures of 12 pixels are 5,184 bytes."""
    write_set(tmp_path / "set")
    free = SimpleNamespace(available=5183)
    monkeypatch.setattr("srrl_tasks.classification.data.psutil.virtual_memory", lambda: free)
    with pytest.raises(UserError, match="12 pictures of 12 pixels take 5.18e-06 GB .* above 96"):
        prepared(data={"train": str(tmp_path / "set")}, image_size=12)
    free.available = 5184
    assert len(prepared(data={"train": str(tmp_path / "set")}, image_size=12)[0].train) == 12


def test_a_long_reading_says_how_far_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("srrl_tasks.classification.data.PATIENCE", 0.0)
    write_set(tmp_path / "set")
    _, said = prepared(data={"train": str(tmp_path / "set")}, image_size=12)
    assert "data: train: 12 of 12 pictures read" in said


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "missing", "no such file or folder"),
        (lambda p: p, "no pictures in folders of classes"),
        (lambda p: write_set(p, splits=("",), classes=("ant",)), "has one class, 'ant'"),
        (lambda p: write_set(p, splits=("val", "test")), "has no training pictures"),
    ],
)
def test_layouts_that_are_none_are_refused(make, message, tmp_path):
    with pytest.raises(UserError, match=message):
        prepared(data={"train": str(make(tmp_path))})


@pytest.mark.parametrize("format", ["cifar10", "cifar100", "stl10", "svhn", "imagenet"])
def test_published_sets_that_are_not_there_are_named(format, tmp_path):
    with pytest.raises(UserError, match=f"has no usable {format}"):
        prepared(data={"train": str(tmp_path), "format": format})
    with pytest.raises(UserError, match="data.train is missing"):
        prepared(data={"format": format})


def test_cifar10_in_its_published_form(tmp_path):
    """Pickled batches of rows of 3 · 1024 bytes, red plane first, as torchvision reads them (checksums aside)."""
    import pickle

    from torchvision.datasets import CIFAR10

    folder_ = tmp_path / CIFAR10.base_folder
    folder_.mkdir()
    rng = np.random.default_rng(0)
    for name, _ in [*CIFAR10.train_list, *CIFAR10.test_list]:
        rows = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
        rows[:, 0] = np.arange(20)  # red of the first pixel
        (folder_ / name).write_bytes(pickle.dumps({"data": rows, "labels": [i % 10 for i in range(20)]}))
    (folder_ / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchvision.datasets.cifar.check_integrity", lambda *a: True)
        data, _ = prepared(data={"train": str(tmp_path), "format": "cifar10"})
        cfg = ClassificationSettings(image_size=16)
        probe = ClassificationTask().probe_data(f"cifar10:{tmp_path}", cfg, print)
        (folder_ / "test_batch").write_bytes(b"damaged")
        tuned, _ = prepared(data={"train": str(tmp_path), "format": "cifar10"}, score="val")
    assert (len(data.train), len(data.val), len(data.test)) == (90, 10, 20)
    assert data.test.images[:, 0, 0, 0].tolist() == list(range(20)) and data.image_size == 32
    assert (len(probe.train), len(probe.val), len(probe.test)) == (80, 20, 20)
    assert probe.test.images.shape == (20, 3, 16, 16) and cfg.data.format is None
    assert tuned.test is tuned.val and tuned.details["split"] == "val" and len(tuned.val) == 10


def test_large_pictures_are_cropped_in_the_middle_or_at_random(tmp_path):
    picture = np.zeros((400, 600, 3), np.uint8)
    picture[:, 300:] = 255
    assert cv2.imwrite(str(tmp_path / "p.png"), picture)
    middle = central(picture, 224)
    assert middle.shape == (224, 224, 3)
    assert middle[:, :110].max() == 0 and middle[:, 114:].min() == 255
    data = FileImages([tmp_path / "p.png"], [1], 224, 0, AugmentSettings(flip=0.5, smallest=0.3))
    assert data[0]["image"].permute(1, 2, 0).numpy().tolist() == middle.tolist()
    crops = [data[epoch, 0]["image"] for epoch in range(40)]
    assert all(c.shape == (3, 224, 224) and c.dtype == torch.uint8 for c in crops)
    assert data[3, 0]["image"].equal(crops[3])
    brighter_left = sum(bool(c[0, :, 0].float().mean() > c[0, :, -1].float().mean()) for c in crops)
    assert 5 < brighter_left < 35  # mirrored about half of the times
    assert len({round(float((c[0] > 128).float().mean()), 2) for c in crops}) > 10


def test_accuracy_against_scikit_learn():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 8)), rng.integers(0, 8, 50)
    found = accuracy(logits, labels, list("abcdefgh"))
    assert found["top1"] == pytest.approx(100 * top_k_accuracy_score(labels, logits, k=1))
    assert found["top5"] == pytest.approx(100 * top_k_accuracy_score(labels, logits, k=5))
    third = labels == 2
    assert found["classes"]["c"]["top1"] == pytest.approx(100 * (logits[third].argmax(1) == 2).mean())
    assert "top5" not in accuracy(logits[:, :5], labels % 5, list("abcde"))


def test_classes_may_be_called_like_splits_where_there_are_none(tmp_path):
    write_set(tmp_path / "a", splits=("",), classes=("car", "plane", "train"))
    found = folder(tmp_path / "a")
    assert found.keys() == {"train"} and found["train"].classes == ("car", "plane", "train")
    write_set(tmp_path / "b", splits=("train", "val"))
    write_set(tmp_path / "b", splits=("masks", "__MACOSX"), classes=("ant",))
    said = []
    found = folder(tmp_path / "b", said.append)
    assert found["train"].classes == ("ant", "bee", "cat") and len(found["train"]) == 12
    assert "4 pictures outside of the folders of splits and classes are left out" in said[0]


def test_an_archive_of_one_folder_and_linked_classes(tmp_path):
    write_set(tmp_path / "set")
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(tmp_path / "set", arcname="set")
    assert {s: len(v) for s, v in folder(tmp_path / "set.tar").items()} == {
        "train": 12,
        "val": 12,
        "test": 12,
    }
    (tmp_path / "linked").mkdir()
    for name in ("ant", "bee"):
        (tmp_path / "linked" / name).symlink_to(tmp_path / "set/train" / name)
    assert len(folder(tmp_path / "linked")["train"]) == 8


def test_a_small_picture_among_large_ones_does_not_decide_their_size(tmp_path):
    write_set(tmp_path, splits=("",), size=120)
    write(tmp_path / "ant" / "0.png", 3, size=20)
    assert prepared(data={"train": str(tmp_path), "val_fraction": 0.3})[0].image_size == 224


def test_evaluation_of_a_run_scores_what_the_run_scored(tmp_path):
    """Without test pictures that is the part set aside, not the pictures it was trained on."""
    write_set(tmp_path, splits=("",), count=10)
    cfg = ClassificationSettings(data={"train": str(tmp_path)})
    trained = prepare(cfg, print)
    again = prepare(cfg.model_copy(deep=True), print, evaluation=True)
    assert trained.details["split"] == again.details["split"] == "val"
    assert again.test.images.equal(trained.test.images) and len(again.test) == 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"format": "folder"}, "data.train is missing: a folder"),
        ({"val": "x"}, "data.train is missing: a folder"),
        ({"format": "digits", "val": "x"}, "digits needs no path"),
        ({"format": "cifar10", "train": "x", "test": "y"}, "cifar10 has splits of its own"),
    ],
)
def test_paths_that_mean_nothing_are_refused(data, message):
    with pytest.raises(UserError, match=message):
        prepared(data=data)


def test_a_named_split_must_have_pictures_for_it(tmp_path):
    write_set(tmp_path / "a")
    write_set(tmp_path / "b", splits=("val",))
    with pytest.raises(UserError, match="has no test pictures, only val"):
        prepared(data={"train": str(tmp_path / "a"), "test": str(tmp_path / "b")})


def test_folder_ignores_what_is_no_picture_of_a_class(tmp_path):
    write_set(tmp_path, splits=("train", "valid"))
    write(tmp_path / "train" / "loose.png", 3)
    write(tmp_path / "cover.png", 3)
    (tmp_path / "train/ant/notes.txt").write_text("x")
    (tmp_path / ".hidden").mkdir()
    write(tmp_path / ".hidden/ant/x.png", 3)
    found = folder(tmp_path)
    assert {s: len(v) for s, v in found.items()} == {"train": 12, "val": 12}


@pytest.mark.parametrize("image_size", [12, 128])
def test_a_picture_that_differs_from_its_checksum_is_named_or_skipped(image_size, tmp_path):
    """In memory before anything is trained, as a file in the loader's process; by the bytes that are decoded."""
    for number in range(12):
        write(tmp_path / "set/train" / "ab"[number % 2] / f"{number}.bmp", number, 40)
    write_sums(tmp_path / "set")
    place = {"image_size": image_size, "data": {"train": str(tmp_path / "set"), "val_fraction": 0.3}}
    before = prepared(**place)[0]
    flip_a_pixel(tmp_path / "set/train/b/3.bmp")

    def all_of(data):
        for part in (data.train, data.val):
            for _ in train_loader(part, 2, seed=0, workers=1)[0]:
                pass

    with pytest.raises(UserError, match=r"3\.bmp differs from its line in .*SHA256SUMS: restore it") as error:
        all_of(prepared(**place)[0])
    assert "\n" not in str(error.value)
    place["data"] |= {"on_error": "skip"}
    data, said = prepared(**place)
    all_of(data)
    assert len(data.train) + len(data.val) == 11 and any("3.bmp differs" in text for text in said)
    (tmp_path / "set/SHA256SUMS").unlink()
    again = prepared(**place)[0]
    assert len(again.train) + len(again.val) == 12
    assert torch.equal(
        before.train[0]["image"], again.train[0]["image"]
    )  # decoded from bytes as from the file


def test_pictures_without_labels_and_imagenets_are_compared_as_well(tmp_path, monkeypatch):
    for number in range(3):
        write(tmp_path / "set" / f"{number}.bmp", number, 40)
    write_sums(tmp_path / "set")
    flip_a_pixel(tmp_path / "set/1.bmp")
    files = [str(tmp_path / "set" / f"{n}.bmp") for n in range(3)]
    found = SimpleNamespace(samples=[(f, 0) for f in files], classes=[("a",)])
    monkeypatch.setattr("torchvision.datasets.ImageNet", lambda root, split: found)
    published = torchvision_set("imagenet", str(tmp_path / "set"), "train", False)
    for samples in (pictures_in(tmp_path / "set"), published):
        assert picture(samples, samples.entries[0]).shape == (40, 40, 3)
        assert size_of(samples, samples.entries[1]) is None
        with pytest.raises(UserError, match=r"1\.bmp differs from its line"):
            picture(samples, samples.entries[1])
