"""A folder's lock: between real processes, also when its holder is killed while a forked child lives on."""

import os
import signal
import subprocess
import sys
import time

from small_run import ROOT

from srrl.lock import NAME, held, is_held

HOLD_PART = """
import sys, time
from pathlib import Path
from srrl.lock import held
with held(Path(sys.argv[1]), 3) as free:
    print(free, flush=True)
    time.sleep(60)
"""
HOLD = """
import os, sys, time
from pathlib import Path
from srrl.lock import held
with held(Path(sys.argv[1])) as free:
    child = os.fork()
    if child == 0:
        time.sleep(60)  # as a data worker would, with all that it inherited
        os._exit(0)
    print(free, child, flush=True)
    time.sleep(60)
"""


def python(code, folder):
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_one_at_a_time_until_the_holder_is_gone(tmp_path):
    assert is_held(tmp_path) is False and not (tmp_path / NAME).exists()  # looking leaves nothing
    holder = python(HOLD, tmp_path)
    free, child = holder.stdout.readline().split()
    try:
        assert free == "True" and is_held(tmp_path) is True
        with held(tmp_path) as ours:
            assert not ours
        assert is_held(tmp_path) is True  # trying does not take it away
        holder.kill()
        holder.wait()
        os.kill(int(child), 0)  # alive
        assert is_held(tmp_path) is False
        with held(tmp_path) as ours:
            assert ours
    finally:
        holder.kill()
        os.kill(int(child), signal.SIGKILL)


def test_a_part_is_held_and_its_neighbours_are_not(tmp_path):
    holder = python(HOLD_PART, tmp_path)
    try:
        assert holder.stdout.readline() == "True\n"
        assert [is_held(tmp_path, part) for part in (2, 3, 4)] == [False, True, False]
        assert is_held(tmp_path) is True  # not all of it is free
        holder.kill()
        holder.wait()
        assert is_held(tmp_path, 3) is False
    finally:
        holder.kill()


def test_somebody_who_may_only_read_sees_it(tmp_path):
    for folder in (tmp_path, *tmp_path.parents)[:-2]:  # pytest's are its user's alone
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(folder.stat().st_mode | 0o055)
    with held(tmp_path) as ours:
        assert ours
        (tmp_path / NAME).chmod(0o644)
        child = os.fork()
        if child == 0:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            os._exit(int(is_held(tmp_path) is not True))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_look_does_not_keep_a_training_out(tmp_path):
    """Others look in a loop, as pages do; who wants it gets it."""
    loop = "import sys; from pathlib import Path; from srrl.lock import is_held\nprint(1, flush=True)\nwhile True: is_held(Path(sys.argv[1]))"
    (tmp_path / NAME).touch()
    looking = python(loop, tmp_path)
    try:
        looking.stdout.readline()
        end = time.monotonic() + 2
        while time.monotonic() < end:
            with held(tmp_path) as ours:
                assert ours
    finally:
        looking.kill()
