# SPDX-License-Identifier: GPL-3.0-or-later
"""Our DKIM signature on a reply, verified by OpenDKIM and by dkimpy, neither of which is ours."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from acme_milter.protocol.challenge_mail import parse_challenge_mail
from acme_milter.protocol.dkim_policy import REPLY_NAMES
from acme_milter.protocol.dkim_signature import parse_signature, signature_tags
from acme_milter.protocol.headers import split_message
from acme_milter.protocol.mailbox import Mailbox
from acme_milter.protocol.reply_mail import compose_reply
from acme_milter.worker.reply_signing import ReplySigner, SigningKey, UnusableSigningKey
from tests.protocol.sample_mail import SampleKey, good_mail, rsa_key

DOMAIN = "example.com"
NOW = datetime.now(UTC)
RSA = rsa_key("mail")
ED25519 = SampleKey("mail", Ed25519PrivateKey.generate())
KEYS = pytest.mark.parametrize("key", [RSA, ED25519], ids=["rsa", "ed25519"])


def reply(identifier: str = f"alexey@{DOMAIN}", references: str = " <a@ca.example> <b@ca.example>") -> bytes:
    return compose_reply(
        parse_challenge_mail(good_mail().set("References", references).raw()),
        identifier=Mailbox.parse(identifier, allow_utf8=True),
        digest="oqRgcdn5jIDrdckMC7owMFH3UoxuDcTUPaTHapj0tfs",
        message_id=f"<1@{DOMAIN}>",
        date=NOW,
    ).raw


def pem(
    key: rsa.RSAPrivateKey | Ed25519PrivateKey | ec.EllipticCurvePrivateKey, form: PrivateFormat = PrivateFormat.PKCS8
) -> bytes:
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


def signer(key: SampleKey, directory: Path) -> ReplySigner:
    file = directory / "key.pem"
    file.write_bytes(pem(key.private))
    return ReplySigner(key.selector, file)


def dkimpy_says(raw: bytes, key: SampleKey) -> bool:
    def txt(name: bytes, timeout: int = 5) -> bytes:
        assert name == f"mail._domainkey.{DOMAIN}.".encode()
        return key.record()

    try:
        return dkim.DKIM(raw).verify(dnsfunc=txt) is True
    except dkim.ValidationError:
        return False


def opendkim_says(raw: bytes, key: SampleKey, directory: Path) -> str:
    """What Debian's OpenDKIM reports in test mode, with the key from a file in place of the DNS."""
    (directory / "dns").write_bytes(f"mail._domainkey.{DOMAIN} ".encode() + key.record() + b"\n")
    (directory / "opendkim.conf").write_text(f"Mode v\nTestDNSData file:{directory}/dns\nLogWhy yes\n")
    (directory / "reply.eml").write_bytes(raw)
    command = ["opendkim", "-x", str(directory / "opendkim.conf"), "-t", str(directory / "reply.eml"), "-v"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return ended.stdout + ended.stderr


@KEYS
def test_dkimpy_verifies_the_reply_and_notices_changes(tmp_path: Path, key: SampleKey) -> None:
    signed = signer(key, tmp_path).sign(reply(), DOMAIN, now=NOW)
    assert dkimpy_says(signed, key)
    for old, new in (
        (b"Subject: Re", b"Subject: Fw"),
        (b"oqRgcdn5", b"oqRgcdn6"),
        (b"auto-replied", b"auto-generated"),
        (b"From: a", b"From: b"),
    ):
        assert old in signed
        assert not dkimpy_says(signed.replace(old, new), key)


def test_opendkim_verifies_the_reply_and_notices_changes(tmp_path: Path) -> None:
    signed = signer(RSA, tmp_path).sign(reply(), DOMAIN, now=NOW)
    assert "succeeded" in opendkim_says(signed, RSA, tmp_path)
    assert "succeeded" not in opendkim_says(signed.replace(b"Subject: Re", b"Subject: Fw"), RSA, tmp_path)


@pytest.mark.parametrize(
    "added",
    [
        "Reply-To: evil@x.example",
        "Sender: evil@x.example",
        "Cc: evil@x.example",
        "List-Id: <x>",
        "Subject: x",
        "From: a@b.example",
        "To: a@b.example",
        "Resent-From: a@b.example",
        "List-Unsubscribe: <https://x>",
    ],
)
def test_header_added_on_the_way_breaks_the_signature(tmp_path: Path, added: str) -> None:
    """Absent fields are signed as absent, and the three that matter most once more than they occur."""
    signed = signer(RSA, tmp_path).sign(reply(), DOMAIN, now=NOW)
    assert not dkimpy_says(added.encode() + b"\r\n" + signed, RSA)


def test_header_we_did_not_name_may_be_added_on_the_way(tmp_path: Path) -> None:
    signed = signer(RSA, tmp_path).sign(reply(), DOMAIN, now=NOW)
    relayed = b"Received: from a by b; now\r\nReturn-Path: <x@y.example>\r\n" + signed
    assert dkimpy_says(relayed, RSA)
    assert "succeeded" in opendkim_says(relayed, RSA, tmp_path)


@KEYS
def test_signature_names_all_the_rfc_demands_and_is_the_mails_only_change(tmp_path: Path, key: SampleKey) -> None:
    raw = reply()
    signed = signer(key, tmp_path).sign(raw, DOMAIN, now=NOW)
    assert signed.endswith(raw)
    headers, _ = split_message(signed)
    signature = parse_signature(0, signature_tags(headers.fields[0].value))
    assert headers.fields[0].name == b"DKIM-Signature"
    assert set(REPLY_NAMES) | {"auto-submitted", "mime-version"} <= set(signature.header_names)
    assert [name for name in ("from", "to", "subject") if signature.header_names.count(name) == 2] == [
        "from",
        "to",
        "subject",
    ]
    assert (signature.domain, signature.selector, signature.algorithm) == (DOMAIN, "mail", key.algorithm)
    assert signature.timestamp == int(NOW.timestamp())
    added = signed.removesuffix(raw)
    assert max(map(len, added.split(b"\r\n"))) <= 78
    assert added.count(b"\n") == added.count(b"\r\n")


def test_non_ascii_sender_is_signed_as_it_stands(tmp_path: Path) -> None:
    signed = signer(RSA, tmp_path).sign(reply(f"jürgen@{DOMAIN}"), DOMAIN, now=NOW)
    assert dkimpy_says(signed, RSA)


def test_long_selector_and_domain_are_folded_within_the_limits(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(pem(RSA.private))
    domain = ".".join(["d" * 60] * 4)
    signed = ReplySigner("s" * 63, file).sign(reply(), domain, now=NOW)
    parse_signature(0, signature_tags(split_message(signed)[0].fields[0].value))


def test_pkcs1_key_file_is_read(tmp_path: Path) -> None:
    assert isinstance(RSA.private, rsa.RSAPrivateKey)
    assert SigningKey.from_pem("mail", pem(RSA.private, PrivateFormat.TraditionalOpenSSL)).algorithm == "rsa-sha256"


@pytest.mark.parametrize(
    "content",
    [b"", b"junk", pem(ec.generate_private_key(ec.SECP256R1())), pem(RSA.private)[:400]],
    ids=["empty", "junk", "ec", "cut"],
)
def test_unusable_key_file_is_refused_without_quoting_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(content)
    with pytest.raises(UnusableSigningKey) as caught:
        ReplySigner("mail", file)
    assert "MII" not in str(caught.value)


def test_missing_or_encrypted_key_file_is_refused(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption

    with pytest.raises(UnusableSigningKey, match="cannot be read"):
        ReplySigner("mail", tmp_path / "absent.pem")
    file = tmp_path / "key.pem"
    file.write_bytes(RSA.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))
    with pytest.raises(UnusableSigningKey, match="unencrypted"):
        ReplySigner("mail", file)


def test_key_is_never_shown(tmp_path: Path) -> None:
    made = signer(RSA, tmp_path)
    assert "PrivateKey" not in repr(made._key)
