"""A training whose process RANK is killed while the first one makes the data: torchrun … lost_in_data.py RANK FILE ARGUMENTS.

FILE is not there, and is made when the first process begins with the data: by then all are connected.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from srrl.cli import main_of
from srrl.task import ensure_tasks_importable
from srrl.train import COMMAND

ensure_tasks_importable()
from srrl_tasks.classification.task import ClassificationTask  # noqa: E402


def made_for_long(self, cfg, say, **_):
    """Data that take long."""
    BEGUN.touch()
    time.sleep(60)


def die():
    while not BEGUN.exists():
        time.sleep(0.05)
    time.sleep(0.5)  # the others wait by now
    os.kill(os.getpid(), signal.SIGKILL)


RANK, BEGUN = sys.argv[1], Path(sys.argv[2])
ClassificationTask.prepare = made_for_long
if os.environ["RANK"] == RANK:
    threading.Thread(target=die, daemon=True).start()
main_of(COMMAND, sys.argv[3:])
