# SPDX-License-Identifier: GPL-3.0-or-later
"""Signatures by the real openssl, judged: good ones of every kind hold, and each thing that is wrong is named."""

import functools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from acme_milter.protocol.faults import MailFault
from acme_milter.protocol.smime_verdict import SmimeVerdict
from acme_milter.worker.smime_arithmetic import judge
from tests.protocol.sample_mail import CA_DOMAIN, NOW, ORDER_CREATED, RECIPIENT, SENDER, good_mail
from tests.protocol.smime_mail import (
    Identity,
    SignedSample,
    clear_part,
    issuing,
    multipart,
    root,
    signer,
)


def verdict(raw: bytes, *trusted: Identity, not_before: datetime | None = ORDER_CREATED) -> SmimeVerdict:
    pem = b"".join(one.pem for one in trusted or (root(),))
    # openssl signs at the machine's time, which is no longer NOW where many tests have been run before.
    return judge(raw, pem, now=datetime.now(UTC), not_before=not_before)


def sample() -> SignedSample:
    return SignedSample()


def leaf(**details: object) -> Identity:
    return Identity("leaf", issuing(), **{"addresses": [SENDER], **details})  # type: ignore[arg-type]  # a test's keywords


GOOD: dict[str, Callable[[], bytes]] = {
    "P-256": lambda: sample().raw(),
    "P-384": lambda: sample().signed_by(signer("p384")).raw(),
    "RSA": lambda: sample().signed_by(signer("rsa2048")).raw(),
    "RSASSA-PSS": lambda: sample().signed_by(signer("rsa2048")).with_options("-keyopt", "rsa_padding_mode:pss").raw(),
    "SHA-512, said in micalg": lambda: (
        sample().with_options("-md", "sha512").raw().replace(b"micalg=sha-256", b"micalg=sha-512")
    ),
    "named by key identifier": lambda: sample().with_options("-keyid").raw(),
    "enclosing": lambda: sample().enclosing(),
    "enclosing, as a stream": lambda: sample().enclosing(sample().with_options("-stream").der(detached=False)),
    "the same content beside and inside": lambda: sample().raw(sample().der(detached=False)),
    "no authority in between": lambda: (
        sample().signed_by(Identity("direct", root(), addresses=[SENDER])).bringing().raw()
    ),
    "more addresses, and the domain in capitals": lambda: (
        sample().signed_by(leaf(addresses=["x@other.example", SENDER.replace(CA_DOMAIN, "CA.Example")])).raw()
    ),
    "a stranger's certificate beside it": lambda: sample().bringing(issuing(), Identity("stranger")).raw(),
    "any purpose for the issuer": lambda: (
        sample().signed_by(Identity("one", any_purpose(), addresses=[SENDER])).bringing(any_purpose()).raw()
    ),
}


def any_purpose() -> Identity:
    return Identity("any purpose", root(), ca=True, purposes=[ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])


@pytest.mark.parametrize("name", GOOD)
def test_a_good_signature_proves_the_mail(name: str) -> None:
    found = verdict(GOOD[name]())
    assert (found.fault, found.detail, found.protection) == (None, "", "rfc9788")
    assert found.passed
    assert int(found.signer, 16)


def by(**details: object) -> Callable[[], bytes]:
    return lambda: sample().signed_by(leaf(**details)).raw()


def under(issuer: Callable[[], Identity]) -> Callable[[], bytes]:
    """Signed by a leaf of this issuer, which comes with the mail, and the tests' own intermediate too."""

    def make() -> bytes:
        middle = issuer()
        return sample().signed_by(Identity("below", middle, addresses=[SENDER])).bringing(middle, issuing()).raw()

    return make


def changed(old: bytes, new: bytes) -> Callable[[], bytes]:
    def make() -> bytes:
        raw = sample().raw()
        assert old in raw
        return raw.replace(old, new)

    return make


def without_address() -> bytes:
    return sample().signed_by(leaf(addresses=[])).raw()


def wrong_issuer_purpose() -> Identity:
    return Identity("web issuer", root(), ca=True, purposes=[ExtendedKeyUsageOID.SERVER_AUTH])


BAD: dict[str, tuple[Callable[[], bytes], MailFault]] = {
    "no signature": (lambda: good_mail().raw(), MailFault.SMIME_NONE),
    "signed by DKIM": (lambda: good_mail().signed(), MailFault.SMIME_NONE),
    "another address": (by(addresses=[f"x{SENDER}"]), MailFault.SMIME_ADDRESS),
    "another case of the local part": (by(addresses=[SENDER.capitalize()]), MailFault.SMIME_ADDRESS),
    "another domain": (by(addresses=[SENDER + ".example"]), MailFault.SMIME_ADDRESS),
    "the address with a NUL behind it": (by(addresses=[SENDER + "\0.example"]), MailFault.SMIME_ADDRESS),
    "no address": (without_address, MailFault.SMIME_ADDRESS),
    "body changed": (changed(b"automatically", b"manually"), MailFault.SMIME_SIGNATURE),
    "a blank added to the body": (changed(b"challenge.\r\n", b"challenge. \r\n"), MailFault.SMIME_SIGNATURE),
    "protected Subject changed": (
        lambda: multipart(good_mail(), clear_part(good_mail("B" * 43)), sample().der()),
        MailFault.SMIME_SIGNATURE,
    ),
    "Subject changed outside": (
        lambda: multipart(good_mail("B" * 43), clear_part(good_mail()), sample().der()),
        MailFault.SMIME_HEADER_DIFFERS,
    ),
    "To changed outside": (
        lambda: multipart(good_mail().set("To", " bob@example.com"), clear_part(good_mail()), sample().der()),
        MailFault.SMIME_HEADER_DIFFERS,
    ),
    "From changed outside": (
        lambda: multipart(good_mail().set("From", f" x{SENDER}"), clear_part(good_mail()), sample().der()),
        MailFault.SMIME_ADDRESS,
    ),
    "From is somebody else's inside": (
        lambda: multipart(
            good_mail(),
            clear_part(good_mail().set("From", " x@ca.example")),
            SignedSample(good_mail().set("From", " x@ca.example")).der(),
        ),
        MailFault.SMIME_HEADER_DIFFERS,
    ),
    "Reply-To added outside": (
        lambda: multipart(good_mail().set("Reply-To", " x@evil.example"), clear_part(good_mail()), sample().der()),
        MailFault.SMIME_UNPROTECTED,
    ),
    "nothing protected": (
        lambda: sample().over(b"Content-Type: text/plain\r\n\r\ntext\r\n").raw(),
        MailFault.SMIME_UNPROTECTED,
    ),
    "expired": (by(begins=-timedelta(days=400)), MailFault.SMIME_CERTIFICATE),
    "not valid yet": (by(begins=timedelta(days=1)), MailFault.SMIME_CERTIFICATE),
    "for web clients": (by(purposes=[ExtendedKeyUsageOID.CLIENT_AUTH]), MailFault.SMIME_CERTIFICATE),
    "for any purpose": (by(purposes=[ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), MailFault.SMIME_CERTIFICATE),
    "for no purpose": (by(purposes=None), MailFault.SMIME_CERTIFICATE),
    "to encrypt only": (by(signs=False), MailFault.SMIME_CERTIFICATE),
    "an authority's own": (by(ca=True), MailFault.SMIME_CERTIFICATE),
    "unknown critical extension": (
        by(critical=x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")),
        MailFault.SMIME_UNTRUSTED,
    ),
    "its own root": (
        lambda: sample().signed_by(Identity("self", addresses=[SENDER])).bringing().raw(),
        MailFault.SMIME_UNTRUSTED,
    ),
    "another root, brought along": (under(lambda: Identity("other root", ca=True)), MailFault.SMIME_UNTRUSTED),
    "a root of the same name": (
        under(lambda: Identity("root of the tests", ca=True, kind="p384")),
        MailFault.SMIME_UNTRUSTED,
    ),
    "the issuer is missing": (lambda: sample().bringing().raw(), MailFault.SMIME_UNTRUSTED),
    "issued by one who is no authority": (under(leaf), MailFault.SMIME_UNTRUSTED),
    "issued by an authority for web servers": (under(wrong_issuer_purpose), MailFault.SMIME_UNTRUSTED),
    "issued by an expired authority": (
        under(lambda: Identity("old", root(), ca=True, begins=-timedelta(days=500))),
        MailFault.SMIME_UNTRUSTED,
    ),
    "a path that is too long": (
        under(lambda: Identity("deep", Identity("short", root(), ca=True, path_length=0), ca=True)),
        MailFault.SMIME_UNTRUSTED,
    ),
    "two signers": (lambda: sample().signed_by(signer(), leaf()).raw(), MailFault.SMIME_SIGNERS),
    "two signers, one a stranger": (
        lambda: sample().signed_by(signer(), Identity("stranger", addresses=[SENDER])).raw(),
        MailFault.SMIME_SIGNERS,
    ),
    "no certificate": (lambda: sample().with_options("-nocerts").raw(), MailFault.SMIME_SIGNERS),
    "twenty certificates": (
        lambda: sample().bringing(issuing(), *(Identity(f"more {number}") for number in range(20))).raw(),
        MailFault.SMIME_SIGNERS,
    ),
    "SHA-1": (
        lambda: sample().signed_by(signer("rsa2048")).with_options("-md", "sha1").raw(),
        MailFault.SMIME_ALGORITHM,
    ),
    "SHA-224": (
        lambda: sample().signed_by(signer("rsa2048")).with_options("-md", "sha224").raw(),
        MailFault.SMIME_ALGORITHM,
    ),
    "RSA of 1024 bits": (by(kind="rsa1024"), MailFault.SMIME_ALGORITHM),
    "P-521": (by(kind="p521"), MailFault.SMIME_ALGORITHM),
    "another micalg": (changed(b"micalg=sha-256", b"micalg=sha-512"), MailFault.SMIME_ALGORITHM),
    "a weak micalg": (changed(b"micalg=sha-256", b"micalg=md5"), MailFault.SMIME_ALGORITHM),
    "no signed attributes": (lambda: sample().with_options("-noattr").raw(), MailFault.SMIME_MALFORMED),
    "another content inside than beside": (
        lambda: sample().raw(sample().over(b"\r\nother\r\n").der(detached=False)),
        MailFault.SMIME_STRUCTURE,
    ),
    "content neither beside nor inside": (lambda: sample().enclosing(sample().der()), MailFault.SMIME_STRUCTURE),
    "another content type": (
        lambda: sample().with_options("-econtent_type", "1.2.840.113549.1.9.16.1.4").raw(),
        MailFault.SMIME_MALFORMED,
    ),
    "signed twice": (
        lambda: sample().over(clear_part(good_mail(), ' multipart/signed; boundary=x; hp="clear"')).raw(),
        MailFault.SMIME_STRUCTURE,
    ),
    "encrypted inside": (
        lambda: sample().over(clear_part(good_mail(), ' application/pkcs7-mime; hp="clear"')).raw(),
        MailFault.SMIME_STRUCTURE,
    ),
    "truncated DER": (lambda: sample().raw(sample().der()[:-20]), MailFault.SMIME_MALFORMED),
    "something after the DER": (lambda: sample().raw(sample().der() + b"\5\0"), MailFault.SMIME_MALFORMED),
    "no DER at all": (lambda: sample().raw(b"signature"), MailFault.SMIME_MALFORMED),
    "a certificate instead": (lambda: sample().raw(b"0\3\2\1\1"), MailFault.SMIME_MALFORMED),
    "nested too deeply": (lambda: sample().raw(b"\x30\x80" * 5000), MailFault.SMIME_MALFORMED),
    "the whole mail is too large": (lambda: sample().raw(bytes(1_000_000)), MailFault.TOO_LARGE),
    "made before the order": (
        lambda: SignedSample(good_mail().set("Date", " Sat, 5 Dec 2020 10:08:55 +0100")).raw(),
        MailFault.SMIME_TIME,
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_signature_is_named(name: str) -> None:
    make, fault = BAD[name]
    found = verdict(make())
    assert found.fault is fault, found
    assert (found.passed, found.signer) == (False, "")
    assert found.detail
    assert found.detail.isprintable()
    assert RECIPIENT not in found.detail


def test_only_what_is_trusted_is_trusted() -> None:
    raw = sample().raw()
    assert verdict(raw, issuing()).passed
    assert verdict(raw, Identity("other", ca=True), root()).passed
    assert verdict(raw, Identity("other", ca=True)).fault is MailFault.SMIME_UNTRUSTED
    assert judge(raw, b"", now=NOW, not_before=None).fault is MailFault.SMIME_TRUST_UNREADABLE


def test_the_clock_is_the_workers() -> None:
    raw = sample().raw()
    late, early = NOW + timedelta(days=370), NOW - timedelta(days=2)
    assert judge(raw, root().pem, now=late, not_before=None).fault is MailFault.SMIME_CERTIFICATE
    assert judge(raw, root().pem, now=early, not_before=None).fault is MailFault.SMIME_CERTIFICATE
    order = NOW + timedelta(hours=1)
    assert judge(raw, root().pem, now=order, not_before=order).fault is MailFault.SMIME_TIME
    assert judge(raw, root().pem, now=NOW - timedelta(hours=1), not_before=None).fault is MailFault.SMIME_TIME


@functools.cache
def original() -> bytes:
    return sample().der()


_DER = st.tuples(st.integers(0, 3000), st.integers(0, 255), st.integers(0, 12))


@settings(max_examples=300, deadline=None)
@given(st.lists(_DER, min_size=1, max_size=3), st.booleans())
def test_no_change_of_the_signature_makes_another_content_pass(changes: list[tuple[int, int, int]], cut: bool) -> None:
    octets = bytearray(original())
    for place, value, length in changes:
        if cut:
            del octets[place % len(octets) : place % len(octets) + length]
        elif octets:
            octets[place % len(octets)] = value
        if not octets:
            return
    content = clear_part(good_mail()).replace(b"automatically", b"otherwise")
    assert not verdict(multipart(good_mail(), content, bytes(octets))).passed
