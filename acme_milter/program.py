# SPDX-License-Identifier: GPL-3.0-or-later
"""Run another program for what it prints, within bounds: of time, of output, of what it gets to see of ours."""

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MAX_OUTPUT = 64 * 1024 * 1024
MAX_ERRORS = 64 * 1024
"""Octets of standard error that are kept; the rest is read and dropped, so that the program never blocks on it."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CHUNK = 65536
_PAUSE = 0.005


class ProgramFault(Exception):
    """The program did not come to an end of its own; the text says what happened and begins with its name."""

    safe_text = True


class ProgramAbsent(ProgramFault):
    """There is no such program."""


class _Waited:
    """The process groups of the programs that are waited for.

    Each is known by its leader, whose number is his only until his end is collected: before that it leaves here.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._killed: dict[int, bool] = {}

    def add(self, leader: int) -> None:
        with self._lock:
            self._killed[leader] = False

    def end(self, leader: int) -> bool:
        """Kill what is left of it, and wait for it no more; whether `end_all` has killed it before."""
        with self._lock:
            _kill(leader)
            return self._killed.pop(leader)

    def end_all(self) -> int:
        with self._lock:
            for leader in self._killed:
                self._killed[leader] = True
                _kill(leader)
            return len(self._killed)


def _kill(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


_waited = _Waited()


def end_programs() -> int:
    """Kill every program that is being run, with everything it started, and return how many there were.

    For the end of a process that would leave them behind. Whoever waits for one gets ProgramFault.
    """
    return _waited.end_all()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the program ended: its exit status, negative for a signal, and what it printed."""

    status: int
    output: bytes
    errors: bytes

    @property
    def ending(self) -> str:
        """`exit status 1` or `signal SIGSEGV`."""
        if self.status >= 0:
            return f"exit status {self.status}"
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-self.status).name}"
        return f"signal {-self.status}"

    def error_lines(self) -> list[str]:
        """The lines of standard error that are not blank."""
        return [line for line in self.errors.decode("utf-8", "replace").splitlines() if line.strip()]


def run_program(
    argv: Sequence[str],
    *,
    timeout: float,
    given: bytes = b"",
    max_output: int = MAX_OUTPUT,
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """Run `argv` without a shell and return how it ended, whatever its exit status.

    It gets `given` on standard input, PATH, LANG, HOME and `environment` as its whole environment, and `/` as working
    directory. After `timeout` seconds, or when it printed more than `max_output` octets, it is killed with everything
    it started, and so it is by `end_programs`. Raises ProgramFault for that, and when it cannot be started.
    """
    # A file, not a pipe: a program that does not read cannot make us wait. In memory: it may hold a password.
    with os.fdopen(os.memfd_create("given"), "w+b") as standard_input:
        standard_input.write(given)
        standard_input.seek(0)
        try:
            process = subprocess.Popen(
                argv,
                stdin=standard_input,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",
                env=_environment(environment or {}),
                start_new_session=True,
            )
        except FileNotFoundError:
            raise ProgramAbsent(f"{argv[0]} is not installed") from None
        except OSError as error:
            raise ProgramFault(f"{argv[0]} cannot be started: {error.strerror}") from None
    with process:
        _waited.add(process.pid)
        try:
            output, errors = _collect(process, time.monotonic() + timeout, max_output)
        except _OutOfBounds as bound:
            why = f"printed more than {max_output} octets" if bound.too_much else f"still ran after {timeout:g} s"
            raise ProgramFault(f"{argv[0]} {why} and was killed") from None
        finally:
            # Whatever is left of its session: a child that keeps working for nobody, or all of it.
            killed = _waited.end(process.pid)
        if killed and process.wait() == -signal.SIGKILL:
            raise ProgramFault(f"{argv[0]} still ran when acme-milter was stopped, and was killed")
        return Outcome(process.wait(), output, errors)


class _OutOfBounds(Exception):
    def __init__(self, *, too_much: bool) -> None:
        super().__init__()
        self.too_much = too_much


def _collect(process: subprocess.Popen[bytes], give_up: float, max_output: int) -> tuple[bytes, bytes]:
    assert process.stdout is not None
    assert process.stderr is not None
    output, errors = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, output)
        selector.register(process.stderr, selectors.EVENT_READ, errors)
        while selector.get_map():
            ready = selector.select(max(give_up - time.monotonic(), 0))
            if not ready:
                raise _OutOfBounds(too_much=False)
            for key, _ in ready:
                chunk = os.read(key.fd, _CHUNK)
                if not chunk:
                    selector.unregister(key.fileobj)
                elif key.data is output or len(errors) < MAX_ERRORS:
                    key.data.extend(chunk)
            if len(output) > max_output:
                raise _OutOfBounds(too_much=True)
    # Not process.wait(): while its end is not collected, its number cannot become that of a group we must not kill.
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > give_up:  # it closed its output and stays
            raise _OutOfBounds(too_much=False)
        time.sleep(_PAUSE)
    return bytes(output), bytes(errors)


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    # Not ours as it is: it may hold credentials, and MAIL_CONFIG or LD_PRELOAD of whoever started us.
    return {"PATH": PATH, "LANG": "C.UTF-8", "HOME": os.environ.get("HOME", "/"), **more}
