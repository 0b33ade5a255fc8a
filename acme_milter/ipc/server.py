# SPDX-License-Identifier: GPL-3.0-or-later
"""The answering side of a unix socket: a bounded number of threads for any number of idle connections.

All threads wait on one epoll set in which every connection is armed for one event at a time. The thread that
wakes reads the request, answers it and arms the connection again, so that no request is handed from thread to
thread, and a peer that keeps connections open without using them costs no thread.
"""

import contextlib
import errno
import os
import select
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from acme_milter.ipc.frames import FrameError, receive_frame, send_frame
from acme_milter.lock_file import LockHeld, LockUnsafe, locked_file

Handler = Callable[[dict[str, object], bytes], tuple[dict[str, object], bytes]]
FileHandler = Callable[[dict[str, object], bytes, int], tuple[dict[str, object], bytes]]

PEER_UID = "peer_uid"
"""The member of a header that says whose request it is, where a server was made to say so."""

_MAX_CONNECTIONS = 1024
_FRAME_SECONDS = 10.0  # for the rest of a frame once its first octet is there, and for writing the answer
_LOCK_SECONDS = 5.0  # another server that starts needs far less
_UCRED = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid


class AddressInUse(Exception):
    """The path belongs to a live server, or is not a socket at all, or its lock cannot be had."""

    safe_text = True


class FrameServer:
    """Answers frames on a unix stream socket.

    `handle` takes (header, body) and returns the answer's; it runs in up to `threads` threads at once. Its
    exceptions are answered {"error": "internal"} and given to `on_error`; they never end the server.
    `handle_file` takes a request that came with an open file, and its descriptor, which is closed afterwards; without
    it the kernel closes such files unseen. `peer_allowed` is asked with the user id of each new connection's process
    (SO_PEERCRED); a connection it does not allow is closed unread. With `tell_peer` each header has that user id under
    PEER_UID, whatever the peer wrote there.
    """

    def __init__(
        self,
        path: Path,
        mode: int,
        handle: Handler,
        *,
        threads: int,
        handle_file: FileHandler | None = None,
        on_error: Callable[[Exception], None] | None = None,
        peer_allowed: Callable[[int], bool] | None = None,
        tell_peer: bool = False,
    ) -> None:
        if threads < 1:
            raise ValueError("a server needs a thread")
        self._path = path
        self._mode = mode
        self._handle = handle
        self._handle_file = handle_file
        self._on_error = on_error
        self._peer_allowed = peer_allowed
        self._tell_peer = tell_peer
        self._thread_count = threads
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._connections: dict[int, socket.socket] = {}
        self._stopping = threading.Event()
        self._epoll: select.epoll | None = None
        self._wake = -1
        self._listener: socket.socket | None = None
        self._identity: tuple[int, int] | None = None

    def start(self) -> None:
        """Listen and return. Raises AddressInUse when the path is taken, OSError when it cannot be made."""
        self._listener, self._identity = _listen(self._path, self._mode)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._wake, select.EPOLLIN)  # level-triggered: it wakes every thread
        self._epoll.register(self._listener, select.EPOLLIN | select.EPOLLONESHOT)
        # A new event each time: a handler that outlived the last stop() must not take up work again.
        self._stopping = stopping = threading.Event()
        run = partial(self._run, self._epoll, self._listener, stopping)
        self._threads = [
            threading.Thread(target=run, name=f"frames-{self._path.name}-{number}", daemon=True)
            for number in range(self._thread_count)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self, grace: float = 5.0) -> None:
        """Take no more requests, give running handlers `grace` seconds, close everything, remove the socket.

        A handler that needs longer is left to its (daemon) thread: its answer is lost, as it would be by a
        crash.
        """
        if self._listener is None or self._epoll is None:
            return
        self._stopping.set()
        os.eventfd_write(self._wake, 1)
        self._remove_socket_file()
        self._listener.close()
        deadline = time.monotonic() + grace
        with self._lock:
            idle_or_busy = list(self._connections.values())
        for connection in idle_or_busy:
            # Ends a read of a frame that is still arriving; an answer can still be written.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            for connection in self._connections.values():
                connection.close()
            self._connections.clear()
        self._epoll.close()
        os.close(self._wake)
        self._listener = None

    def __enter__(self) -> "FrameServer":
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _remove_socket_file(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            found = self._path.lstat()
            if (found.st_dev, found.st_ino) == self._identity:
                self._path.unlink()

    def _run(self, epoll: select.epoll, listener: socket.socket, stopping: threading.Event) -> None:
        listener_fd = listener.fileno()
        while not stopping.is_set():
            for fd, _ in epoll.poll(maxevents=1):
                if stopping.is_set():
                    return
                if fd == listener_fd:
                    self._accept(epoll, listener)
                else:
                    self._serve(epoll, fd)

    def _accept(self, epoll: select.epoll, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            connection = None
        except OSError as error:
            # ECONNABORTED and their like concern one peer; without descriptors a short rest is all there is
            # to do.
            connection = None
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                time.sleep(0.1)
        if connection is not None:
            self._admit(epoll, connection)
        # stop() may have closed the listener meanwhile.
        with contextlib.suppress(OSError, ValueError):
            epoll.modify(listener, select.EPOLLIN | select.EPOLLONESHOT)

    def _admit(self, epoll: select.epoll, connection: socket.socket) -> None:
        allowed = self._is_allowed(connection)
        with self._lock:
            if not allowed or self._stopping.is_set() or len(self._connections) >= _MAX_CONNECTIONS:
                connection.close()
                return
            self._connections[connection.fileno()] = connection
        epoll.register(connection, select.EPOLLIN | select.EPOLLONESHOT)

    def _is_allowed(self, connection: socket.socket) -> bool:
        if self._peer_allowed is None:
            return True
        try:
            return self._peer_allowed(_peer_uid(connection))
        except Exception as error:  # noqa: BLE001 as for a handler: a doubt refuses the peer, not the service
            self._report(error)
            return False

    def _serve(self, epoll: select.epoll, fd: int) -> None:
        with self._lock:
            connection = self._connections.get(fd)
        if connection is None:
            return
        try:
            keep = self._answer_one(connection)
            if keep:
                epoll.modify(fd, select.EPOLLIN | select.EPOLLONESHOT)
        except (OSError, FrameError, ValueError):
            # A peer that vanished, was too slow or sent no frame; ValueError: stop() closed the epoll set.
            keep = False
        if not keep:
            with self._lock:
                if self._connections.get(fd) is connection:
                    del self._connections[fd]
                    connection.close()

    def _answer_one(self, connection: socket.socket) -> bool:
        files: list[int] | None = None if self._handle_file is None else []
        try:
            return self._answer_with(connection, files)
        finally:
            for file in files or ():
                os.close(file)

    def _answer_with(self, connection: socket.socket, files: list[int] | None) -> bool:
        request = receive_frame(connection, deadline=time.monotonic() + _FRAME_SECONDS, descriptors=files)
        if request is None:
            return False
        if self._tell_peer:
            request[0][PEER_UID] = _peer_uid(connection)
        answer: dict[str, object]
        try:
            if files and self._handle_file is not None:
                answer, body = self._handle_file(*request, files[0])
            else:
                answer, body = self._handle(*request)
        except Exception as error:  # noqa: BLE001 the edge of the server: it outlives any fault of a handler
            self._report(error)
            answer, body = {"error": "internal"}, b""
        connection.settimeout(_FRAME_SECONDS)
        try:
            send_frame(connection, answer, body)
        except FrameError as error:
            self._report(error)
            send_frame(connection, {"error": "internal"})
        return True

    def _report(self, error: Exception) -> None:
        if self._on_error is not None:
            self._on_error(error)


def _peer_uid(connection: socket.socket) -> int:
    """Whose process connected, as the kernel noted it then."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    uid: int = _UCRED.unpack(credentials)[1]
    return uid


def _listen(path: Path, mode: int) -> tuple[socket.socket, tuple[int, int]]:
    """A listening socket at `path`, and the (device, inode) of its file."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Of two servers that start together, the second must see the first one live, not its stale
        # predecessor.
        with _locked(directory, path):
            _clear_stale(path)
            return _bound(path, mode)
    finally:
        os.close(directory)


@contextmanager
def _locked(directory: int, path: Path) -> Iterator[None]:
    lock = path.with_name(f".{path.name}.lock")
    try:
        held = locked_file(directory, lock, _LOCK_SECONDS)
    except LockHeld as fault:
        raise AddressInUse(f"{fault}; see which: fuser -v {lock}") from None
    except LockUnsafe as fault:
        raise AddressInUse(str(fault)) from None
    try:
        yield
    finally:
        # Or a role that was once tried as root would leave a file that its own user cannot open.
        with contextlib.suppress(OSError):
            os.unlink(lock.name, dir_fd=directory)
        os.close(held)


def _bound(path: Path, mode: int) -> tuple[socket.socket, tuple[int, int]]:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # On Linux the file takes the unbound socket's mode: at no moment is it more open than asked for.
        os.fchmod(listener.fileno(), mode)
        listener.bind(str(path))
        path.chmod(mode)
        listener.listen(128)
        listener.setblocking(False)
        made = path.lstat()
    except BaseException:  # Ctrl-C included: nothing stays open
        listener.close()
        raise
    return listener, (made.st_dev, made.st_ino)


def _clear_stale(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise AddressInUse(f"{path} exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # its queue of connections is full: it lives
    raise AddressInUse(f"{path} belongs to a running server")
