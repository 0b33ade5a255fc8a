# SPDX-License-Identifier: GPL-3.0-or-later
"""Child processes that end with us, however we end.

Each child leads a session of its own, so that `stop` reaches whatever it has started; it is killed by the kernel when
this process dies without saying so (PR_SET_PDEATHSIG), and by `atexit` when this process merely forgets.
"""

import atexit
import contextlib
import os
import queue
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

# Below Linux's range for outgoing connections (net.ipv4.ip_local_port_range begins at 32768), so that no client's
# port can take a listener's between the moment we choose it and the moment the program binds it.
_PORTS = range(12000, 32000)


class ProcessFault(Exception):
    """A program did not start, did not become ready or did not stop; the text says which and shows its last output."""

    safe_text = True


class _Spawner(threading.Thread):
    """The one thread that starts every child.

    The kernel sends the parent-death signal when the *thread* that forked ends, not the process; a child started from a
    short-lived thread would die with that thread.
    """

    def __init__(self) -> None:
        super().__init__(name="lab-spawner", daemon=True)
        self._orders: queue.SimpleQueue[
            tuple[Callable[[], subprocess.Popen[bytes]], Future[subprocess.Popen[bytes]]]
        ] = queue.SimpleQueue()

    def run(self) -> None:
        while True:
            start, answer = self._orders.get()
            try:
                answer.set_result(start())
            except OSError as exc:
                answer.set_exception(exc)

    def spawn(self, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        answer: Future[subprocess.Popen[bytes]] = Future()
        self._orders.put((start, answer))
        return answer.result()


_spawner: _Spawner | None = None
_spawner_lock = threading.Lock()


def _the_spawner() -> _Spawner:
    global _spawner  # noqa: PLW0603 - one per process is the point of it
    with _spawner_lock:
        if _spawner is None:
            _spawner = _Spawner()
            _spawner.start()
        return _spawner


class ChildProcess:
    """One program with its output in a file.

    `argv` is never given to a shell. `log` receives standard output and error, appended. `env` replaces the whole
    environment when given.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        name: str | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name or Path(argv[0]).name
        self.log = log
        self._argv = list(argv)
        self._cwd = cwd
        self._env = dict(env) if env is not None else None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; raises ProcessFault when it was never started."""
        if self._process is None:
            raise ProcessFault(f"{self.name} was not started")
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs or before it was started."""
        return None if self._process is None else self._process.poll()

    @property
    def running(self) -> bool:
        """True between a start and its end."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the program; raises ProcessFault when it cannot be executed or is running already."""
        if self.running:
            raise ProcessFault(f"{self.name} is running already")
        # setpriv sets the signal and then becomes the program, which needs no code between fork and exec.
        argv = ["setpriv", "--pdeathsig", "KILL", "--", *self._argv]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            try:
                self._process = _the_spawner().spawn(
                    lambda: subprocess.Popen(
                        argv,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        cwd=self._cwd,
                        env=self._env,
                        start_new_session=True,
                    )
                )
            except OSError as exc:
                raise ProcessFault(f"{self.name} cannot be started: {exc.strerror}") from exc
        atexit.register(self.stop, 1.0)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program alone; silent when it has ended."""
        if self.running:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the program and everything in its session at once, as a crash would."""
        if self._process is None:
            return
        self._kill_group()
        self._process.wait()

    def stop(self, timeout: float = 8.0) -> int | None:
        """SIGTERM, at most `timeout` seconds of patience, then SIGKILL for whatever is left; the exit status."""
        atexit.unregister(self.stop)
        if self._process is None:
            return None
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        self._kill_group()
        return self._process.wait()

    def wait(self, timeout: float) -> int:
        """Wait for the program's own end; raises ProcessFault after `timeout` seconds."""
        if self._process is None:
            raise ProcessFault(f"{self.name} was not started")
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired as exc:
            raise ProcessFault(f"{self.name} still runs after {timeout:g} s") from exc

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of its output, for an error text."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _kill_group(self) -> None:
        """SIGKILL to the session's process group until no member of it is alive any more."""
        assert self._process is not None
        give_up = time.monotonic() + 2.0
        while time.monotonic() < give_up:
            self._process.poll()
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                return
            # A group also answers for its dead whom their new parent has not collected yet, which may take seconds.
            if not _has_living_member(self._process.pid):
                return
            time.sleep(0.005)


def _has_living_member(group: int) -> bool:
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name before the last parenthesis may hold anything; state, parent and group follow it.
            state, _, member_of = status.read_text(errors="replace").rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue  # it ended while we looked
        if int(member_of) == group and state not in {"Z", "X"}:
            return True
    return False


def wait_until(condition: Callable[[], bool], what: str, *, timeout: float = 10.0, pause: float = 0.01) -> None:
    """Return as soon as `condition` holds; raises ProcessFault naming `what` after `timeout` seconds."""
    give_up = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > give_up:
            raise ProcessFault(f"waited {timeout:g} s for {what}")
        time.sleep(pause)


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port on 127.0.0.1 that nobody listens on now, outside the range of outgoing connections."""
    for port in random.sample(_PORTS, 200):
        with socket.socket(socket.AF_INET, kind) as probe:
            if kind is socket.SOCK_STREAM:
                # As the programs themselves do; a listener's connections in TIME_WAIT are no obstacle.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ProcessFault("no free port on 127.0.0.1")


def accepts_connections(host: str, port: int) -> bool:
    """True when something listens on that TCP port."""
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False
