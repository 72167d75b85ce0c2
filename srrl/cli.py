"""What all command lines share: exit statuses, one-line errors, and the console script ``srrl``.

Exit status: 0 done, 1 failed while running, 2 wrong usage or input, 129/130/143 interrupted (after a checkpoint in training).
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import tempfile
import traceback
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

from srrl.allocator import keep_freed_memory
from srrl.errors import RunError, UserError, out_of_memory
from srrl.interrupt import Interrupted

COMMANDS = {
    "train": "train a teacher, a baseline and a distilled student",
    "evaluate": "score the models of a run",
    "predict": "predict on images, folders and videos",
    "compare": "compare methods over seeds, for the same number of epochs",
    "benchmark": "measure the speed of the models and of the training step",
    "export": "write the student into one file that needs no run folder",
    "app": "see teacher and student side by side in the browser",
}


FAULT = "this is a fault of the program"
# names of what is not there, or where nothing may be read or written
_NAMED_WRONGLY = (
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.EACCES, errno.EPERM, errno.EROFS),
)


@dataclass(frozen=True)
class Command:
    """One command line: its name, one-line help, the function that adds its arguments and the one that runs it."""

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    epilog: str = ""
    module: str | None = None  # how it is called as a module, where that is not python -m srrl.<name>
    keeps_memory: bool = True  # what it frees; a server's stays small instead


class Parser(argparse.ArgumentParser):
    """One whose answer to an argument is one line, whatever characters the argument has. Options are written in full."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        super().error(on_one_line(message))


def main_of(command: Command, argv: list[str] | None = None) -> None:
    """Parses, runs and exits; the body of every ``python -m srrl.<command>``."""
    module = command.module or f"python -m srrl.{command.name}"
    prog = module if argv is None else f"srrl {command.name}"
    parser = Parser(
        prog=prog,
        description=command.help,
        epilog=command.epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    # a parallel region of libgomp that spins while a neighbour computes costs more than it saves; read at torch's import
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    if command.keeps_memory:
        keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):  # a file's name need not be UTF-8
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(guarded(lambda: command.run(parser.parse_intermixed_args(argv))))


def guarded(action: Callable[[], int]) -> int:
    """Runs ``action`` and turns what it raises into an exit status and one line on standard error."""
    try:
        return action()
    except UserError as error:
        complain(str(error))
        return 2
    except RunError as error:
        complain(str(error))
        return 1
    except Interrupted as stop:
        return 128 + stop.signum
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # of the system: a full disk, a name that is too long, a folder that went away
        name = str(error.filename)[:200] if error.filename else ""
        complain(f"{error.strerror or error}{': ' * bool(name)}{name}")
        return 2 if error.errno in _NAMED_WRONGLY else 1
    except Exception as error:
        if out_of_memory(error):
            complain("out of memory: give it fewer or smaller pictures at a time, or close other programs")
        else:
            complain(_fault(error))
        return 1


def complain(message: str) -> None:
    """The one line that says what is wrong, on standard error."""
    print(f"error: {on_one_line(message)}", file=sys.stderr)


def on_one_line(text: str) -> str:
    """The text with its line ends and control characters written out, as names of files may hold what steers a terminal."""
    steering = ("Cc", "Zl", "Zp", "Cs")  # the last are bytes that are no UTF-8
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in steering else c for c in text
    )


def _fault(error: Exception) -> str:
    """What to say of an error that nobody foresaw: it is the program's, and where the whole of it can be read."""
    said = " ".join(str(error).split())
    said = f"{type(error).__name__}{': ' * bool(said)}{said[:300]}"
    where = ""
    # a container's own temporary folder goes with it
    for folder in filter(None, (os.environ.get("SRRL_FAULTS"), tempfile.gettempdir())):
        try:
            handle, name = tempfile.mkstemp(prefix="srrl-fault-", suffix=".txt", dir=folder)
            with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                traceback.print_exception(error, file=file)
            where = f"please report it with {name}, which says where"
            break
        except OSError as problem:
            where = f"where could not be written down ({problem.strerror or problem})"
    return f"{FAULT} ({said}): {where}"


def at_most(most: int) -> Callable[[str], int]:
    """A reader of whole numbers from 1 to ``most``, for argparse (exit status 2 otherwise)."""

    def positive(text: str) -> int:
        value = int(text)
        if value < 1:
            raise argparse.ArgumentTypeError(f"{text} is not at least 1")
        if value > most:
            raise argparse.ArgumentTypeError(f"{text[:40]} is more than {most}")
        return value

    return positive


def main() -> None:
    """The console script ``srrl COMMAND …``."""
    from srrl import __version__

    listing = "\n".join(f"  {name:10s} {text}" for name, text in COMMANDS.items())
    parser = Parser(
        prog="srrl",
        description="Distil large vision models into small ones.",
        epilog=f"commands:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    args = parser.parse_args(sys.argv[1:2])
    module = "srrl_app.command" if args.command == "app" else f"srrl.{args.command}"
    main_of(import_module(module).COMMAND, sys.argv[2:])
