"""Errors that a command line turns into one clear line and an exit status."""


class UserError(Exception):
    """Wrong usage or input: the message is one line that names the thing, what was expected and what to do next.

    Command lines print it without a traceback and exit with status 2.
    """


class RunError(Exception):
    """A failure while running (full disk, out of memory, a non-finite loss): one line, exit status 1."""
