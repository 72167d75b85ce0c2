"""The training that the page runs: a real process that is started, stopped, gone on with, also by the next app."""

import os
import subprocess
import sys
import time

import pytest
from small_run import ROOT
from srrl_app.job import Job

from srrl.errors import UserError


def wait(job, what, seconds=200):
    end = time.monotonic() + seconds
    while not what(job.state()):
        assert time.monotonic() < end, job.state()
        time.sleep(0.1)
    return job.state()


@pytest.mark.timeout(600)
def test_started_stopped_and_gone_on_with_by_the_next_app(tmp_path):
    job = Job(tmp_path)
    assert job.state().said() == "Nothing is being trained." and job.state().spoken() == ""
    assert job.unfinished() is None
    with pytest.raises(UserError, match="nothing to go on with"):
        job.resume()
    job.start("classification", quick=True)
    assert job.state().said().startswith("Training classification/001 for ")
    assert job.state().spoken() == "Training classification/001: getting ready."
    with pytest.raises(UserError, match="classification/001 is being trained: stop it first"):
        job.start("classification", quick=True)
    found = wait(job, lambda s: "epoch 2 of 10 done" in s.said())
    assert found.stage().startswith("teacher, epoch")
    assert found.spoken() == "Training classification/001: the teacher."
    job.close()
    stopped = job.state()
    assert not stopped.going and stopped.status in (130, 143), stopped.lines
    assert (
        stopped.spoken()
        == stopped.said()
        == "Stopped classification/001. Continue goes on with classification/001."
    )
    trained = (tmp_path / "classification/001/metrics.csv").read_text()

    later = Job(tmp_path)  # the next app
    assert later.state().said() == "Nothing is being trained. Continue goes on with classification/001."
    later.resume()
    done = wait(later, lambda s: not s.going)
    assert done.status == 0 and done.said().startswith("Finished classification/001 in "), done.lines
    whole = (tmp_path / "classification/001/metrics.csv").read_text()
    for before, after in zip(trained.splitlines()[1:], whole.splitlines()[1:], strict=False):
        assert after.startswith(before)  # nothing was trained twice
    assert later.state().after is None


def test_what_fails_says_why(tmp_path):
    job = Job(tmp_path)
    job.start("novel", quick=False)
    done = wait(job, lambda s: not s.going and s.lines)
    assert done.status == 2 and "novel/001 failed: error: " in done.said()
    assert job.unfinished() is None


def test_a_clock_that_jumps_ends_no_training(tmp_path):
    """A run whose files are two days old goes on as long as another process holds it, and can be gone on with afterwards."""
    run = tmp_path / "faces/001"
    run.mkdir(parents=True)
    code = (
        "import sys, time; from pathlib import Path; from srrl.lock import held\n"
        "with held(Path(sys.argv[1])) as free: print(free, flush=True); time.sleep(100)"
    )
    trains = subprocess.Popen([sys.executable, "-c", code, str(run)], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert trains.stdout.readline() == b"True\n"
        (run / "config.yaml").touch()
        os.utime(run / "config.yaml", (time.time() - 2 * 86400,) * 2)
        assert Job(tmp_path).unfinished() is None
        trains.kill()
        trains.wait()
        assert Job(tmp_path).unfinished() == run
    finally:
        trains.kill()
