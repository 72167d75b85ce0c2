"""srrl.train, in which every validation is written down: counting.py FILE ARGUMENTS, a line a call with the process's number."""

import os
import sys

from srrl.cli import main_of
from srrl.task import ensure_tasks_importable
from srrl.train import COMMAND

ensure_tasks_importable()
from srrl_tasks.faces.task import FacesTask  # noqa: E402

evaluate = FacesTask.evaluate


def counted(self, model, dataset, cfg, *, full=False):
    with open(sys.argv[1], "a", encoding="utf-8") as file:
        file.write(f"{os.environ['RANK']} {len(dataset)}\n")
    return evaluate(self, model, dataset, cfg, full=full)


FacesTask.evaluate = counted
main_of(COMMAND, sys.argv[2:])
