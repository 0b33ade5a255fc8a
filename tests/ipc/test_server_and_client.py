# SPDX-License-Identifier: GPL-3.0-or-later
"""A server and its clients over a real unix socket."""

import contextlib
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from acme_milter.ipc.client import FrameClient, PeerUnavailable
from acme_milter.ipc.frames import MAX_FRAME, receive_frame, send_frame
from acme_milter.ipc.server import PEER_UID, AddressInUse, FrameServer
from acme_milter.lock_file import locked_file

Header = dict[str, object]


def _echo(header: Header, body: bytes) -> tuple[Header, bytes]:
    if header.get("call") == "fail":
        raise RuntimeError("the handler's own fault")
    if header.get("call") == "too-large":
        return {}, bytes(MAX_FRAME)
    if header.get("call") == "sleep":
        time.sleep(float(str(header["seconds"])))
    return {"echo": header}, body[::-1]


def _ask(path: Path, header: Header, timeout: float = 5) -> Header:
    with FrameClient(path, timeout) as client:
        return client.call(header)[0]


def test_many_calls_on_one_connection_are_answered(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with FrameServer(path, 0o600, _echo, threads=1), FrameClient(path, 5) as client:
        for number in range(50):
            assert client.call({"n": number}, b"ab") == ({"echo": {"n": number}}, b"ba")
        assert len(client._idle) == 1


def test_the_largest_frame_passes(tmp_path: Path) -> None:
    path = tmp_path / "s"
    body = os.urandom(MAX_FRAME - 64)
    with FrameServer(path, 0o600, _echo, threads=1), FrameClient(path, 5) as client:
        assert client.call({}, body)[1] == body[::-1]


def test_many_threads_share_a_client(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with FrameServer(path, 0o600, _echo, threads=4), FrameClient(path, 10) as client:
        with ThreadPoolExecutor(24) as pool:
            answers = list(pool.map(lambda n: client.call({"n": n}, str(n).encode())[0], range(400)))
        assert answers == [{"echo": {"n": n}} for n in range(400)]


def test_idle_connections_take_no_thread_from_the_busy_ones(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with FrameServer(path, 0o600, _echo, threads=2):
        idle = [socket.socket(socket.AF_UNIX) for _ in range(40)]
        for connection in idle:
            connection.connect(str(path))
        assert _ask(path, {"n": 1}) == {"echo": {"n": 1}}
        send_frame(idle[0], {"n": 2})
        assert receive_frame(idle[0]) == ({"echo": {"n": 2}}, b"")
        for connection in idle:
            connection.close()


def test_a_handler_that_fails_is_answered_and_reported_and_the_server_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "s"
    reported: list[Exception] = []
    server = FrameServer(path, 0o600, _echo, threads=1, on_error=reported.append)
    with server, FrameClient(path, 5) as client:
        assert client.call({"call": "fail"}) == ({"error": "internal"}, b"")
        assert client.call({"call": "too-large"}) == ({"error": "internal"}, b"")
        assert client.call({"n": 1}) == ({"echo": {"n": 1}}, b"")
    assert [type(error).__name__ for error in reported] == ["RuntimeError", "FrameError"]


def test_a_peer_that_sends_garbage_is_cut_off_and_others_are_served(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with FrameServer(path, 0o600, _echo, threads=1):
        with socket.socket(socket.AF_UNIX) as rude:
            rude.settimeout(5)
            rude.connect(str(path))
            rude.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):  # closed with our octets unread
                assert rude.recv(1) == b""
        assert _ask(path, {}) == {"echo": {}}


@pytest.mark.parametrize("mode", [0o600, 0o660])
def test_the_socket_has_the_mode_asked_for(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "s"
    with FrameServer(path, mode, _echo, threads=1):
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert not path.exists()


def test_a_live_socket_is_not_displaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with FrameServer(path, 0o600, _echo, threads=1):
        with pytest.raises(AddressInUse):
            FrameServer(path, 0o600, _echo, threads=1).start()
        assert _ask(path, {}) == {"echo": {}}


def test_a_file_that_is_no_socket_is_not_displaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("somebody's")
    with pytest.raises(AddressInUse, match="not a socket"):
        FrameServer(path, 0o600, _echo, threads=1).start()
    assert path.read_text() == "somebody's"


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def test_whoever_may_read_the_directory_cannot_keep_a_server_from_starting(tmp_path: Path) -> None:
    with _directory(tmp_path) as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with FrameServer(tmp_path / "s", 0o600, _echo, threads=1):
            assert _ask(tmp_path / "s", {}) == {"echo": {}}


def test_of_two_servers_that_start_together_one_waits_for_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acme_milter.ipc.server._LOCK_SECONDS", 0.0)
    lock = tmp_path / ".s.lock"
    with _directory(tmp_path) as place, os.fdopen(locked_file(place, lock, 0)):
        assert stat.S_IMODE(lock.stat().st_mode) == 0o600
        with pytest.raises(AddressInUse, match=f"{lock} is locked by another process"):
            FrameServer(tmp_path / "s", 0o600, _echo, threads=1).start()
    with FrameServer(tmp_path / "s", 0o600, _echo, threads=1):  # that a killed one has left the file is no matter
        assert [file.name for file in tmp_path.iterdir()] == ["s"]


def test_a_lock_that_is_another_users_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / ".s.lock"
    lock.touch(0o600)
    monkeypatch.setattr(os, "geteuid", lambda: lock.stat().st_uid + 1)
    with pytest.raises(AddressInUse, match=rf"{lock} is user {lock.stat().st_uid}'s, who could keep it locked; remove"):
        FrameServer(tmp_path / "s", 0o600, _echo, threads=1).start()


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with FrameServer(path, 0o600, _echo, threads=1):
        assert _ask(path, {}) == {"echo": {}}


def test_a_stopping_server_leaves_its_successors_socket_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    old = FrameServer(path, 0o600, _echo, threads=1)
    old.start()
    path.unlink()
    with FrameServer(path, 0o600, _echo, threads=1):
        old.stop()
        assert _ask(path, {}) == {"echo": {}}


def test_a_server_can_be_started_again_after_it_was_stopped(tmp_path: Path) -> None:
    path = tmp_path / "s"
    server = FrameServer(path, 0o600, _echo, threads=2)
    for _ in range(3):
        server.start()
        assert _ask(path, {}) == {"echo": {}}
        server.stop()
        server.stop()


@pytest.mark.parametrize("prepare", [lambda path: None, lambda path: path.write_text("x")])
def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path, prepare: Callable[[Path], None]) -> None:
    path = tmp_path / "s"
    prepare(path)
    with pytest.raises(PeerUnavailable):
        _ask(path, {})


def test_an_answer_that_takes_too_long_is_unavailable_at_the_deadline(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with FrameServer(path, 0o600, _echo, threads=1):
        begun = time.monotonic()
        with pytest.raises(PeerUnavailable, match=r"within 0\.1 s"):
            _ask(path, {"call": "sleep", "seconds": 1.5}, timeout=0.1)
        assert time.monotonic() - begun < 1.2


def test_an_answer_that_comes_late_is_not_taken_for_the_next_calls(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with FrameServer(path, 0o600, _echo, threads=2), FrameClient(path, 0.2) as client:
        client.call({"n": 0})
        with pytest.raises(PeerUnavailable):
            client.call({"call": "sleep", "seconds": 0.3})
        time.sleep(0.2)
        assert client.call({"n": 2})[0] == {"echo": {"n": 2}}


def test_a_client_finds_a_restarted_server_without_an_error(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with FrameClient(path, 5) as client:
        for _ in range(3):
            with FrameServer(path, 0o600, _echo, threads=4), ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda n: client.call({"call": "sleep", "seconds": 0.02, "n": n}), range(4)))
                assert client.call({})[0] == {"echo": {}}


def test_a_fresh_connection_that_is_closed_unanswered_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with (
        FrameServer(path, 0o600, _echo, threads=1, peer_allowed=lambda uid: uid != os.getuid()),
        pytest.raises(PeerUnavailable),
    ):
        _ask(path, {})


def test_the_peers_user_is_what_the_kernel_says(tmp_path: Path) -> None:
    path = tmp_path / "s"
    seen: list[int] = []

    def allowed(uid: int) -> bool:
        seen.append(uid)
        return True

    with FrameServer(path, 0o600, _echo, threads=1, peer_allowed=allowed):
        _ask(path, {})
    assert seen == [os.getuid()]


def test_a_handler_is_told_the_peers_user_whatever_the_peer_says(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with FrameServer(path, 0o600, _echo, threads=1, tell_peer=True):
        assert _ask(path, {PEER_UID: 4711}) == {"echo": {PEER_UID: os.getuid()}}
        assert _ask(path, {}) == {"echo": {PEER_UID: os.getuid()}}


def test_an_answer_that_is_no_frame_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                receive_frame(connection)
                connection.sendall(b"\xff" * 64)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(PeerUnavailable, match="no frame"):
            _ask(path, {})
        thread.join()


def test_a_handler_running_at_the_stop_still_answers_within_the_grace(tmp_path: Path) -> None:
    path = tmp_path / "s"
    server = FrameServer(path, 0o600, _echo, threads=1)
    server.start()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(_ask, path, {"call": "sleep", "seconds": 0.3})
        time.sleep(0.1)
        server.stop(grace=5)
        assert "echo" in answer.result()


def test_a_stop_waits_no_longer_than_the_grace(tmp_path: Path) -> None:
    path = tmp_path / "s"
    server = FrameServer(path, 0o600, _echo, threads=1)
    server.start()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(_ask, path, {"call": "sleep", "seconds": 1.5})
        time.sleep(0.1)
        begun = time.monotonic()
        server.stop(grace=0.1)
        assert time.monotonic() - begun < 1.2
        with pytest.raises(PeerUnavailable):
            answer.result()


_SERVER = """
import sys, time, pathlib
from acme_milter.ipc.server import FrameServer
FrameServer(pathlib.Path(sys.argv[1]), 0o600, lambda header, body: (header, body), threads=2).start()
print("ready", flush=True)
time.sleep(60)
"""


def test_a_killed_server_is_unavailable_and_its_successor_is_found(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with FrameClient(path, 5) as client:
        for _ in range(2):
            process = subprocess.Popen([sys.executable, "-c", _SERVER, str(path)], stdout=subprocess.PIPE)
            with process:
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n"
                assert client.call({"n": 1})[0] == {"n": 1}
                process.send_signal(signal.SIGKILL)
                process.wait()
                with pytest.raises(PeerUnavailable):
                    client.call({"n": 2})
