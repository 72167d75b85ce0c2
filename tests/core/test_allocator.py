"""Freed memory is kept: page faults of a command line that takes and frees the same block again and again."""

import os
import resource
import subprocess
import sys

import pytest
from small_run import ROOT

BLOCK, TIMES = 64 << 20, 8  # bytes; more than glibc keeps of itself
PAGES = BLOCK // resource.getpagesize()

CODE = f"""
import resource
from srrl.cli import Command, main_of

def run(args):
    b"x" * {BLOCK}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({TIMES}):
        b"x" * {BLOCK}
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return 0

main_of(Command("probe", "", lambda parser: None, run))
"""


def faults(**environment):
    """Page faults of taking, filling and freeing a block ``TIMES`` times, after a first time."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=ROOT,
        env=keep | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="another C library than glibc")
def test_a_command_keeps_the_pages_that_it_freed():
    assert faults() < PAGES / 4
    # set from outside, malloc is as it was set: every block comes from the kernel anew
    assert faults(MALLOC_TRIM_THRESHOLD_="131072") > 0.9 * TIMES * PAGES
    assert faults(GLIBC_TUNABLES="glibc.malloc.trim_threshold=131072") > 0.9 * TIMES * PAGES
