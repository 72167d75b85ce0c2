"""``python -m app``: the same as ``srrl app``."""

from srrl.cli import main_of

from .command import COMMAND

main_of(COMMAND)
