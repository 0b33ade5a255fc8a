# SPDX-License-Identifier: GPL-3.0-or-later
"""The keyd process: keys in its memory, one unix socket, no way out of it."""

import ctypes
import os
import resource
import signal
import socket as sockets
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from acme_milter.eventlog import Event, log_event, log_exception
from acme_milter.ipc.server import FrameServer
from acme_milter.keys.algorithm import KeyAlgorithm
from acme_milter.keys.calls import Keyd
from acme_milter.keys.pool import DEFAULT_SIZES, KeyPool
from acme_milter.keys.wrapping_key import WrappingKey

__all__ = ["Keyd", "give_up_rights", "serve"]

_PR_SET_DUMPABLE = 4  # prctl(2)
_GRACE = 0.5


def serve(
    socket: Path,
    wrapping_key: WrappingKey,
    *,
    pool_sizes: Mapping[KeyAlgorithm, int] = DEFAULT_SIZES,
    threads: int = 8,
    mode: int = 0o600,
    peer_allowed: Callable[[int], bool] | None = None,
) -> None:
    """Answer on the unix socket until SIGTERM or SIGINT, then end within a second. For the main thread of a process.

    The process gives up core dumps, ptrace by its own user and every kind of socket but AF_UNIX, for good.
    `peer_allowed` is asked with each caller's user id. Raises AddressInUse, OSError when the socket cannot be made.
    """
    give_up_rights()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    pool = KeyPool(pool_sizes, on_error=_report)
    keyd = Keyd(wrapping_key, pool)
    handle = _logging_refusals(keyd)
    server = FrameServer(
        socket,
        mode,
        handle,
        threads=threads,
        handle_file=handle,
        on_error=_report,
        peer_allowed=peer_allowed,
    )
    server.start()
    pool.start()
    log_event(Event.ROLE_READY, role="keyd", socket=socket, wrapping_key=wrapping_key.id)
    stopping.wait()
    server.stop(_GRACE)
    idle = pool.stop()
    log_event(Event.ROLE_STOPPED, role="keyd")
    if not idle:
        # An RSA key is half made in OpenSSL. Python cannot end that thread in good order, and nobody waits for the
        # key.
        sys.stderr.flush()
        os._exit(0)


def give_up_rights() -> None:
    """No core dump, no /proc/PID/mem or ptrace for others of this user, no socket but AF_UNIX. Irrevocable.

    What Python code cannot be stopped from (a system call of native code), the systemd unit forbids.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE) failed")
    sys.addaudithook(_refuse_network)


def _refuse_network(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.__new__" and arguments[1] != sockets.AF_UNIX:
        raise PermissionError("keyd opens no socket but AF_UNIX")


class _Handler(Protocol):
    def __call__(
        self, header: dict[str, object], body: bytes, file: int | None = None, /
    ) -> tuple[dict[str, object], bytes]: ...


def _logging_refusals(keyd: Keyd) -> _Handler:
    def handle(header: dict[str, object], body: bytes, file: int | None = None, /) -> tuple[dict[str, object], bytes]:
        answer = keyd.handle(header, body, file)
        if "refused" in answer[0]:
            log_event(Event.KEYD_REFUSED, call=header.get("call"), reason=answer[0]["refused"])
        return answer

    return handle


def _report(error: Exception) -> None:
    log_exception(Event.INTERNAL_ERROR, error, role="keyd")
