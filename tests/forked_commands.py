# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands of acme-milter in processes of their own, forked from one that has imported what commands need.

Imports are most of what a command's process does, and the tests run hundreds of them. All else is as ever: arguments,
standard streams, exit status, no state from the command before. That each module can be imported first, and which ones
a command does without, is for other tests, which start Python anew.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from acme_milter.lab.system import Lab as WholeLab

_NUMBER = struct.Struct("i")
_LONGEST_MESSAGE = 1 << 16
_ROOMS = ("cli", "report", "store")
_NOT_COMMANDS = ("acme_milter.cli.demo", "acme_milter.cli.testca", "acme_milter.store.migrations")


class Lab(WholeLab):
    """A laboratory whose commands are forked."""

    def run_command(self, *arguments: str, timeout: float = 120, given: str = "") -> subprocess.CompletedProcess[str]:
        """As its base does; `given` is what the command finds on standard input."""
        return run_forked(self.command(*arguments), given=given, timeout=timeout)


def run_forked(
    command: Sequence[str], *, given: str = "", timeout: float = 60, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` with its output captured as text. `command` is `python -m acme_milter` and the arguments;
    `environment` is what is added to ours.
    """
    assert list(command[:3]) == [sys.executable, "-m", "acme_milter"], command
    host = _host()
    more = dict(environment or {})
    ours = all(name.startswith("ACME_MILTER_") for name in more)
    if ours and host.surroundings == _surroundings():
        return host.run(command, given, timeout, more)
    # Python and its libraries have looked at it when they started.
    return subprocess.run(
        command,
        input=given,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=os.environ | more,
    )


@functools.cache
def _host() -> "_Host":
    return _Host()


def _surroundings() -> tuple[str, dict[str, str]]:
    return str(Path.cwd()), {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}


class _Host:
    """The process that forks. It ends when we do, since then the other end of its socket is closed."""

    def __init__(self) -> None:
        self.surroundings = _surroundings()
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # -P: or the directory of this file would be searched for modules.
            argv = [sys.executable, "-P", __file__, str(theirs.fileno())]
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        atexit.register(self._end)

    def run(
        self, command: Sequence[str], given: str, timeout: float, environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        with contextlib.ExitStack() as stack:
            streams = [stack.enter_context(os.fdopen(os.memfd_create(name), "w+b")) for name in ("in", "out", "err")]
            streams[0].write(given.encode())
            streams[0].seek(0)
            told, tell = os.pipe()
            answer = stack.enter_context(os.fdopen(told, "rb", buffering=0)).fileno()
            with self._lock, os.fdopen(tell):
                fds = [*(stream.fileno() for stream in streams), tell]
                socket.send_fds(self._control, [json.dumps([command[3:], environment]).encode()], fds)
            pid = _next_number(answer, time.monotonic() + 60)
            try:
                status = _next_number(answer, time.monotonic() + timeout)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(command, timeout) from None
            for stream in streams:
                stream.seek(0)
            code = os.waitstatus_to_exitcode(status)
            return subprocess.CompletedProcess(
                list(command), code, streams[1].read().decode(), streams[2].read().decode()
            )

    def _end(self) -> None:
        self._control.close()
        self._process.wait()


def _next_number(answer: int, deadline: float) -> int:
    ready, _, _ = select.select([answer], [], [], max(deadline - time.monotonic(), 0))
    if not ready:
        raise TimeoutError
    number: int = _NUMBER.unpack(os.read(answer, _NUMBER.size))[0]
    return number


def _import_what_commands_need() -> None:
    for room in _ROOMS:
        package = importlib.import_module(f"acme_milter.{room}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.startswith(_NOT_COMMANDS):
                importlib.import_module(module.name)


def _become_a_command(control: socket.socket) -> list[str]:
    """Fork for each request; what returns is the fork, with the arguments of its command."""
    running: dict[int, tuple[int, int]] = {}
    poll = select.poll()
    poll.register(control, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready in running:
                poll.unregister(ready)
                pid, tell = running.pop(ready)
                os.write(tell, _NUMBER.pack(os.waitpid(pid, 0)[1]))
                os.close(tell)
                os.close(ready)
                continue
            message, fds, _, _ = socket.recv_fds(control, _LONGEST_MESSAGE, 4)
            if not message:
                os._exit(0)
            *streams, tell = fds
            pid = os.fork()
            if pid == 0:
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                control.close()
                for fd in (*fds, *running, *(tell for _, tell in running.values())):
                    os.close(fd)
                arguments: list[str]
                arguments, environment = json.loads(message)
                os.environ.update(environment)
                return arguments
            for stream in streams:
                os.close(stream)
            os.write(tell, _NUMBER.pack(pid))
            pidfd = os.pidfd_open(pid)
            running[pidfd] = (pid, tell)
            poll.register(pidfd, select.POLLIN)


def main() -> None:
    """Be the host, and then, in a fork of it, a command."""
    _import_what_commands_need()
    gc.freeze()
    from acme_milter.cli.main import main as command

    sys.argv[1:] = _become_a_command(socket.socket(fileno=int(sys.argv[1])))
    command()


if __name__ == "__main__":
    main()
