"""Several processes of one training, started for real by torchrun over gloo, against one process with a larger batch."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from train_together import BATCH, EPOCHS, METHODS, SAMPLES, losses_of, trainer_of

from srrl.checkpoint import load_state
from srrl.data import EpochBatches, train_loader
from srrl.errors import UserError

HERE = Path(__file__).parent
STEPS = SAMPLES // BATCH


def launch(script, *arguments, processes=2, cwd=None, extra=None):
    path = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
    ]
    return subprocess.run(
        [*command, *map(str, script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ
        | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
        | (extra or {}),
        cwd=cwd,
        check=False,
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Every method trained by two processes and by one; a training that a signal to its second process cut in two, one that lost it."""
    root = tmp_path_factory.mktemp("zu zweit é")
    for name in ("two", "cut", "one", "lost"):
        (root / name).mkdir()
    script = [HERE / "train_together.py"]
    whole = launch(script, root / "two", ",".join(METHODS))
    assert whole.returncode == 0, whole.stderr
    assert launch(script, root / "cut", "srrl", "SIGTERM", STEPS + 3).returncode != 0
    stopped = [int((root / "cut" / f"stopped-{rank}").read_text()) for rank in range(2)]
    resumed = launch(script, root / "cut", "srrl")
    assert resumed.returncode == 0, resumed.stderr
    lost = launch(script, root / "lost", "srrl", "SIGKILL", STEPS + 3)
    losses = {}
    for method in METHODS:
        trainer = trainer_of(root / "one", BATCH, method)
        losses[method] = losses_of(trainer)
        trainer.fit()
    return root, stopped, whole.stdout, losses, lost


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_train_as_one_with_twice_the_batch(folders, method):
    """Step by step, BatchNorm of student and connector included, and in every weight and statistic at the end.

    The first process alone writes: in the other one train_together.py has every file of ours fail.
    """
    root, losses = folders[0], folders[3][method]
    halves = [json.loads((root / "two" / method / f"losses-{rank}.json").read_text()) for rank in range(2)]
    assert len(losses) == EPOCHS * STEPS
    assert [sum(pair) / 2 for pair in zip(*halves, strict=True)] == pytest.approx(losses, rel=1e-4)
    assert halves[0] != pytest.approx(losses, rel=1e-2)  # each has pictures of its own
    one, two = (load_file(root / name / method / "last.safetensors") for name in ("one", "two"))
    start = trainer_of(root / "one", BATCH, method).distiller.student.state_dict()
    assert any(k.endswith("running_var") for k in one)
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-5)
        assert key.startswith("normalize") or (value - start[key]).abs().max() > 1e-3  # it did train


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, for torch's SyncBatchNorm")
def test_two_processes_on_a_gpu_train_as_one_with_twice_the_batch(tmp_path):
    """The same by torch's SyncBatchNorm, which exists on GPUs alone, against one process on that GPU."""
    script = [HERE / "train_together.py"]
    for name, processes in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        done = launch(
            script, tmp_path / name, ",".join(METHODS), processes=processes,
            extra={"CUDA_VISIBLE_DEVICES": "0", "ONE_GPU": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    for method in METHODS:
        parts = [json.loads(f.read_text()) for f in sorted((tmp_path / "two" / method).glob("losses-*.json"))]
        whole = json.loads((tmp_path / "one" / method / "losses-0.json").read_text())
        assert len(parts) == 2 and len(whole) == EPOCHS * STEPS
        assert [sum(pair) / 2 for pair in zip(*parts, strict=True)] == pytest.approx(whole, rel=1e-4)
        one, two = (load_file(tmp_path / name / method / "last.safetensors") for name in ("one", "two"))
        assert any(k.endswith("running_var") for k in one)
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-5)


def test_statistics_of_each_process_alone_are_others(folders, tmp_path):
    """What sync_batchnorm=false gives: the comparison above would notice."""
    one = load_file(folders[0] / "one" / "none" / "last.safetensors")
    half = trainer_of(tmp_path, BATCH // 2, "none")
    half.fit()
    found = half.distiller.student.state_dict()
    name = next(k for k in one if k.endswith("running_var"))
    assert not torch.allclose(found[name], one[name], rtol=1e-2)


LABELS = """
import torch, torch.distributed as dist
from srrl.losses import heatmap_l2
from srrl_tasks.cross_domain.criterion import DomainCriterion
from srrl.api import CrossEntropyCriterion
dist.init_process_group("gloo")
mine = slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
draw = torch.Generator().manual_seed(0)
maps, logits = torch.rand(4, 3, 2, 2, generator=draw), torch.rand(4, 5, generator=draw)
points = torch.tensor([[1, 0, 0], [0, 0, 0], [1, 1, 1], [1, 0, 1]], dtype=torch.bool)
losses = [heatmap_l2(maps[mine], torch.zeros(2, 3, 2, 2), mask=points[mine])]
for few in ([0, 0, 1, 0], [1, 0, 1, 1]):
    batch = {"labelled": torch.tensor(few, dtype=torch.bool)[mine], "label": torch.arange(4)[mine]}
    losses.append(DomainCriterion(CrossEntropyCriterion()).supervised(logits[mine], batch))
whole = torch.stack(losses)
dist.all_reduce(whole)
print("losses", *(whole / 2).tolist()) if dist.get_rank() == 0 else None
dist.destroy_process_group()
"""


def test_what_a_loss_is_divided_by_is_that_of_all_processes(tmp_path):
    """Labels that lie unevenly, none at all in a part: the mean of two processes' losses is that of their samples, by a loop."""
    (tmp_path / "script.py").write_text(LABELS)
    done = launch([tmp_path / "script.py"])
    assert done.returncode == 0, done.stderr
    draw = torch.Generator().manual_seed(0)
    maps, logits = torch.rand(4, 3, 2, 2, generator=draw).double(), torch.rand(4, 5, generator=draw).double()
    labelled = [(0, 0), (2, 0), (2, 1), (2, 2), (3, 0), (3, 2)]
    expected = [sum(float((maps[n, k] ** 2).sum()) for n, k in labelled) / len(labelled)]
    for few in ((2,), (0, 2, 3)):
        each = [float(logits[n].exp().sum().log() - logits[n, n]) for n in few]
        expected.append(sum(each) / len(each))
    assert [float(x) for x in done.stdout.split()[1:]] == pytest.approx(expected, rel=1e-5)


def test_an_epoch_of_two_processes_passes_over_the_data_once(folders):
    root = folders[0]
    assert load_state(root / "two" / "srrl" / "student.pt")["average"]["count"] == EPOCHS * STEPS


def test_the_first_process_alone_reports_and_its_means_are_of_all(folders):
    root, _, stdout, *_ = folders
    assert stdout.count("epoch 1/3") == len(METHODS)
    rows = {}
    for name in ("one", "two"):
        with open(root / name / "srrl" / "metrics.csv", newline="") as handle:
            rows[name] = list(csv.DictReader(handle))
    assert [r["epoch"] for r in rows["two"]] == ["1", "2", "3"]
    for one, two in zip(rows["one"], rows["two"], strict=True):
        for key in ("loss", "fm", "sr", "val_top1"):
            assert float(two[key]) == pytest.approx(float(one[key]), rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_every_picture_is_validated_on_once_and_all_processes_know_the_figures(folders, method):
    files = [folders[0] / "two" / method / f"measured-{rank}.json" for rank in range(2)]
    (first, *known), (second, *same) = (json.loads(file.read_text()) for file in files)
    assert first == [9] * EPOCHS and second == []  # nine pictures
    assert known == same and known[0]["epoch"] == EPOCHS and 0 <= known[0]["top1"] <= 100


def test_a_signal_to_one_process_stops_all_after_the_same_step_and_resume_is_exact(folders):
    root, stopped, *_ = folders
    assert stopped[0] == stopped[1]
    assert STEPS < stopped[0] <= STEPS + 4
    whole, cut = (load_file(root / name / "srrl" / "last.safetensors") for name in ("two", "cut"))
    assert all(torch.equal(whole[k], cut[k]) for k in whole)


def test_a_killed_process_ends_all_and_another_number_of_them_goes_on(folders):
    root, *_, lost = folders
    assert lost.returncode != 0
    said = [line for line in lost.stderr.splitlines() if line.startswith("error:")]
    assert said == [
        "error: student: another process of this training has gone; what was saved is intact, go on with --resume"
    ]
    trainer = trainer_of(root / "lost", BATCH)
    trainer.fit()
    assert [(row["epoch"]) for row in trainer.log.rows] == ["1", 2, 3]
    one, found = (load_file(root / name / "srrl" / "last.safetensors") for name in ("one", "lost"))
    for key, value in one.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)


def test_parts_of_a_step_are_disjoint_and_together_the_step_of_one_process():
    whole = [sorted(b) for b in EpochBatches(50, 8, seed=3)]
    first, second = (list(EpochBatches(50, 4, seed=3, rank=r, world=2)) for r in range(2))
    assert [sorted(a + b) for a, b in zip(first, second, strict=True)] == whole
    resumed = EpochBatches(50, 4, seed=3, rank=1, world=2)
    resumed.start = 2
    assert list(resumed) == second[2:]


def test_another_number_of_processes_goes_on_behind_the_samples_that_were_seen(folders, tmp_path):
    """Three steps of two processes are six of one with batches of the same size; the epoch has twelve."""
    state = load_state(folders[0] / "two" / "srrl" / "student.pt")
    assert state["world"] == 2
    (tmp_path / "srrl").mkdir()
    torch.save({**state, "epoch": 1, "step": 3}, tmp_path / "srrl" / "student.pt")
    trainer = trainer_of(tmp_path, BATCH // 2)
    losses = losses_of(trainer)
    trainer.fit()
    whole = SAMPLES // (BATCH // 2)
    assert (whole, len(losses)) == (12, whole - 6 + whole)
    assert [row["epoch"] for row in trainer.log.rows] == [2, 3]


DISTIL = """
import atexit, os, sys, torch
said = lambda: f"connected at the end: {torch.distributed.is_initialized()}\\n"
atexit.register(lambda: os.write(1, said().encode()))  # in one piece; what came first is called last
from toys import Colours, tiny
import srrl
found = srrl.distill(
    tiny(6, seed=2), tiny(4, seed=1), Colours(24), Colours(9), epochs=2, batch_size=4, say=lambda _: None
)
torch.save(found.state_dict(), f"{sys.argv[1]}/{os.environ['RANK']}.pt")
"""


def test_distill_gives_every_process_the_best_weights(tmp_path):
    (tmp_path / "script.py").write_text(DISTIL)
    path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    done = launch([tmp_path / "script.py"], tmp_path, extra={"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert done.stdout.count("connected at the end: False") == 2  # else gloo may abort a process that is done


def test_what_fails_in_the_first_process_ends_all(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    done = launch(["-m", "srrl.train"], "--task", "faces", f"data.train={photos}", cwd=tmp_path)
    assert done.returncode != 0 and "error:" in done.stderr
    assert not list(tmp_path.glob("runs/faces/*"))


@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_is_lost_while_the_data_are_made(tmp_path, killed):
    """The second process waits for the first, and learns of its end from the connection; the first learns it from torchrun."""
    arguments = ["--task", "classification", "--run-dir", tmp_path / "run"]
    done = launch([HERE / "lost_in_data.py"], killed, tmp_path / "begun", *arguments, cwd=tmp_path)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith(("error:", "interrupted;"))]
    lost = "error: another process of this training has gone: give the command again, or go on with --resume where the run has begun"
    stopped = (
        f"interrupted; go on with: torchrun --nproc-per-node 2 -m srrl.train --resume {tmp_path / 'run'}"
    )
    assert len(said) == 1 and said[0] in ((lost,) if killed == 0 else (lost, stopped)), done.stderr


def test_fewer_samples_than_processes():
    with pytest.raises(UserError, match="2 training samples for 3 processes"):
        train_loader([1, 2], 4, 0, 0, rank=0, world=3)
