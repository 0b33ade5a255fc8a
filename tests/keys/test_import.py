# SPDX-License-Identifier: GPL-3.0-or-later
"""A PKCS#12 file from elsewhere is opened away from keyd, so that none can keep keyd busy."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

from acme_milter.keys.keyd import Keyd
from acme_milter.keys.pool import KeyPool
from acme_milter.keys.request import split_parts
from acme_milter.keys.wrapping_key import WrappingKey
from tests.certificate.small_pki import Pki

PASSPHRASE = "a passphrase that somebody chose"
_DATA = bytes.fromhex("06092a864886f70d010701")
_SHA256 = bytes.fromhex("0609608648016503040201")


def tlv(tag: int, *parts: bytes) -> bytes:
    """One DER element of at most 127 octets."""
    content = b"".join(parts)
    assert len(content) < 128
    return bytes([tag, len(content)]) + content


def endless() -> bytes:
    """A PKCS#12 file without a key, whose MAC takes 2^31 - 1 rounds (RFC 7292 §4)."""
    safe = tlv(0x30, _DATA, tlv(0xA0, tlv(0x04, tlv(0x30))))
    digest = tlv(0x30, tlv(0x30, _SHA256, tlv(0x05)), tlv(0x04, bytes(32)))
    mac = tlv(0x30, digest, tlv(0x04, bytes(8)), tlv(0x02, (2**31 - 1).to_bytes(4, "big")))
    return tlv(0x30, tlv(0x02, b"\x03"), safe, mac)


def take_in(
    keyd: Keyd, file: bytes, passphrase: str = PASSPHRASE, address: str = Pki.ADDRESS
) -> tuple[dict[str, object], bytes]:
    header = {"call": "import_mailbox_key", "key_id": "k1", "principal": Pki.ADDRESS, "address": address}
    return keyd.handle(header | {"passphrase": passphrase, "parts": [len(file)]}, file)


@pytest.fixture(scope="module")
def keyd() -> Keyd:
    return Keyd(WrappingKey(b"0123456789abcdefghijklmnopqrstuv"), KeyPool({}))


@pytest.fixture(scope="module")
def file() -> bytes:
    pki = Pki()
    leaf, *issuers = pki.good
    encryption = BestAvailableEncryption(PASSPHRASE.encode())
    return pkcs12.serialize_key_and_certificates(None, pki.key, leaf, issuers, encryption)


def test_an_honest_file_comes_in_with_its_chain(keyd: Keyd, file: bytes) -> None:
    header, body = take_in(keyd, file)
    parts = split_parts(header, body)
    assert parts is not None
    assert header["algorithm"] == "p256"
    assert parts[3].count(b"BEGIN CERTIFICATE") == 2
    again = {"call": "export_pem", "key_id": "k1", "principal": Pki.ADDRESS, "parts": [len(parts[0])]}
    assert b"ENCRYPTED PRIVATE KEY" in keyd.handle(again, parts[0])[1]


def test_a_wrong_passphrase_and_another_address_are_told_apart(keyd: Keyd, file: bytes) -> None:
    assert "the passphrase is wrong" in str(take_in(keyd, file, "another")[0]["refused"])
    assert take_in(keyd, file, address="bob@example.org")[0] == {"refused": "certificate wrong-name"}


def test_a_file_of_absurd_rounds_is_given_up_and_keeps_nobody_waiting(keyd: Keyd) -> None:
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(take_in, keyd, endless())
        for _ in range(5):
            time.sleep(0.1)
            assert "version" in keyd.handle({"call": "status"}, b"")[0]
            assert not pending.done()  # it is still being opened
        assert "within bounds" in str(pending.result()[0]["refused"])
