"""What all tests share: the import name of the bundled tasks in a checkout, and a check of every skip."""

import multiprocessing.util
import os
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("GOMP_SPINCOUNT", "0")
if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # tests run side by side: one thread each, or they wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from srrl.task import ensure_tasks_importable

ensure_tasks_importable()


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory):
    """A folder for what programs leave in the system's one, such as a client of the app or a launcher; it goes with the tests."""
    tmp_path_factory.getbasetemp()  # pytest's own folders stay outside, to be looked at
    multiprocessing.util.get_temp_dir()  # so does this one, which goes with the process
    with tempfile.TemporaryDirectory(prefix="srrl-tests-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o1777)  # as the system's: some tests run as another user
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TMPDIR", folder)
            patch.setattr(tempfile, "tempdir", folder)
            yield


ALLOWED = Path(__file__).with_name("allowed_skips.txt")


def _allowed() -> list[str]:
    """What may be skipped here: lines that end in "(not in CI)" mean machines of people alone."""
    lines = [line for line in ALLOWED.read_text(encoding="utf-8").splitlines() if line.strip()]
    if os.environ.get("CI"):
        lines = [line for line in lines if not line.endswith("(not in CI)")]
    return [line.split(":")[0].strip() for line in lines if not line.startswith("#")]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails the run for a skip that the committed list gives no reason for."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    unexplained = [r.nodeid for r in skipped if not any(part in r.nodeid for part in _allowed())]
    if unexplained:
        reporter.write_line("")
        for nodeid in unexplained:
            reporter.write_line(f"skipped without a reason in tests/allowed_skips.txt: {nodeid}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
