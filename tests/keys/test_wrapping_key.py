# SPDX-License-Identifier: GPL-3.0-or-later
"""The wrapping key: read only from where nobody else can, made durably, never shown."""

import base64
import os
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, hmac

from acme_milter.keys.wrapping_key import (
    CredentialSource,
    FileSource,
    WrappingKey,
    WrappingKeyFault,
    create_wrapping_key_file,
    load_wrapping_key,
)


def _write(path: Path, content: bytes, mode: int = 0o600) -> FileSource:
    path.write_bytes(content)
    path.chmod(mode)
    return FileSource(path)


def _line(key: bytes) -> bytes:
    return base64.b64encode(key) + b"\n"


def test_a_made_key_file_is_private_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "wrapping.key"
    made = create_wrapping_key_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_wrapping_key(FileSource(path)) == made
    assert list(tmp_path.iterdir()) == [path]


def test_two_made_keys_differ(tmp_path: Path) -> None:
    one, other = (create_wrapping_key_file(tmp_path / name) for name in ("a", "b"))
    assert one.secret != other.secret
    assert one.id != other.id


def test_a_key_file_that_is_there_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "wrapping.key"
    made = create_wrapping_key_file(path)
    with pytest.raises(FileExistsError):
        create_wrapping_key_file(path)
    assert load_wrapping_key(FileSource(path)) == made
    assert list(tmp_path.iterdir()) == [path]


def test_what_openssl_writes_is_a_key(tmp_path: Path) -> None:
    written = subprocess.run(["openssl", "rand", "-base64", "32"], capture_output=True, check=True).stdout
    assert load_wrapping_key(_write(tmp_path / "k", written)).secret == base64.b64decode(written)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o666])
def test_a_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(WrappingKeyFault, match="open to group or others"):
        load_wrapping_key(_write(tmp_path / "k", _line(os.urandom(32)), mode))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        _line(bytes(range(31))),
        _line(bytes(range(33))),
        bytes(range(32)),
        bytes(range(32)).hex().encode(),
        _line(bytes(range(32)))[:-3],
        _line(bytes(range(32))) * 2,
        b"x" * 5000,
        b"-----BEGIN PRIVATE KEY-----\n",
    ],
)
def test_what_is_no_key_is_refused_without_being_quoted(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(WrappingKeyFault) as caught:
        load_wrapping_key(_write(tmp_path / "k", content))
    assert str(tmp_path / "k") in str(caught.value)
    assert content.strip() == b"" or content.strip().decode("latin-1") not in str(caught.value)


@pytest.mark.parametrize("key", [bytes(32), b"\x01\x02" * 16, b"password" * 4])
def test_octets_that_were_never_random_are_refused(tmp_path: Path, key: bytes) -> None:
    with pytest.raises(WrappingKeyFault, match="not random"):
        load_wrapping_key(_write(tmp_path / "k", _line(key)))


def test_a_file_that_is_not_there_or_no_file_is_a_fault(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path, Path("/dev/null")):
        with pytest.raises(WrappingKeyFault, match=str(path)):
            load_wrapping_key(FileSource(path))


def test_a_credential_is_read_from_systemds_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = os.urandom(32)
    _write(tmp_path / "wrapping-key", _line(key), 0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert load_wrapping_key(CredentialSource("wrapping-key")).secret == key


@pytest.mark.parametrize("name", ["../wrapping-key", "", "..", "a/b", "a\x00"])
def test_a_credentials_name_leads_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    _write(tmp_path / "wrapping-key", _line(os.urandom(32)))
    (tmp_path / "credentials").mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    with pytest.raises(WrappingKeyFault):
        load_wrapping_key(CredentialSource(name))


def test_a_credential_without_systemd_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(WrappingKeyFault, match="no credentials"):
        load_wrapping_key(CredentialSource("wrapping-key"))


def test_the_derived_keys_differ_from_each_other_and_from_the_secret() -> None:
    key = WrappingKey(bytes(range(32)))
    assert len({key.secret, key.keys_key(), key.data_key()}) == 3


def test_the_derivation_is_hkdf_as_documented() -> None:
    """RFC 5869 written out; a change would lose everything that was ever sealed."""

    def mac(key: bytes, content: bytes) -> bytes:
        h = hmac.HMAC(key, hashes.SHA256())
        h.update(content)
        return h.finalize()

    secret = bytes(range(32))
    pseudo_random_key = mac(bytes(32), secret)
    assert WrappingKey(secret).data_key() == mac(pseudo_random_key, b"acme-milter v1 store\x01")
    assert WrappingKey(secret).keys_key() == mac(pseudo_random_key, b"acme-milter v1 keys\x01")


def test_a_wrapping_key_never_shows_itself() -> None:
    secret = b"CANARY-CANARY-CANARY-CANARY-0123"
    key = WrappingKey(secret)
    for shown in (repr(key), str(key), f"{key}", key.id):
        assert "CANARY" not in shown
        assert secret.hex() not in shown
