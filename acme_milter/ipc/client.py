# SPDX-License-Identifier: GPL-3.0-or-later
"""The asking side of a unix socket: a small pool of connections that any number of threads may share."""

import contextlib
import socket
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from acme_milter.ipc.frames import FrameError, receive_frame, send_frame

_IDLE_CONNECTIONS = 16


class PeerUnavailable(Exception):
    """The server is absent, refuses us, is too slow or answers nonsense. Trying again may help."""

    safe_text = True
    temporary = True


class PeerForbidden(PeerUnavailable):
    """The server's socket is not for this user."""


class _Gone(Exception):
    """The connection ended before the first octet of an answer."""


class FrameClient:
    """Asks the server at `path`. `timeout` (seconds) bounds one whole call, reconnecting included."""

    def __init__(self, path: Path, timeout: float) -> None:
        self._path = path
        self._timeout = timeout
        self._idle: deque[socket.socket] = deque()

    def call(
        self, header: Mapping[str, object], body: bytes = b"", *, descriptor: int | None = None
    ) -> tuple[dict[str, object], bytes]:
        """Send one request, return (header, body) of its answer. Any thread may call.

        A request is sent a second time, on a new connection, when a pooled one turns out to be dead: a server
        that was killed between acting and answering sees it twice. Raises PeerUnavailable; FrameError when
        the request itself is too large or cannot be written as JSON. One with an open file's `descriptor` is
        never sent twice: what the server has done to the file cannot be undone.
        """
        deadline = time.monotonic() + self._timeout
        pooled = self._pooled() if descriptor is None else None
        if pooled is not None:
            # A server that was restarted leaves a pool of dead connections: the second try never takes
            # another one.
            with contextlib.suppress(_Gone):
                return self._ask(pooled, header, body, deadline)
            self.close()
        try:
            return self._ask(self._connect(deadline), header, body, deadline, descriptor)
        except _Gone:
            raise PeerUnavailable(f"{self._path}: the connection was closed without an answer") from None

    def close(self) -> None:
        """Close the idle connections. A later call opens new ones."""
        while (connection := self._pooled()) is not None:
            connection.close()

    def __enter__(self) -> "FrameClient":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _pooled(self) -> socket.socket | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _connect(self, deadline: float) -> socket.socket:
        try:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:  # no descriptor left
            raise PeerUnavailable(f"no socket to ask with: {error.strerror or error}") from None
        try:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            connection.connect(str(self._path))
        except TimeoutError:
            connection.close()
            raise PeerUnavailable(f"{self._path}: no connection in time") from None
        except PermissionError:
            connection.close()
            raise PeerForbidden(f"{self._path}: permission denied") from None
        except OSError as error:
            connection.close()
            raise PeerUnavailable(f"{self._path}: {error.strerror or error}") from None
        except BaseException:
            connection.close()
            raise
        return connection

    def _ask(
        self,
        connection: socket.socket,
        header: Mapping[str, object],
        body: bytes,
        deadline: float,
        descriptor: int | None = None,
    ) -> tuple[dict[str, object], bytes]:
        """One request and answer; afterwards the connection is in the pool, or closed."""
        reusable = False
        try:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            send_frame(connection, header, body, descriptor=descriptor)
            answer = _first_answer(connection, deadline)
            reusable = True
        except (BrokenPipeError, ConnectionResetError):
            raise _Gone from None
        except TimeoutError:
            raise PeerUnavailable(f"{self._path}: no answer within {self._timeout:g} s") from None
        except OSError as error:
            raise PeerUnavailable(f"{self._path}: {error.strerror or error}") from None
        finally:
            if reusable and len(self._idle) < _IDLE_CONNECTIONS:
                self._idle.append(connection)
            else:
                connection.close()
        return answer


def _first_answer(connection: socket.socket, deadline: float) -> tuple[dict[str, object], bytes]:
    try:
        answer = receive_frame(connection, deadline=deadline)
    except FrameError as error:
        raise PeerUnavailable(f"the answer is no frame: {error}") from None
    if answer is None:
        raise _Gone
    return answer
