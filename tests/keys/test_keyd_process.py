# SPDX-License-Identifier: GPL-3.0-or-later
"""keyd as a process: its rights, its ends, and that nothing secret leaves it."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from acme_milter.certificate.pkcs12 import P12Format
from acme_milter.keys.client import KeydClient, KeydUnavailable
from acme_milter.keys.refusal import KeydRefused
from acme_milter.keys.wrapping_key import FileSource, create_wrapping_key_file, load_wrapping_key

ALICE = "alice@example.org"

_PROGRAM = """
import sys
from pathlib import Path
from acme_milter.eventlog import configure_logging
from acme_milter.keys.algorithm import KeyAlgorithm
from acme_milter.keys.keyd import serve
from acme_milter.keys.wrapping_key import FileSource, load_wrapping_key
configure_logging("keyd")
directory = Path(sys.argv[1])
serve(
    directory / "keyd.sock",
    load_wrapping_key(FileSource(directory / "wrapping.key")),
    pool_sizes={KeyAlgorithm(name): int(size) for name, size in (item.split("=") for item in sys.argv[2:])},
)
"""


@contextmanager
def _keyd(directory: Path, *pool: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", _PROGRAM, str(directory), *pool]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert "role-ready" in process.stderr.readline()
            yield process
        finally:
            process.kill()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    create_wrapping_key_file(tmp_path / "wrapping.key")
    return tmp_path


@pytest.fixture
def client(home: Path) -> Iterator[KeydClient]:
    with KeydClient(home / "keyd.sock", timeout=20) as client:
        yield client


def _signing_input() -> bytes:
    header = {"alg": "ES256", "nonce": "abc", "url": "https://ca.example/o", "kid": "https://ca.example/a/1"}
    return base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=") + b"."


def test_a_client_does_everything_through_the_socket(home: Path, client: KeydClient) -> None:
    with _keyd(home):
        account = client.new_account_key("a1", "ca")
        assert len(client.sign_jws("a1", "ca", account.sealed, _signing_input())) == 64
        mailbox = client.new_mailbox_key("k1", ALICE, "p256", [ALICE])
        pem, passphrase = client.export_pem("k1", ALICE, mailbox.sealed)
        assert b"ENCRYPTED PRIVATE KEY" in pem
        assert len(passphrase) == 26
        with pytest.raises(KeydRefused, match="certificate not-a-pem-chain"):
            client.export_pkcs12("k1", ALICE, mailbox.sealed, b"", P12Format.MODERN, "Alice")
        with pytest.raises(KeydRefused, match="seal broken"):
            client.sign_jws("k1", ALICE, mailbox.sealed, _signing_input())
        assert client.data_key() == load_wrapping_key(FileSource(home / "wrapping.key")).data_key()
        assert client.status()["wrapping_key"] == load_wrapping_key(FileSource(home / "wrapping.key")).id


def test_a_request_too_large_for_a_frame_is_refused(home: Path, client: KeydClient) -> None:
    with _keyd(home), pytest.raises(KeydRefused, match="exceeds"):
        client.sign_jws("a1", "ca", b"", bytes(2**20))


def test_an_absent_keyd_is_unavailable(client: KeydClient) -> None:
    with pytest.raises(KeydUnavailable):
        client.status()


def test_a_killed_keyd_loses_nothing_and_its_successor_is_found(home: Path, client: KeydClient) -> None:
    with _keyd(home) as process:
        account = client.new_account_key("a1", "ca")
        mailbox = client.new_mailbox_key("k1", ALICE, "p256", [ALICE])
        process.send_signal(signal.SIGKILL)
        process.wait()
        with pytest.raises(KeydUnavailable):
            client.sign_jws("a1", "ca", account.sealed, _signing_input())
    with _keyd(home):
        assert len(client.sign_jws("a1", "ca", account.sealed, _signing_input())) == 64
        assert client.export_pem("k1", ALICE, mailbox.sealed)[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("pool", [(), ("rsa4096=50",)], ids=["idle", "making keys"])
def test_it_ends_in_order_within_a_second(home: Path, number: signal.Signals, pool: tuple[str, ...]) -> None:
    with _keyd(home, *pool) as process:
        time.sleep(0.2)
        begun = time.monotonic()
        process.send_signal(number)
        assert process.wait(10) == 0
        assert time.monotonic() - begun < 1
        assert process.stderr is not None
        assert "role-stopped" in process.stderr.read()
    assert not (home / "keyd.sock").exists()


def test_a_second_keyd_does_not_take_over_the_socket(home: Path, client: KeydClient) -> None:
    with _keyd(home):
        second = subprocess.run([sys.executable, "-c", _PROGRAM, str(home)], capture_output=True, text=True, timeout=20)
        assert second.returncode != 0
        assert "AddressInUse" in second.stderr
        client.status()


def test_the_socket_is_for_its_user_alone(home: Path) -> None:
    with _keyd(home):
        assert (home / "keyd.sock").stat().st_mode & 0o777 == 0o600


def test_the_process_can_neither_be_dumped_nor_read(home: Path) -> None:
    with _keyd(home) as process:
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
        assert core.split()[4:6] == ["0", "0"]
        # The kernel gives /proc/PID of a process that is not dumpable to root (proc(5)).
        assert Path(f"/proc/{process.pid}/environ").stat().st_uid == 0


def test_it_gives_up_dumps_and_the_network_for_good() -> None:
    program = """
import ctypes, socket
from acme_milter.keys.keyd import give_up_rights
give_up_rights()
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))  # PR_GET_DUMPABLE
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET):
    try:
        socket.socket(family)
        print("opened", family)
    except PermissionError as error:
        print(error)
socket.socket(socket.AF_UNIX).close()
a, b = socket.socketpair()
a.close(); b.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["0"] + ["keyd opens no socket but AF_UNIX"] * 4


def test_it_opens_no_socket_but_its_own(home: Path, client: KeydClient) -> None:
    with _keyd(home) as process:
        client.new_mailbox_key("k1", ALICE, "p256", [ALICE])
        if os.geteuid() == 0:  # others may not look: the process is not dumpable
            targets = [str(entry.readlink()) for entry in Path(f"/proc/{process.pid}/fd").iterdir()]
            inodes = {target[8:-1] for target in targets if target.startswith("socket:[")}
            unix = {line.split()[6] for line in Path("/proc/net/unix").read_text().splitlines()[1:]}
            assert inodes
            assert inodes <= unix


def test_no_secret_is_in_anything_it_logs_or_that_shows_itself(home: Path, client: KeydClient) -> None:
    wrapping_key = load_wrapping_key(FileSource(home / "wrapping.key"))
    with _keyd(home) as process:
        account = client.new_account_key("a1", "ca")
        mailbox = client.new_mailbox_key("k1", ALICE, "p256", [ALICE])
        shown = [repr(account), str(mailbox), repr(client), repr(wrapping_key)]
        pem, passphrase = client.export_pem("k1", ALICE, mailbox.sealed)
        data_key = client.data_key()
        for sealed in (mailbox.sealed, account.sealed[:-1], b"CANARY-SEALED"):
            with pytest.raises(KeydRefused) as caught:
                client.sign_jws("a1", "ca", sealed, b"CANARY-INPUT")
            shown += [str(caught.value), repr(caught.value)]
        process.terminate()
        assert process.stderr is not None
        log = process.stderr.read()
    assert "keyd-refused" in log
    for text in (log, *shown):
        for secret in (wrapping_key.secret, data_key, wrapping_key.keys_key(), account.sealed, mailbox.sealed):
            assert secret.hex() not in text
            assert base64.b64encode(secret).decode() not in text
            assert repr(secret) not in text
        assert passphrase not in text
        assert pem.decode() not in text
        assert "CANARY" not in text
