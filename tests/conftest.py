# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for all tests."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from acme_milter.lab.postgresql import PostgresLab
from tests.dealing import dealt

# A shared machine stalls now and then; how long an example takes is for script/bench to say.
settings.register_profile("default", deadline=None)
settings.load_profile("default")

_skipped: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = dealt(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresLab]:
    """A real PostgreSQL, one for all tests of a process; each makes databases of its own in it."""
    with PostgresLab(Path(tempfile.mkdtemp(prefix="pg-"))) as server:  # where the user postgres may pass
        yield server


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped:
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A test that was skipped has proved nothing: the run fails."""
    if _skipped and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for nodeid in _skipped:
        terminalreporter.write_line(f"SKIPPED, which counts as a failure here: {nodeid}", red=True)
