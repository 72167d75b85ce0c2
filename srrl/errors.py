"""Errors that a command line turns into one clear line and an exit status."""


class UserError(Exception):
    """Wrong usage or input: the message is one line that names the thing, what was expected and what to do next.

    Command lines print it without a traceback and exit with status 2.
    """

    def __init__(self, message: str):
        super().__init__(_own_line(message))


class RunError(Exception):
    """A failure while running (full disk, out of memory, a non-finite loss): one line, exit status 1."""

    def __init__(self, message: str):
        super().__init__(_own_line(message))


# how torch and NumPy say that more was asked for than any memory holds, which they do with errors of several types
_TOO_LARGE = (
    "out of memory",
    "can't allocate memory",
    "Storage size calculation overflowed",
    "integer multiplication overflow",
    "array is too big",
    "Maximum allowed dimension exceeded",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: on a GPU, in torch's or OpenCV's allocator, or in a process that a data loader started."""
    text = str(error)
    if type(error).__module__.partition(".")[0] == "cv2":  # whose only error is of no type that others know
        return "Insufficient memory" in text
    return isinstance(error, MemoryError) or (
        isinstance(error, (RuntimeError, ValueError))
        and (
            any(words in text for words in _TOO_LARGE)
            or ("DataLoader worker" in text and ("killed by signal" in text or "exited unexpectedly" in text))
        )
    )


def _own_line(message: str) -> str:
    """The message itself, also where a data loader raises it again with its worker's traceback around it."""
    if message.startswith("Caught ") and "Traceback" in message:
        return message.strip().splitlines()[-1].partition("Error: ")[2]
    return message
