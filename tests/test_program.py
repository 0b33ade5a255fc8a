# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that are still running when we end do not go on without us."""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from acme_milter.lab.processes import wait_until
from acme_milter.program import Outcome, ProgramFault, end_programs, run_program


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def pids_in(file: Path) -> list[int]:
    return [int(pid) for pid in file.read_text().split()] if file.exists() else []


def test_every_program_that_runs_is_ended_with_everything_it_started(tmp_path: Path) -> None:
    def begin(number: int) -> Future[Outcome]:
        file = tmp_path / str(number)
        return pool.submit(run_program, ["sh", "-c", f"sleep 600 & echo $$ $! >{file}; wait"], timeout=600)

    with ThreadPoolExecutor(2) as pool:
        runs = [begin(number) for number in range(2)]
        files = [tmp_path / str(number) for number in range(2)]
        wait_until(lambda: all(len(pids_in(file)) == 2 for file in files), "both and their children")
        assert end_programs() == 2
        for run in runs:
            with pytest.raises(ProgramFault, match=r"^sh still ran when acme-milter was stopped, and was killed$"):
                run.result()
    for file in files:
        wait_until(lambda file=file: not any(map(is_alive, pids_in(file))), "their end")  # type: ignore[misc]  # mypy cannot tell a lambda's default
    assert end_programs() == 0


def test_a_program_that_has_ended_is_believed_whoever_is_ended_then(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    collect = run_program.__globals__["_collect"]

    def collect_and_end(*arguments: object) -> tuple[bytes, bytes]:
        collected: tuple[bytes, bytes] = collect(*arguments)
        assert end_programs() == 1
        return collected

    monkeypatch.setattr("acme_milter.program._collect", collect_and_end)
    assert run_program(["echo", "done"], timeout=60) == Outcome(0, b"done\n", b"")


def test_a_number_that_may_be_somebody_elses_by_now_is_killed_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    run_program(["true"], timeout=60)
    killed: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda leader, _: killed.append(leader))
    assert end_programs() == 0
    assert killed == []
