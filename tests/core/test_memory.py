"""The memory of a teacher's maps: the same bits as without it, each batch computed once, damage named."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_run import ROOT
from torch import nn
from toys import Colours, tiny

from srrl.api import CrossEntropyCriterion
from srrl.config import OptimSettings
from srrl.data import KeyedDataset
from srrl.distillers import build_distiller
from srrl.distillers.base import MethodSettings
from srrl.errors import UserError
from srrl.memory import MapMemory
from srrl.speed import threads
from srrl.trainer import Phase, Trainer

BATCHES = 2 * 5  # epochs × batches of the runs below
MAPS = 150  # of 256 kB, that two programs ask for at once


class Counted(nn.Module):
    """A teacher that counts its passes."""

    def __init__(self):
        super().__init__()
        self.inner, self.counted = tiny(8, seed=2), [0]
        self.feature_channels = self.inner.feature_channels

    def forward_features(self, x):
        self.counted[0] += 1
        return self.inner.forward_features(x)

    def forward_head(self, features):
        return self.inner.forward_head(features)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


def run(method, folder=None, *, seed=0, gigabytes=1.0, said=None):
    """Weights after two epochs, and how often the teacher looked at a batch of the training."""
    torch.manual_seed(3)
    distiller = build_distiller(
        method, tiny(6, seed=1), Counted(), CrossEntropyCriterion(), MethodSettings(alpha=0.5)
    )
    if folder is not None:
        say = (lambda _: None) if said is None else said.append
        distiller.teacher.memory = MapMemory(folder, gigabytes, distiller.teacher.model, say)
    before = distiller.teacher.model.counted[0]
    phase = Phase("student", 2, 6, seed, OptimSettings(lr=0.02), workers=0)
    Trainer(distiller, KeyedDataset(Colours(30), seed=seed), phase, say=lambda _: None).fit()
    state = {k: v.clone() for k, v in distiller.trainable_state().items()}
    return state, distiller.teacher.model.counted[0] - before


def remember(folder, out):
    """One of two programs at once: many maps, all asked for by both in the same order, and a training; what came of it into ``out``."""
    torch.set_num_threads(1)
    said, teacher = [], Counted()
    memory = MapMemory(Path(folder), 1.0, teacher, said.append)
    print("ready", flush=True)
    sys.stdin.readline()
    wrong = computed = 0
    for k in range(MAPS):
        x, made = torch.full((1, 3, 8, 8), float(k)), torch.full((1, 64, 32, 32), float(k))
        calls = []
        found = memory.recall(x, lambda _, made=made, calls=calls: calls.append(1) or made)
        wrong, computed = wrong + (not torch.equal(found, made)), computed + len(calls)
    state, passes = run("srrl", Path(folder), said=said)
    torch.save({"said": said, "wrong": wrong, "computed": computed, "state": state, "passes": passes}, out)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("method", ["kd", "srrl", "simkd", "dkd"])
def test_a_run_is_the_same_bit_for_bit_and_the_second_one_asks_nothing(tmp_path, method):
    plain, passes = run(method)
    first, computed = run(method, tmp_path / "maps")
    second, again = run(method, tmp_path / "maps")
    assert passes == computed == BATCHES and again == 0
    assert same(plain, first) and same(plain, second)


def test_one_methods_maps_serve_another_and_another_seed_sees_other_batches(tmp_path):
    run("kd", tmp_path)
    assert run("srrl", tmp_path)[1] == 0
    assert run("srrl", tmp_path, seed=1)[1] > 0


def test_two_programs_that_fill_one_memory_at_once(tmp_path):
    """Neither finds half of what the other is writing, both train as without a memory, and each map is there once for a third."""
    folder = tmp_path / "maps"
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests", Path(__file__).parent)))
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", "import sys, test_memory; test_memory.remember(*sys.argv[1:])", folder, tmp_path / name],
            env={**os.environ, "PYTHONPATH": path},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for name in ("one", "two")
    ]  # fmt: skip
    assert [program.stdout.readline() for program in programs] == ["ready\n"] * 2
    for program in programs:
        program.stdin.write("\n")
        program.stdin.flush()
    errors = [program.communicate(timeout=120)[1] for program in programs]
    assert [program.returncode for program in programs] == [0, 0], errors
    with threads(1):  # the bits of a sum go by their number
        plain, _ = run("srrl")
        state, passes = run("srrl", folder)
    found = [torch.load(tmp_path / name) for name in ("one", "two")]
    for one in found:
        assert one["said"] == [] and one["wrong"] == 0 and same(plain, one["state"])
    assert MAPS <= sum(one["computed"] for one in found) <= 2 * MAPS
    assert sum(one["passes"] for one in found) >= BATCHES
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert len(files) == MAPS + BATCHES and {p.suffix for p in files} == {".safetensors"}
    assert passes == 0 and same(plain, state)


def test_a_damaged_file_is_named_and_made_again(tmp_path):
    plain, _ = run("srrl", tmp_path)
    files = sorted(tmp_path.glob("*/*.safetensors"))
    assert len(files) == BATCHES
    flipped = bytearray(files[0].read_bytes())
    flipped[-3] ^= 4
    files[0].write_bytes(flipped)
    files[1].write_bytes(files[1].read_bytes()[:40])
    said = []
    state, passes = run("srrl", tmp_path, said=said)
    assert passes == 2 and same(plain, state)
    assert all(any(file.name in line and "damaged" in line for line in said) for file in files[:2])
    assert run("srrl", tmp_path)[1] == 0


def test_nothing_is_kept_beyond_the_limit(tmp_path):
    run("srrl", tmp_path / "whole")
    size = max(f.stat().st_size for f in (tmp_path / "whole").glob("*/*.safetensors"))
    said = []
    run("srrl", tmp_path / "part", gigabytes=2.5 * size / 1e9, said=said)
    assert len(list((tmp_path / "part").glob("*/*.safetensors"))) == 3
    assert len(said) == 1 and "teacher.memory_gb" in said[0]
    said = []
    assert run("srrl", tmp_path / "part", gigabytes=1e-9, said=said)[1] == BATCHES - 3
    assert len(said) == 1 and "nothing more is kept" in said[0]


def test_a_disk_that_fails_ends_the_keeping_and_not_the_training(tmp_path, monkeypatch):
    plain, _ = run("srrl")
    said = []

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("srrl.memory.save_export", full)
    state, passes = run("srrl", tmp_path, said=said)
    assert passes == BATCHES and same(plain, state)
    assert len(said) == 1 and "No space left" in said[0] and "nothing more is kept" in said[0]


def test_a_map_that_cannot_be_read_is_computed(tmp_path, monkeypatch):
    plain, _ = run("srrl", tmp_path)

    def broken(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("srrl.memory.read_export", broken)
    state, passes = run("srrl", tmp_path)
    assert passes == BATCHES and same(plain, state)


def test_what_would_change_the_map_has_a_file_of_its_own(tmp_path):
    teacher = Counted()
    memory = MapMemory(tmp_path, 1.0, teacher)
    x = torch.rand(4, 3, 8, 8)
    paths = {memory.path(x), memory.path(x.double()), memory.path(x + 1e-6)}
    paths.add(memory.path(x.contiguous(memory_format=torch.channels_last)))
    with torch.autocast("cpu", torch.bfloat16):
        paths.add(memory.path(x))
    other = copy.deepcopy(teacher)
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-6
    paths.add(MapMemory(tmp_path, 1.0, other).path(x))
    unsaved = copy.deepcopy(teacher)
    unsaved.inner.normalize.mean.add_(0.1)
    paths.add(MapMemory(tmp_path, 1.0, unsaved).path(x))
    cut = copy.deepcopy(teacher)
    cut.cut = "shallow"
    paths.add(MapMemory(tmp_path, 1.0, cut).path(x))
    assert len(paths) == 8
    assert MapMemory(tmp_path, 1.0, copy.deepcopy(teacher)).path(x.clone()) in paths


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_map_comes_back_in_its_layout_and_type(tmp_path, layout):
    memory = MapMemory(tmp_path, 1.0, Counted())
    x = torch.rand(2, 3, 8, 8)
    made = torch.randn(2, 5, 4, 4).contiguous(memory_format=layout).to(torch.bfloat16)
    memory.recall(x, lambda _: made)
    found = memory.recall(x, lambda _: pytest.fail("was kept"))
    assert torch.equal(found, made) and found.stride() == made.stride() and found.dtype == made.dtype


def test_a_teacher_that_goes_by_more_than_the_pictures_is_refused(tmp_path):
    model = Counted()
    model.see = lambda batch: None
    with pytest.raises(UserError, match="leave teacher.memory out"):
        MapMemory(tmp_path, 1.0, model)


def test_a_folder_that_cannot_be_made_is_an_error_of_the_user(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="teacher.memory"):
        MapMemory(tmp_path / "file" / "maps", 1.0, Counted())
