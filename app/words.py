"""What a person is told when something goes wrong, and while other work makes timings too long."""

from __future__ import annotations

import traceback

from srrl.errors import UserError


def in_words(error: Exception) -> str:
    """The message of a UserError; of anything else only that it happened, and the details on the terminal."""
    if isinstance(error, UserError):
        return str(error)
    traceback.print_exception(error)
    return f"This did not work ({type(error).__name__}): the terminal in which the app runs says more."
