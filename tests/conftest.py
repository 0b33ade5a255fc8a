# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for all tests."""

import pytest
from hypothesis import settings

# A shared machine stalls now and then; how long an example takes is for script/bench to say.
settings.register_profile("default", deadline=None)
settings.load_profile("default")

_skipped: list[str] = []


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
