"""SRRL: distil a large vision model into a small one through the teacher's own frozen classifier (ICLR 2021).

Names are resolved on first use, so that importing the package (and every ``--help``) costs no torch import.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_LAZY = {
    "distill": "srrl.api",
    "load": "srrl.api",
    "Split": "srrl.model",
    "adapt": "srrl.adapters",
    "UserError": "srrl.errors",
    "RunError": "srrl.errors",
}
__all__ = ["__version__", *_LAZY]

if TYPE_CHECKING:
    from srrl.adapters import adapt
    from srrl.api import distill, load
    from srrl.errors import RunError, UserError
    from srrl.model import Split


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'srrl' has no attribute {name!r}")
