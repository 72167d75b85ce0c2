"""Which of the runs that come with the package has the teacher that a config would train."""

from __future__ import annotations

from typing import Any

from srrl.config import RunSettings, read_yaml, resolve
from srrl.distillers import distiller_class
from srrl.errors import UserError
from srrl.shipped import PREFIX, located, names

# what a teacher must have been trained with to stand in for another; how long, and on how many faces, is no part of it
SAME = ("image_size", "sigma", "foreground", "cut")
SAME_NETWORK = ("arch", "width", "decoder")
# settings of a teacher that do not ask for a training of their own
NO_TRAINING = {"memory", "memory_gb", *SAME_NETWORK}


def shipped_teacher(schema: type[RunSettings], given: dict[str, Any]) -> str | None:
    """``shipped:NAME`` of the first that fits ``given`` (--quick, config file and overrides); None where none does.

    It fits the embedded synthetic faces alone: on other data, or for another domain, a teacher is trained there. Settings that are
    not valid fit none; saying so is left to their validation.
    """
    teacher, data = (given.get(k) or {} for k in ("teacher", "data"))
    if not isinstance(teacher, dict) or not isinstance(data, dict) or teacher.keys() - NO_TRAINING:
        return None
    if any(data.get(k) for k in ("train", "val", "test")) or schema.model_fields["task"].default != "faces":
        return None
    try:
        wanted = resolve(schema, given)
        if not distiller_class(wanted.method).needs_teacher:
            return None
    except UserError:
        return None
    for name in names():
        folder = located(PREFIX + name)
        if not (folder / "weights" / "teacher.safetensors").is_file():
            continue
        if _same(wanted, resolve(schema, read_yaml(folder / "config.yaml"))):
            return PREFIX + name
    return None


def _same(a: RunSettings, b: RunSettings) -> bool:
    return (
        a.task == b.task
        and all(getattr(a, k) == getattr(b, k) for k in SAME)
        and all(getattr(a.teacher, k) == getattr(b.teacher, k) for k in SAME_NETWORK)
        and (a.data.n_points, a.data.scale) == (b.data.n_points, b.data.scale)
    )
