"""The task registry: built-in tasks, plugins through entry points, and the import name in a bare checkout."""

import subprocess
import sys
from pathlib import Path

import pytest

from srrl.errors import UserError
from srrl.task import Task, get_task, task_names

ROOT = Path(__file__).resolve().parents[2]


def test_faces_is_known_and_unknown_names_get_the_nearest():
    assert isinstance(get_task("faces"), Task)
    assert "faces" in task_names()
    with pytest.raises(UserError, match="did you mean 'faces'"):
        get_task("facse")


def test_a_plugin_is_found_by_its_entry_point(tmp_path):
    """A distribution with an entry point in the group, on the path of a fresh process."""
    (tmp_path / "plug.py").write_text("from srrl.task import Task\nclass Plug(Task):\n    name = 'plug'\n")
    info = tmp_path / "plug-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[srrl.tasks]\nplug = plug:Plug\n")
    code = "from srrl.task import get_task, task_names; print(get_task('plug').name, sorted(task_names()))"
    out = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        text=True,
        capture_output=True,
        check=True,
    ).stdout
    assert out.startswith("plug ")
    assert "'faces'" in out


def test_a_folder_named_tasks_of_the_user_does_not_shadow_ours(tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "__init__.py").write_text("raise SystemExit('the user's own tasks were imported')")
    code = "from srrl.task import get_task; print(get_task('faces').name)"
    out = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        check=True,
    ).stdout
    assert out.strip() == "faces"
