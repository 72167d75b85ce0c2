"""What a person reads instead of an exception's name or a metric's."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

from srrl.errors import UserError

if TYPE_CHECKING:
    from srrl.task import Task

FIGURES = {"nme": "landmark error (NME)", "top1": "right at the first guess (top-1)"}
# further figures of a finished run, where it has them
FURTHER = {
    "fr@0.08": "faces with more than 8 %, %",
    "fr@0.10": "faces with more than 10 %, %",
    "auc@0.08": "area below the error curve up to 8 %, 0 to 1",
    "top5": "right within five guesses (top-5), %",
}
USUAL = "one picture, ms (median)"
SLOW = "19 of 20 take at most, ms"


def figure_of(task: Task) -> str:
    """What a task is measured by, with its unit; a plugin's by its own name."""
    return f"{FIGURES.get(task.metric, task.metric)}, {task.unit}"


def in_words(error: Exception) -> str:
    """The message of a UserError; of anything else only that it happened, and the details on the terminal."""
    if isinstance(error, UserError):
        return str(error)
    traceback.print_exception(error)
    return f"This did not work ({type(error).__name__}): the terminal in which the app runs says more."
