"""Saving that a full disk cannot spoil, and loading that runs no code and says what does not fit."""

import errno
import json
import os
import pickle
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_run import ROOT
from torch import nn
from toys import tiny

from srrl.checkpoint import (
    check_weights,
    load_state,
    load_weights,
    read_export,
    read_weights,
    save_export,
    save_state,
    save_weights,
)
from srrl.errors import RunError, UserError
from srrl.runs import write_json, write_text


def state(value):
    return {
        "epoch": value,
        "model": {"w": torch.full((3,), float(value))},
        "best": None,
        "sums": {"loss": 0.1},
    }


def one_line(error, *parts) -> None:
    text = str(error.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


def fail_in_mid_write(monkeypatch, error):
    """Half of the bytes arrive, then the disk is full."""

    def write_bytes(self, data):
        with open(self, "wb") as handle:
            handle.write(bytes(data)[: len(bytes(data)) // 2])
        raise error

    monkeypatch.setattr(Path, "write_bytes", write_bytes)


def test_state_comes_back_exactly(tmp_path):
    path = tmp_path / "deep" / "student.pt"
    channels_last = torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    saved = {"epoch": 3, "x": channels_last, "list": [1, 2.5, "a", None], "rng": torch.get_rng_state()}
    save_state(path, saved)
    loaded = load_state(path)
    assert torch.equal(loaded["x"], channels_last)
    assert loaded["x"].stride() == channels_last.stride()
    assert torch.equal(loaded["rng"], saved["rng"])
    assert (loaded["epoch"], loaded["list"]) == (3, [1, 2.5, "a", None])


@pytest.mark.parametrize("what", ["state", "weights"])
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, what):
    path = tmp_path / ("student.pt" if what == "state" else "student.safetensors")
    save = {
        "state": lambda v: save_state(path, state(v)),
        "weights": lambda v: save_weights(path, tiny(4, seed=v)),
    }[what]
    save(1)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        fail_in_mid_write(patch, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(RunError) as error:
            save(2)
    one_line(error, str(path), "No space left on device", "intact")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]
    save(3)  # and with room again it goes on
    assert path.read_bytes() != before
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
def test_other_failures_leave_no_temporary_file_either(tmp_path, monkeypatch, error):
    path = tmp_path / "a.pt"
    save_state(path, state(1))
    fail_in_mid_write(monkeypatch, error)
    with pytest.raises(type(error)):
        save_state(path, state(2))
    assert load_state(path)["epoch"] == 1
    assert os.listdir(tmp_path) == ["a.pt"]


def test_a_failing_rename_or_flush_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_text(path, "old")

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    for name in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(f"srrl.runs.os.{name}", fail)
            with pytest.raises(RunError, match="Input/output error"):
                write_json(path, {"a": 1})
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_folder_that_cannot_be_written_is_a_run_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="could not save"):
        write_text(tmp_path / "file" / "x.json", "text")


class Trap:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("load", [load_state, read_weights])
@pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
def test_a_malicious_pickle_is_not_run(tmp_path, load, form):
    sprung, path = tmp_path / "sprung", tmp_path / "evil.pt"
    content = {"version": 1, "w": torch.zeros(1), "x": Trap(str(sprung))}
    if form == "bare":
        path.write_bytes(pickle.dumps(content["x"]))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(UserError) as error:
        load(path)
    one_line(error, "evil.pt", "could run code")
    assert not sprung.exists()
    torch.load(path, weights_only=False) if form != "bare" else pickle.loads(path.read_bytes())
    assert sprung.exists()  # the trap itself works


def test_weights_are_safetensors_with_their_header(tmp_path):
    model, path = tiny(4), tmp_path / "weights" / "student.safetensors"
    save_weights(path, model, phase="student", epoch="3")
    stored = load_file(path)
    assert {k: v.shape for k, v in stored.items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in stored.items())
    with safe_open(path, "pt") as file:
        inputs = json.dumps({"normalize": [[0.0] * 3, [1.0] * 3]})
        header = file.metadata()
    assert len(header.pop("srrl.crc32")) == 8
    assert header == {"format": "pt", "normalisation": inputs, "phase": "student", "epoch": "3"}
    other = tiny(4, seed=9)
    load_weights(other, path)
    assert all(torch.equal(v, stored[k]) for k, v in other.state_dict().items())


def test_weights_of_another_network_of_the_run_are_named(tmp_path):
    """Of one architecture, so that nothing but the header tells; without a header, or unasked, they are taken."""
    path = tmp_path / "weights" / "teacher.safetensors"
    save_weights(path, tiny(4), phase="student", epoch="3")
    model = tiny(4, seed=9)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for look in (
        lambda: load_weights(model, path, "teacher", phase="teacher"),
        lambda: check_weights(path, "teacher"),
    ):
        with pytest.raises(UserError) as error:
            look()
        one_line(error, f"{path} holds the weights of student, not of teacher", "restore")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    load_weights(model, path, "teacher", phase="student")
    load_weights(model, path, "teacher")
    save_weights(path, tiny(4))
    load_weights(model, path, "teacher", phase="teacher")
    check_weights(path, "teacher")


def test_weights_bring_the_normalisation_that_they_were_trained_with(tmp_path):
    """A network of the same shape under other statistics predicts what the saved one does; an older file changes nothing."""
    ours, other = tiny(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)), tiny(seed=5, mean=(0.4, 0.4, 0.4))
    save_weights(tmp_path / "w.safetensors", ours)
    load_weights(other, tmp_path / "w.safetensors")
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(other.eval()(x), ours.eval()(x))
    plain = {k: v.clone() for k, v in ours.state_dict().items()}
    save_file(plain, tmp_path / "old.safetensors")
    third = tiny(seed=5, mean=(0.4, 0.4, 0.4))
    load_weights(third, tmp_path / "old.safetensors")
    assert third.normalize.mean.flatten().tolist() == pytest.approx([0.4] * 3)


def test_no_flipped_bit_is_used(tmp_path):
    """Each of 1,500 files with one bit turned over is refused by its name, or says the same in every value."""
    model = tiny(4, mean=(0.1, 0.2, 0.3))

    def weights(path):
        other = tiny(4, seed=9)
        load_weights(other, path)
        return {**other.state_dict(), "mean": other.normalize.mean, "std": other.normalize.std}

    def states(path):
        found = load_state(path)
        return {**found["model"], **{k: v for k, v in found.items() if k != "model"}}

    def exported(path):
        metadata, tensors = read_export(path)
        return {**tensors, **{k: v for k, v in metadata.items() if k != "srrl.crc32"}}

    def same(a, b):
        return a.keys() == b.keys() and all(
            torch.equal(v, b[k]) if isinstance(v, torch.Tensor) else v == b[k] for k, v in a.items()
        )

    rng = random.Random(0)
    save_weights(tmp_path / "w.safetensors", model)
    save_state(tmp_path / "s.pt", state(3))
    save_export(tmp_path / "e.safetensors", model.state_dict(), {"task": "binary", "layout": "nhwc"})
    for name, read in (("w.safetensors", weights), ("s.pt", states), ("e.safetensors", exported)):
        whole = (tmp_path / name).read_bytes()
        right, refused = read(tmp_path / name), 0
        for _ in range(500):
            bit = rng.randrange(8 * len(whole))
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            (tmp_path / name).write_bytes(damaged)
            try:
                assert same(read(tmp_path / name), right), (name, bit)
            except UserError as error:
                assert name in str(error) and "\n" not in str(error)
                refused += 1
        assert refused > 100, name


def test_weights_of_ours_without_their_checksum_are_damaged(tmp_path):
    """A flipped bit in the checksum's name makes none of it; what others wrote has none and is taken."""
    path = tmp_path / "w.safetensors"
    save_weights(path, nn.Linear(2, 2))
    path.write_bytes(path.read_bytes().replace(b"srrl.crc32", b"srrl.crc33"))
    with pytest.raises(UserError, match="checksum"):
        read_weights(path)
    save_file(nn.Linear(2, 2).state_dict(), path, metadata={"format": "pt"})
    assert set(read_weights(path)) == {"weight", "bias"}


def test_tied_weights_can_be_saved(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    shared = model[0].weight.detach().clone()
    save_weights(tmp_path / "tied.safetensors", model)
    nn.init.zeros_(model[0].weight)
    load_weights(model, tmp_path / "tied.safetensors")
    assert torch.equal(model[0].weight, shared)
    assert model[1].weight is model[0].weight


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 1}, lambda s: {"model": s}]
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_pt_files_of_other_programs_load(tmp_path, wrap, prefix):
    source, target = tiny(4, seed=1), tiny(4, seed=2)
    torch.save(wrap({prefix + k: v for k, v in source.state_dict().items()}), tmp_path / "w.pt")
    load_weights(target, tmp_path / "w.pt")
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in target.state_dict().items())


@pytest.mark.parametrize(
    ("other", "parts"),
    [
        (lambda: tiny(5), ["'features.0.weight' is (5, 3, 3, 3), the student expects (4, 3, 3, 3)"]),
        (
            lambda: tiny(4, depth=2),
            ["has 'features.3.weight', which the student has not", "0 missing, 6 extra"],
        ),
        (lambda: tiny(4, norm=False), ["lacks 'features.1.bias'", "5 missing, 1 extra"]),
    ],
)
def test_weights_of_another_architecture_are_one_line_and_change_nothing(tmp_path, other, parts):
    save_weights(tmp_path / "w.safetensors", other())
    model = tiny(4, seed=3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(UserError) as error:
        load_weights(model, tmp_path / "w.safetensors", "student")
    one_line(error, "w.safetensors was saved from another architecture", "arch and width", *parts)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("keep", [0, 4, 40, 0.5, 0.999])
def test_truncated_files_are_named(tmp_path, keep):
    weights, training = tmp_path / "w.safetensors", tmp_path / "s.pt"
    save_weights(weights, tiny(4))
    save_state(training, state(1))
    for path, load in ((weights, read_weights), (training, load_state)):
        data = path.read_bytes()
        path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
        with pytest.raises(UserError) as error:
            load(path)
        one_line(error, path.name)


@pytest.mark.parametrize("load", [load_state, read_weights])
def test_what_is_no_checkpoint_is_named(tmp_path, load):
    cases = {"text.pt": b"hello world\n", "list.pt": None, "other.pt": None, "zip.pt": None}
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    torch.save({"epoch": 3, "name": "x"}, tmp_path / "other.pt")
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("readme.txt", "no tensors")
    for name, content in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as error:
            load(tmp_path / name)
        one_line(error, name)
    with pytest.raises(UserError, match="exist"):
        load(tmp_path / "missing.pt")


READERS = [(load_state, "s.pt"), (read_weights, "w.pth"), (read_weights, "w.safetensors")]


@pytest.mark.parametrize(("load", "name"), READERS)
@pytest.mark.parametrize(
    "error", [PermissionError(errno.EACCES, "Permission denied"), OSError(errno.EIO, "Input/output error")]
)
def test_a_good_file_that_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch, load, name, error):
    """Root may read everything, and no disk fails here: the system's answer is put in its place."""
    path = saved(tmp_path / name)

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("io.open", refuse)  # what pathlib calls
    monkeypatch.setattr("zipfile.is_zipfile", lambda _: True)
    monkeypatch.setattr("zipfile.ZipFile", refuse)
    with pytest.raises(UserError) as found:
        load(path)
    one_line(found, name, f"cannot be read ({error.strerror})")
    assert "damaged" not in str(found.value)


ALLOWED = """
import resource, sys
from pathlib import Path
from srrl.checkpoint import load_state, read_weights
from srrl.errors import out_of_memory
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 24),) * 2)
for name in sys.argv[1:]:
    try:
        (load_state if name.endswith("s.pt") else read_weights)(Path(name))
        print("read")
    except Exception as error:
        print("memory" if out_of_memory(error) else error)
"""


def test_a_file_that_memory_does_not_hold_is_not_called_damaged(tmp_path):
    """For real: a process that may take 16 MB more reads files of 64."""
    files = [saved(tmp_path / name, 1 << 24) for _, name in READERS]
    done = subprocess.run(
        [sys.executable, "-c", ALLOWED, *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.splitlines() == ["memory"] * 3


def saved(path, count=4):
    """A file of one tensor, as its name says."""
    values = {"w": torch.arange(float(count))}
    if path.suffix == ".safetensors":
        save_file(values, path)
    elif path.name == "s.pt":
        save_state(path, values)
    else:
        torch.save(values, path)
    return path


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_user_error_and_nothing_else(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    for name in ("fuzz.pt", "fuzz.safetensors"):
        (folder / name).write_bytes(data)
        with pytest.raises(UserError):
            read_weights(folder / name)
