"""One tiny run of the binary task for all tests of it, trained by the command line."""

import pytest
from forked import forked

TINY = [
    "epochs=2",
    "stage1_epochs=2",
    "teacher.epochs=1",
    "data.per_class=4",
    "student.arch=resnet8",
    "student.width=4",
    "teacher.arch=resnet8",
    "teacher.width=8",
    "threads=1",
]


@pytest.fixture(scope="session")
def tiny():
    """Settings of the tiny run."""
    return TINY


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Its folder and what train printed."""
    folder = tmp_path_factory.mktemp("binär 1") / "run"
    status, out, error = forked("train", "--task", "binary", *TINY, "--run-dir", folder)
    assert status == 0, error
    return folder, out
