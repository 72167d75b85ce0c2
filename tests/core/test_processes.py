"""Several processes of one training, started for real by torchrun over gloo, against one process with a larger batch."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from train_together import BATCH, EPOCHS, SAMPLES, trainer_of

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
    """A whole training by two processes, one that the second process's SIGTERM cut in two, and one by one process."""
    root = tmp_path_factory.mktemp("together")
    for name in ("two", "cut", "one"):
        (root / name).mkdir()
    script = [HERE / "train_together.py"]
    whole = launch(script, root / "two")
    assert whole.returncode == 0, whole.stderr
    assert launch(script, root / "cut", STEPS + 3).returncode != 0
    stopped = [int((root / "cut" / f"stopped-{rank}").read_text()) for rank in range(2)]
    resumed = launch(script, root / "cut")
    assert resumed.returncode == 0, resumed.stderr
    trainer_of(root / "one", BATCH).fit()
    return root, stopped, whole.stdout


def test_two_processes_train_as_one_with_twice_the_batch(folders):
    root = folders[0]
    one, two = (load_file(root / name / "last.safetensors") for name in ("one", "two"))
    start = trainer_of(root / "one", BATCH).distiller.student.state_dict()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-5)
        assert key.startswith("normalize") or (value - start[key]).abs().max() > 1e-3  # it did train


def test_an_epoch_of_two_processes_passes_over_the_data_once(folders):
    root = folders[0]
    assert [(root / "two" / f"steps-{rank}").read_text() for rank in range(2)] == [str(EPOCHS * STEPS)] * 2
    assert load_state(root / "two" / "student.pt")["average"]["count"] == EPOCHS * STEPS


def test_the_first_process_alone_reports_and_its_means_are_of_all(folders):
    root, _, stdout = folders
    assert stdout.count("epoch 1/3") == 1
    rows = {}
    for name in ("one", "two"):
        with open(root / name / "metrics.csv", newline="") as handle:
            rows[name] = list(csv.DictReader(handle))
    assert [r["epoch"] for r in rows["two"]] == ["1", "2", "3"]
    for one, two in zip(rows["one"], rows["two"], strict=True):
        assert float(two["loss"]) == pytest.approx(float(one["loss"]), rel=1e-4)


def test_a_signal_to_one_process_stops_all_after_the_same_step_and_resume_is_exact(folders):
    root, stopped, _ = folders
    assert stopped[0] == stopped[1]
    assert STEPS < stopped[0] <= STEPS + 4
    whole, cut = (load_file(root / name / "last.safetensors") for name in ("two", "cut"))
    assert all(torch.equal(whole[k], cut[k]) for k in whole)


def test_parts_of_a_step_are_disjoint_and_together_the_step_of_one_process():
    whole = [sorted(b) for b in EpochBatches(50, 8, seed=3)]
    first, second = (list(EpochBatches(50, 4, seed=3, rank=r, world=2)) for r in range(2))
    assert [sorted(a + b) for a, b in zip(first, second, strict=True)] == whole
    resumed = EpochBatches(50, 4, seed=3, rank=1, world=2)
    resumed.start = 2
    assert list(resumed) == second[2:]


def test_another_number_of_processes_cannot_go_on_in_the_middle_of_an_epoch(folders, tmp_path):
    state = load_state(folders[0] / "two" / "student.pt")
    assert state["world"] == 2
    torch.save({**state, "step": 3}, tmp_path / "student.pt")
    with pytest.raises(
        UserError, match="middle of an epoch by 2 processes, now there is 1.*--nproc-per-node 2"
    ):
        trainer_of(tmp_path, BATCH).fit()
    torch.save({**state, "step": 0, "epoch": 1}, tmp_path / "student.pt")
    trainer = trainer_of(tmp_path, BATCH)
    trainer.fit()  # between epochs nothing depends on it
    assert trainer.epoch == EPOCHS
    assert [row["epoch"] for row in trainer.log.rows] == [2, 3]


DISTIL = """
import os, sys, torch
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


def test_what_fails_in_the_first_process_ends_all(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    done = launch(["-m", "srrl.train"], "--task", "faces", f"data.train={photos}", cwd=tmp_path)
    assert done.returncode != 0 and "error:" in done.stderr
    assert not list(tmp_path.glob("runs/faces/*"))


def test_fewer_samples_than_processes():
    with pytest.raises(UserError, match="2 training samples for 3 processes"):
        train_loader([1, 2], 4, 0, 0, rank=0, world=3)
