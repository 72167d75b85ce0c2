"""A training whose process RANK is killed while the first one makes the data: torchrun … lost_in_data.py RANK ARGUMENTS."""

import os
import signal
import sys
import threading
import time

from srrl.cli import main_of
from srrl.task import ensure_tasks_importable
from srrl.train import COMMAND

ensure_tasks_importable()
from srrl_tasks.classification.task import ClassificationTask  # noqa: E402


def made_for_long(self, cfg, say, **_):
    """Data that take long."""
    time.sleep(60)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


ClassificationTask.prepare = made_for_long
if os.environ["RANK"] == sys.argv[1]:
    threading.Timer(8.0, die).start()  # the processes are connected by then
main_of(COMMAND, sys.argv[2:])
