# SPDX-License-Identifier: GPL-3.0-or-later
"""Children of the laboratory do not outlive it."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from acme_milter.lab.processes import ChildProcess, ProcessFault, free_port, wait_until


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in {"Z", "X"}


def grandchild(log: Path) -> int:
    wait_until(lambda: log.exists() and log.read_text().endswith("\n"), "the grandchild's id")
    return int(log.read_text())


FAMILY = "import subprocess, time; c = subprocess.Popen(['sleep', '60']); print(c.pid, flush=True); time.sleep(60)"


def test_stop_ends_what_the_child_has_started_too(tmp_path: Path) -> None:
    child = ChildProcess([sys.executable, "-c", FAMILY], log=tmp_path / "log")
    child.start()
    below = grandchild(child.log)
    assert is_alive(below)
    child.stop()
    wait_until(lambda: not is_alive(below), "the grandchild's end", timeout=2)
    assert not child.running


def test_a_child_that_ignores_sigterm_is_killed_in_the_end(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    child = ChildProcess([sys.executable, "-c", code], log=tmp_path / "log")
    child.start()
    grandchild(child.log)
    assert child.stop(timeout=0.2) == -signal.SIGKILL


def test_a_child_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    child = ChildProcess(["sleep", "60"], log=tmp_path / "log")
    thread = threading.Thread(target=child.start)
    thread.start()
    thread.join()
    time.sleep(0.1)
    assert child.running
    child.kill()


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "sys.exit(0)"], ids=["killed", "forgetful"])
def test_no_child_outlives_its_parent(tmp_path: Path, end: str) -> None:
    code = f"""
import os, sys
from pathlib import Path
from acme_milter.lab.processes import ChildProcess, wait_until
child = ChildProcess(["sleep", "60"], log=Path({str(tmp_path / "log")!r}))
child.start()
# The kernel's promise holds from the moment that setpriv has become the program.
comm = Path("/proc") / str(child.pid) / "comm"
wait_until(lambda: comm.read_text() == "sleep\\n", "setpriv to become sleep")
print(child.pid, flush=True)
{end}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    wait_until(lambda: not is_alive(int(done.stdout)), "the child's end", timeout=2)


def test_a_program_that_does_not_exist_says_so(tmp_path: Path) -> None:
    child = ChildProcess(["/nonexistent/program"], log=tmp_path / "log")
    child.start()
    assert child.wait(5) == 127
    assert "/nonexistent/program" in child.log_tail()


def test_waiting_in_vain_names_what_was_waited_for() -> None:
    with pytest.raises(ProcessFault, match=r"waited 0\.05 s for the moon"):
        wait_until(lambda: False, "the moon", timeout=0.05)


def test_free_ports_can_be_listened_on() -> None:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as listener:
            listener.bind(("127.0.0.1", free_port(kind)))


def test_an_ended_child_can_be_started_again(tmp_path: Path) -> None:
    child = ChildProcess(["true"], log=tmp_path / "log")
    for _ in range(2):
        child.start()
        assert child.wait(5) == 0
    assert child.stop() == 0
    assert os.path.lexists(child.log)
