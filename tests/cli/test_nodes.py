"""A training on two machines, each of which has a torchrun of its own (here both on this one), that loses a process."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from served import free_port
from small_run import ROOT

from srrl.errors import UserError
from srrl.runs import RunFolder, read_json


def test_a_lost_process_has_all_machines_go_on_with_the_same_run(tmp_path):
    """The torchrun that did not lose one starts its process anew without counting it: that too must find the run."""
    port, run = free_port(), tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    command += ["--max-restarts", "2", "--rdzv-backend", "c10d", "--rdzv-id", "pair"]
    command += [
        "--rdzv-endpoint",
        f"127.0.0.1:{port}",
        "-m",
        "srrl.train",
        "--task",
        "classification",
        "--quick",
    ]
    command += ["epochs=24", "teacher.epochs=1", "baseline=false", "--run-dir", str(run)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # docs/scaling.md says why
    logs = [(tmp_path / f"{i}.log").open("w+") for i in range(2)]
    machines = [
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT)
        for log in logs
    ]
    said = lambda: [(log.seek(0), log.read())[1] for log in logs]  # noqa: E731
    try:
        end = time.monotonic() + 120
        while not any("student  epoch 3/" in text for text in said()):
            assert time.monotonic() < end and all(m.poll() is None for m in machines), said()
            time.sleep(0.1)
        first = (
            "student  epoch 3/" in said()[1]
        )  # which machine has the process that reports: the other loses its own
        (lost,) = psutil.Process(machines[not first].pid).children()
        lost.send_signal(signal.SIGKILL)
        assert [m.wait(150) for m in machines] == [0, 0], said()
    finally:
        for machine in machines:
            for process in (
                [*psutil.Process(machine.pid).children(), machine] if machine.poll() is None else []
            ):
                process.kill()
    assert read_json(RunFolder(run).results)["student"]["top1"] >= 0
    whole = "".join(said())
    assert "student  epoch 24/24" in whole and "exists: choose another" not in whole


@pytest.mark.parametrize("name", ["pair", "none"])
def test_a_folder_is_that_of_the_job_that_began_it(tmp_path, monkeypatch, name):
    """torchrun without --rdzv-id says "none", which names nothing."""
    from srrl.processes import job

    monkeypatch.setenv("TORCHELASTIC_RUN_ID", name)
    assert job() == (name if name == "pair" else None)
    run = RunFolder.create("faces", tmp_path / "run")
    run.begin("task: faces\n", job())
    assert run.is_of(job()) == (name == "pair")
    assert not run.is_of("another") and not run.is_of(None)
    with pytest.raises(UserError, match="exists"):
        RunFolder.create("faces", tmp_path / "run")


def test_what_was_begun_before_there_were_settings_is_no_run(tmp_path):
    (tmp_path / ".job").write_text("pair")
    assert not RunFolder(tmp_path).is_of("pair")
    assert RunFolder.create("faces", tmp_path).path == tmp_path
