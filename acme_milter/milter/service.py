# SPDX-License-Identifier: GPL-3.0-or-later
"""The milter role as a process: its socket, its processor, its signals."""

import contextlib
import gc
import os
import resource
import signal
import socket as sockets
import stat
import threading
import time
from pathlib import Path
from typing import Literal

from acme_milter.eventlog import Event, log_event, log_exception
from acme_milter.ipc.client import FrameClient
from acme_milter.milter.edge import Edge, LibmilterError, run_libmilter
from acme_milter.milter.intake_client import IntakeClient
from acme_milter.milter.managed_index import IndexRefresher, ManagedIndex

_INDEX_CALL_SECONDS = 5.0
_LAST_ANSWERS_SECONDS = 3.0
_UMASK = 0o077


class SocketUnusable(Exception):
    """The milter's socket cannot be opened where the configuration puts it."""

    safe_text = True


def run_milter(
    *,
    socket: str,
    socket_mode: int,
    intake_socket: Path,
    cpu: int | Literal["auto"] | None,
    deadline: float,
) -> None:
    """Serve Postfix until SIGTERM or SIGINT; call it in the main thread, with logging configured.

    `socket` is `unix:/path`, `local:/path` or `inet:port@host`; `cpu` the processor to stay on ("auto" chooses one);
    `deadline` the seconds that the worker has for one candidate. Raises SystemExit(1) when the socket cannot be opened.
    """
    _take_descriptors()
    pinned_to = _pin(cpu)
    index = ManagedIndex(FrameClient(intake_socket, timeout=_INDEX_CALL_SECONDS).call)
    intake = IntakeClient(intake_socket, deadline)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    index.refresh()
    path = _socket_path(socket)
    try:
        _open(Edge(index, intake.decide), socket, path, socket_mode)
    except SocketUnusable as exc:
        log_exception(Event.ROLE_DIED, exc, role="milter")
        raise SystemExit(1) from None
    _settle_memory()
    IndexRefresher(index).start()
    # libmilter takes SIGTERM with sigwait(2) in a thread of its own, and then needs up to 5 seconds to notice. The
    # kernel gives a process's signals to its main thread first, so that one stays ours and libmilter runs in another.
    failed = threading.Event()
    threading.Thread(target=_serve, args=(ended, failed), name="libmilter", daemon=True).start()
    log_event(Event.ROLE_READY, role="milter", socket=socket, cpu=pinned_to, mailboxes=len(index.addresses or ()))
    ended.wait()
    _leave(path, intake, failed=failed.is_set())


def _serve(ended: threading.Event, failed: threading.Event) -> None:
    try:
        run_libmilter()
    except LibmilterError as exc:
        log_exception(Event.ROLE_DIED, exc, role="milter")
        failed.set()
    finally:
        ended.set()


def _leave(path: Path | None, intake: IntakeClient, *, failed: bool) -> None:
    """End at once, but for candidates in the worker's hands: their DISCARD must still reach Postfix."""
    if path is not None:
        path.unlink(missing_ok=True)  # a new connection is then refused, which Postfix answers with its default action
    give_up = time.monotonic() + _LAST_ANSWERS_SECONDS
    while intake.asking and time.monotonic() < give_up:
        time.sleep(0.02)
    time.sleep(0.02)  # for the answer itself to be written
    log_event(Event.ROLE_STOPPED, role="milter")
    # libmilter's threads cannot be ended from here; nothing of ours is left to be written or closed.
    os._exit(1 if failed else 0)


def _take_descriptors() -> None:
    """Each SMTP session holds one; the usual soft limit of 1024 is for programs that use select(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _pin(cpu: int | Literal["auto"] | None) -> int | None:
    """Stay on one processor: handing Python's lock between processors doubles the cost of a mail. Returns which."""
    if cpu is None:
        return None
    allowed = os.sched_getaffinity(0)
    if cpu != "auto" and cpu not in allowed:
        log_event(Event.MILTER_DEGRADED, reason="no-such-cpu", wanted=cpu)
    chosen = cpu if cpu != "auto" and cpu in allowed else max(allowed)
    try:
        os.sched_setaffinity(0, {chosen})
    except OSError as exc:
        # A sandbox that forbids it makes mail dearer, not impossible.
        log_exception(Event.MILTER_DEGRADED, exc, reason="cannot-pin")
        return None
    return chosen


def _settle_memory() -> None:
    """What start-up made stays: the collector need not look at it again for each few hundred mails."""
    gc.collect()
    gc.freeze()


def _socket_path(socket: str) -> Path | None:
    kind, _, rest = socket.partition(":")
    return Path(rest) if kind in {"unix", "local"} else None


def _open(edge: Edge, socket: str, path: Path | None, mode: int) -> None:
    """Open the socket with exactly `mode`; its group is its directory's when that has the setgid bit."""
    if path is not None:
        _clear(path)
    os.umask(0o777 & ~mode)
    try:
        edge.register(socket)
    except LibmilterError:
        raise SocketUnusable(f"{socket}: cannot be opened (address in use, or no permission)") from None
    finally:
        os.umask(_UMASK)


def _clear(path: Path) -> None:
    """Remove a stale socket, and nothing else. libmilter would also displace a running server's."""
    if not path.parent.is_dir():
        raise SocketUnusable(f"{path.parent} does not exist (see contrib/postfix)")
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise SocketUnusable(f"{path} exists and is not a socket")
    except FileNotFoundError:
        return
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # its queue of connections is full: it lives
        except OSError as problem:
            raise SocketUnusable(f"{path}: {problem.strerror}") from None
    raise SocketUnusable(f"{path} belongs to a running milter")
