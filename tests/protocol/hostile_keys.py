# SPDX-License-Identifier: GPL-3.0-or-later
"""Truly signed mails whose key record, or the DNS, does not allow them to prove anything."""

import base64

from acme_milter.protocol.faults import MailFault
from tests.protocol.key_server import Misbehaviour
from tests.protocol.mail_case import MailCase, Records
from tests.protocol.sample_mail import CA_DOMAIN, SampleKey, SignatureSpec, ed25519_key, good_mail, rsa_key

_UNUSABLE = MailFault.DKIM_KEY_UNUSABLE


def _published(
    name: str,
    fault: MailFault,
    record: Records,
    *,
    dkimpy: bool = False,
    spec: SignatureSpec | None = None,
    minimum: int = 1024,
) -> MailCase:
    """The good mail, signed, with `record` published instead of the good one."""
    signing = spec or SignatureSpec()
    zone = {f"{signing.key.selector}._domainkey.{CA_DOMAIN}": record}
    return MailCase(
        f"key-{name}",
        lambda: good_mail().signed(signing),
        fault,
        zone=lambda: zone,
        dkimpy_accepts=dkimpy,
        minimum_rsa_bits=minimum,
    )


def _tlv(tag: int, content: bytes) -> bytes:
    return bytes([tag, 0x82]) + len(content).to_bytes(2, "big") + content


def _rsa_record(bits: int, exponent: bytes = b"\x01\x00\x01") -> bytes:
    """A record with a made-up modulus of that many bits: sizes nobody will generate any more."""
    modulus = (1 << (bits - 1)) | 0x1234567 | 1
    key = _tlv(0x30, _tlv(2, b"\0" + modulus.to_bytes(bits // 8, "big")) + _tlv(2, exponent))
    return b"v=DKIM1; k=rsa; p=" + base64.b64encode(key)


def _der(octets: bytes) -> bytes:
    return b"v=DKIM1; p=" + base64.b64encode(octets)


_GOOD = rsa_key().record()
_SPKI = rsa_key().public_octets()
_ED = SignatureSpec(key=ed25519_key())
_WEAK = SignatureSpec(key=rsa_key("weak", 1024))
_BELOW = SignatureSpec(tags={"i": "@mail.ca.example"})

RECORDS = [
    _published("revoked", MailFault.DKIM_KEY_REVOKED, [b"v=DKIM1; k=rsa; p="]),
    _published("revoked-blank", MailFault.DKIM_KEY_REVOKED, [b"v=DKIM1; p= ;"]),
    _published("testing", MailFault.DKIM_KEY_TESTING, [rsa_key().record("t=y; ")], dkimpy=True),
    _published("testing-and-strict", MailFault.DKIM_KEY_TESTING, [rsa_key().record("t=s:y; ")], dkimpy=True),
    _published("testing-with-blanks", MailFault.DKIM_KEY_TESTING, [rsa_key().record("t= y ; ")], dkimpy=True),
    _published("hash-sha1-only", _UNUSABLE, [rsa_key().record("h=sha1; ")], dkimpy=True),
    _published("hash-empty", _UNUSABLE, [rsa_key().record("h=; ")], dkimpy=True),
    _published("service-other", _UNUSABLE, [rsa_key().record("s=foo; ")]),
    _published("service-tlsrpt", _UNUSABLE, [rsa_key().record("s=tlsrpt; ")]),
    _published("strict-with-i-below-d", _UNUSABLE, [rsa_key().record("t=s; ")], spec=_BELOW, dkimpy=True),
    _published(
        "rsa-1024-where-2048-is-wanted",
        MailFault.DKIM_KEY_TOO_SHORT,
        [_WEAK.key.record()],
        spec=_WEAK,
        dkimpy=True,
        minimum=2048,
    ),
    _published("rsa-768", MailFault.DKIM_KEY_TOO_SHORT, [_rsa_record(768)]),
    _published("rsa-512", MailFault.DKIM_KEY_TOO_SHORT, [_rsa_record(512)]),
    _published("rsa-512-with-a-lax-setting", MailFault.DKIM_KEY_TOO_SHORT, [_rsa_record(512)], minimum=0),
    _published("rsa-8192", _UNUSABLE, [_rsa_record(8192)]),
    _published("rsa-exponent-one", _UNUSABLE, [_rsa_record(2048, b"\x01")]),
    _published("rsa-exponent-even", _UNUSABLE, [_rsa_record(2048, b"\x02")]),
    _published("rsa-exponent-negative", _UNUSABLE, [_rsa_record(2048, b"\xff")]),
    _published("rsa-with-trailing-octets", _UNUSABLE, [_der(_SPKI + b"\0")], dkimpy=True),
    _published("rsa-cut-short", _UNUSABLE, [_der(_SPKI[:-5])]),
    _published("rsa-one-octet", _UNUSABLE, [_der(b"0")]),
    _published("rsa-impossible-length", _UNUSABLE, [_der(b"\x30\xff" + b"x" * 60)]),
    _published("rsa-elliptic-curve", _UNUSABLE, [_der(bytes.fromhex("3013300706052b8104000a0308000102030405060708"))]),
    _published("version-2", _UNUSABLE, [_GOOD.replace(b"DKIM1", b"DKIM2")]),
    _published("version-not-first", _UNUSABLE, [_GOOD.removeprefix(b"v=DKIM1; ") + b"; v=DKIM1"], dkimpy=True),
    _published("kind-unknown", _UNUSABLE, [_GOOD.replace(b"k=rsa", b"k=dsa")]),
    _published("kind-upper-case", _UNUSABLE, [_GOOD.replace(b"k=rsa", b"k=RSA")]),
    _published("p-absent", _UNUSABLE, [b"v=DKIM1; k=rsa"]),
    _published("p-not-base64", _UNUSABLE, [b"v=DKIM1; k=rsa; p=not!base64"]),
    _published("p-with-junk-between", _UNUSABLE, [_GOOD[:60] + b"*" + _GOOD[60:]], dkimpy=True),
    _published("tag-twice", _UNUSABLE, [_GOOD + b"; k=rsa"]),
    _published("not-tags", _UNUSABLE, [b"v=spf1 -all"]),
    _published("empty-text", _UNUSABLE, [b""]),
    _published("nul", _UNUSABLE, [_GOOD + b"\0"]),
    _published("newline", _UNUSABLE, [_GOOD + b"\n"], dkimpy=True),
    _published("of-eight-kilobytes", _UNUSABLE, [_GOOD + b"; n=" + b"x" * 8_000], dkimpy=True),
    _published("two-records", _UNUSABLE, [_GOOD, rsa_key("other").record()], dkimpy=True),
    _published("two-equal-kinds-one-spf", _UNUSABLE, [_GOOD, b"v=spf1 -all"], dkimpy=True),
    _published("ed25519-record-for-rsa-signature", _UNUSABLE, [ed25519_key().record()]),
    _published("rsa-record-for-ed25519-signature", _UNUSABLE, [_GOOD], spec=_ED),
    _published("ed25519-of-31-octets", _UNUSABLE, [b"v=DKIM1; k=ed25519; p=" + base64.b64encode(b"x" * 31)], spec=_ED),
    _published("of-another-pair", MailFault.DKIM_SIGNATURE, [rsa_key("other").record()]),
    _published("ed25519-of-another-pair", MailFault.DKIM_SIGNATURE, [ed25519_key("other").record()], spec=_ED),
    _published(
        "ed25519-all-zeros", MailFault.DKIM_SIGNATURE, [b"k=ed25519; p=" + base64.b64encode(bytes(32))], spec=_ED
    ),
]

ANSWERS = [
    _published("name-does-not-exist", MailFault.DKIM_KEY_MISSING, Misbehaviour.NO_DATA),
    _published("name-has-other-types-only", MailFault.DKIM_KEY_MISSING, Misbehaviour.OTHER_TYPE),
    MailCase(
        "key-of-unknown-selector",
        lambda: good_mail().signed(SignatureSpec(key=SampleKey("gone", rsa_key().private))),
        MailFault.DKIM_KEY_MISSING,
    ),
    _published("servfail", MailFault.DKIM_LOOKUP_DEFERRED, Misbehaviour.SERVFAIL),
    _published("refused", MailFault.DKIM_LOOKUP_DEFERRED, Misbehaviour.REFUSED),
    _published("silence", MailFault.DKIM_LOOKUP_DEFERRED, Misbehaviour.SILENCE),
    _published("garbage", MailFault.DKIM_LOOKUP_DEFERRED, Misbehaviour.GARBAGE),
    MailCase(
        "key-servfail-for-one-signature-other-broken",
        lambda: good_mail().signed(SignatureSpec(key=ed25519_key(), tags={"b": "A" * 86 + "=="}), SignatureSpec()),
        MailFault.DKIM_LOOKUP_DEFERRED,
        zone=lambda: {f"rsa._domainkey.{CA_DOMAIN}": Misbehaviour.SERVFAIL},
    ),
]

HOSTILE_KEYS = [*RECORDS, *ANSWERS]
