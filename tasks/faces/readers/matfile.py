"""MATLAB v5 files, by scipy in a process of its own: one damaged byte can end the whole process that reads them there."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np

# scipy looks an element's type up in an array of C without a check (seen in 1.17: a bus error)
_READ = """
import pickle, sys
import numpy as np
from scipy.io import loadmat
found = loadmat(sys.argv[1], variable_names=sys.argv[2:])
def plain(value):
    kind = value.dtype.kind if isinstance(value, np.ndarray) else ""
    if kind == "O":
        cells = np.empty(value.shape, object)
        for place in np.ndindex(value.shape):
            cells[place] = plain(value[place])
        return cells
    return value if kind and kind in "biufU" else None
values = {name: plain(found[name]) for name in sys.argv[2:] if name in found}
pickle.dump(values, sys.stdout.buffer)
"""


class Damaged(ValueError):
    """The file is no MATLAB v5 file, or contradicts itself; the text says how, in a few words."""


def read_arrays(file: Path, names: Collection[str]) -> dict[str, np.ndarray | None]:
    """The arrays of these names that are there, as :func:`scipy.io.loadmat` gives them.

    None stands for anything but numbers, texts and cells, also within a cell. Raises Damaged.
    """
    command = [sys.executable, "-I", "-c", _READ, str(file.absolute()), *names]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        how = f"reading it ended with signal {-done.returncode}" if done.returncode < 0 else lines[-1]
        raise Damaged(" ".join(how.split())[:120])
    return pickle.loads(done.stdout)  # written by the lines above, out of numbers and texts
