# SPDX-License-Identifier: GPL-3.0-or-later
"""A key leaves keyd in clear by one way only: through its socket, into an open file that few can read."""

import contextlib
import fcntl
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from acme_milter.ipc.client import FrameClient, PeerUnavailable
from acme_milter.ipc.server import FrameServer
from acme_milter.keys.client import KeydClient, NewMailboxKey
from acme_milter.keys.keyd import Keyd
from acme_milter.keys.pool import KeyPool
from acme_milter.keys.refusal import KeydRefused
from acme_milter.keys.wrapping_key import WrappingKey
from acme_milter.lab.processes import wait_until

ALICE = "alice@example.org"


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    keyd = Keyd(WrappingKey(b"0123456789abcdefghijklmnopqrstuv"), KeyPool({}))
    with tempfile.TemporaryDirectory(prefix="keyd-") as name:
        path = Path(name) / "keyd.sock"
        with FrameServer(path, 0o600, keyd.handle, threads=2, handle_file=keyd.handle):
            yield path


@pytest.fixture(scope="module")
def client(path: Path) -> Iterator[KeydClient]:
    with KeydClient(path, timeout=20) as client:
        yield client


@pytest.fixture(scope="module")
def key(client: KeydClient) -> NewMailboxKey:
    return client.new_mailbox_key("k1", ALICE, "p256", [ALICE])


def opened(file: Path, flags: int = os.O_WRONLY | os.O_CREAT, mode: int = 0o600) -> int:
    descriptor = os.open(file, flags, mode)
    file.chmod(mode)
    return descriptor


def write(client: KeydClient, key: NewMailboxKey, descriptor: int) -> None:
    try:
        client.write_clear_pem("k1", ALICE, key.sealed, descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o200])
def test_the_key_is_appended_to_what_the_asker_has_written(
    client: KeydClient, key: NewMailboxKey, tmp_path: Path, mode: int
) -> None:
    file = tmp_path / "pair.pem"
    descriptor = opened(file, mode=mode)
    os.write(descriptor, b"before\n")
    write(client, key, descriptor)
    before, pem = file.read_bytes().split(b"\n", 1)
    assert before == b"before"
    private_key = serialization.load_pem_private_key(pem, None)
    assert private_key.public_key() == x509.load_der_x509_csr(key.csr).public_key()


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o700, 0o604])
def test_a_file_that_more_may_read_is_refused(
    client: KeydClient, key: NewMailboxKey, tmp_path: Path, mode: int
) -> None:
    with pytest.raises(KeydRefused, match="mode is more than 0640"):
        write(client, key, opened(tmp_path / "file", mode=mode))
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize("flags", [os.O_RDWR | os.O_CREAT, os.O_RDONLY | os.O_CREAT])
def test_a_file_that_the_asker_could_read_by_the_same_descriptor_is_refused(
    client: KeydClient, key: NewMailboxKey, tmp_path: Path, flags: int
) -> None:
    with pytest.raises(KeydRefused, match="not open for writing only"):
        write(client, key, opened(tmp_path / "file", flags))


def test_a_file_with_a_second_name_is_refused(client: KeydClient, key: NewMailboxKey, tmp_path: Path) -> None:
    descriptor = opened(tmp_path / "file")
    (tmp_path / "other").hardlink_to(tmp_path / "file")
    with pytest.raises(KeydRefused, match="another name"):
        write(client, key, descriptor)


def test_what_is_no_file_is_refused(client: KeydClient, key: NewMailboxKey, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with pytest.raises(KeydRefused, match="not a regular file"):
        write(client, key, writing)
    assert os.read(reading, 1) == b""
    os.close(reading)
    with pytest.raises(KeydRefused, match="not a regular file"):
        write(client, key, os.open("/dev/null", os.O_WRONLY))
    with pytest.raises(KeydRefused, match="not a regular file"):
        write(client, key, os.open(tmp_path, os.O_RDONLY))


def test_what_the_system_says_to_the_writing_reaches_the_asker(client: KeydClient, key: NewMailboxKey) -> None:
    memory = os.memfd_create("full", os.MFD_ALLOW_SEALING)
    os.fchmod(memory, 0o600)
    descriptor = os.open(f"/proc/self/fd/{memory}", os.O_WRONLY)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
    with pytest.raises(PermissionError):
        write(client, key, descriptor)
    os.close(memory)


def test_without_a_file_nothing_is_written_and_with_another_keys_ids_neither(
    path: Path, client: KeydClient, key: NewMailboxKey, tmp_path: Path
) -> None:
    header = {"call": "write_clear_pem", "key_id": "k1", "principal": ALICE, "parts": [len(key.sealed)]}
    with FrameClient(path, 5) as plain:
        assert plain.call(header, key.sealed)[0] == {"refused": "malformed request: no open file"}
    descriptor = opened(tmp_path / "file")
    with pytest.raises(KeydRefused, match="seal broken"):
        client.write_clear_pem("k2", ALICE, key.sealed, descriptor)
    os.close(descriptor)
    assert (tmp_path / "file").read_bytes() == b""


def test_the_servers_own_descriptor_is_closed_whatever_the_call_was(
    path: Path, client: KeydClient, key: NewMailboxKey, tmp_path: Path
) -> None:
    def held() -> int:  # client and server are one process here
        return [open_file(entry) for entry in Path("/proc/self/fd").iterdir()].count(tmp_path / "file")

    descriptor = opened(tmp_path / "file")
    with FrameClient(path, 5) as plain:
        for call in ("status", "no such call", "write_clear_pem"):
            plain.call({"call": call}, descriptor=descriptor)
    wait_until(lambda: held() == 1, "the server closed what it was handed")  # it does so once it has answered
    os.close(descriptor)
    assert held() == 0


def open_file(entry: Path) -> Path | None:
    with contextlib.suppress(FileNotFoundError):  # closed meanwhile
        return entry.readlink()
    return None


def test_two_files_with_one_frame_end_the_connection(path: Path, tmp_path: Path) -> None:
    descriptors = [opened(tmp_path / name) for name in ("a", "b")]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.settimeout(5)
        socket.send_fds(connection, [bytes(8)], descriptors)
        assert connection.recv(1) == b""
    for descriptor in descriptors:
        os.close(descriptor)


def test_a_server_that_takes_no_files_answers_as_if_there_were_none(tmp_path: Path) -> None:
    seen: list[object] = []

    def handle(header: dict[str, object], body: bytes) -> tuple[dict[str, object], bytes]:
        seen.append(header)
        return {}, body

    with tempfile.TemporaryDirectory(prefix="x-") as name:
        socket_path = Path(name) / "s"
        with FrameServer(socket_path, 0o600, handle, threads=1), FrameClient(socket_path, 5) as client:
            descriptor = opened(tmp_path / "file")
            assert client.call({"n": 1}, b"body", descriptor=descriptor) == ({}, b"body")
            os.close(descriptor)
    assert seen == [{"n": 1}]


def test_a_request_with_a_file_is_never_sent_twice(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="x-") as name, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{name}/s")
        listener.listen()
        asked: list[bytes] = []

        def take_and_hang_up() -> None:
            connection, _ = listener.accept()
            asked.append(connection.recv(1024))
            connection.close()

        server = threading.Thread(target=take_and_hang_up)
        server.start()
        descriptor = opened(tmp_path / "file")
        with FrameClient(Path(name) / "s", 5) as client, pytest.raises(PeerUnavailable):
            client.call({}, descriptor=descriptor)
        server.join()
        os.close(descriptor)
    assert len(asked) == 1


def test_a_frame_with_a_file_arrives_whole_however_long_it_is() -> None:
    body = os.urandom(700_000)
    with tempfile.TemporaryDirectory(prefix="x-") as name:
        got: list[tuple[bytes, bool]] = []

        def handle(header: dict[str, object], body: bytes, file: int) -> tuple[dict[str, object], bytes]:
            got.append((body, os.fstat(file).st_size == 0))
            return {}, b""

        path = Path(name) / "s"

        def never(header: dict[str, object], body: bytes) -> tuple[dict[str, object], bytes]:
            raise AssertionError

        with FrameServer(path, 0o600, never, threads=1, handle_file=handle), FrameClient(path, 5) as client:
            descriptor = opened(Path(name) / "file")
            assert client.call({}, body, descriptor=descriptor) == ({}, b"")
            os.close(descriptor)
    assert got == [(body, True)]
