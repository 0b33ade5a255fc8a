# SPDX-License-Identifier: GPL-3.0-or-later
"""A challenge mail as platynum sends it: Subject, To and From in RFC 7508's attribute, no signing time, the content
both beside the signature and in it. The openssl command writes the attributes and signs them, and nothing of ours.
"""

import hashlib
import subprocess
from collections.abc import Sequence
from datetime import datetime

from cryptography.hazmat.primitives.serialization import Encoding

from tests.protocol.sample_mail import SampleMail, good_mail
from tests.protocol.smime_mail import Identity, issuing, multipart, place, signer

PROTECTED = ("Subject", "To", "From")
CONTENT = (
    b'Content-Type: multipart/alternative;\r\n boundary="--_NmP-2"\r\n\r\n'
    b"----_NmP-2\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    b"<html><p>This mail was made automatically =\r\nfor a certificate.</p></html>\r\n"
    b'----_NmP-2\r\nContent-Type: application/json; charset=utf8\r\n\r\n{ "token-part1": "001c5f2f" }\r\n'
    b"----_NmP-2--\r\n"
)
_KIND = ' multipart/signed; protocol="application/pkcs7-signature";\r\n micalg=sha256; boundary="--_NmP-1"'


def sparse(mail: SampleMail | None = None, **signed: object) -> bytes:
    """The mail, signed so; `signed` as `sparse_der` has it."""
    chosen = mail or good_mail()
    return as_sent(chosen, sparse_der(chosen, **signed))  # type: ignore[arg-type]  # a test's keywords


def as_sent(outer: SampleMail, der: bytes, content: bytes = CONTENT) -> bytes:
    """A signature under the fields of `outer`, whatever it was made for."""
    return multipart(outer, content, der, kind=_KIND, boundary="--_NmP-1")


def sparse_der(
    mail: SampleMail,
    *,
    protected: Sequence[str] = PROTECTED,
    time: datetime | None = None,
    enclosed: bytes | None = CONTENT,
    content: bytes = CONTENT,
) -> bytes:
    """The SignedData over `content`, in which `enclosed` stands; `time` is the signing time, if any."""
    by = signer("rsa2048")
    attributes = _attributes(mail, protected, content, time)
    inside = [] if enclosed is None else [_tlv(0xA0, _tlv(0x04, enclosed))]
    sha256 = _tlv(0x30, bytes.fromhex("0609608648016503040201"), b"\5\0")
    one = _tlv(
        0x30,
        b"\2\1\1",
        _tlv(0x30, by.certificate.issuer.public_bytes(), _serial(by)),
        sha256,
        b"\xa0" + attributes[1:],  # RFC 5652 §5.4: signed as a SET OF, sent under another tag
        _tlv(0x30, bytes.fromhex("06092a864886f70d01010b"), b"\5\0"),
        _tlv(0x04, _signed(attributes, by)),
    )
    signed = _tlv(
        0x30,
        b"\2\1\1",
        _tlv(0x31, sha256),
        _tlv(0x30, bytes.fromhex("06092a864886f70d010701"), *inside),
        _tlv(0xA0, *(each.certificate.public_bytes(Encoding.DER) for each in (issuing(), by))),
        _tlv(0x31, one),
    )
    return _tlv(0x30, bytes.fromhex("06092a864886f70d010702"), _tlv(0xA0, signed))


def _attributes(mail: SampleMail, protected: Sequence[str], content: bytes, time: datetime | None) -> bytes:
    """A SET OF Attribute in DER."""
    values = {name.lower(): " ".join(value.split()) for name, value in mail.fields}
    lists = {
        "top": ["SEQUENCE:kind", "SEQUENCE:digest", "SEQUENCE:secure", *(["SEQUENCE:time"] if time else [])],
        "kind": ["OID:1.2.840.113549.1.9.3", "SET:kinds"],
        "kinds": ["OID:1.2.840.113549.1.7.1"],
        "digest": ["OID:1.2.840.113549.1.9.4", "SET:digests"],
        "digests": [f"FORMAT:HEX,OCTETSTRING:{hashlib.sha256(content).hexdigest()}"],
        "time": ["OID:1.2.840.113549.1.9.5", "SET:times"],
        "times": [f"UTCTIME:{time:%y%m%d%H%M%S}Z" if time else ""],
        "secure": ["OID:1.2.840.113549.1.9.16.2.55", "SET:secures"],
        "secures": ["SET:relaxed"],
        "relaxed": ["ENUMERATED:1", "SEQUENCE:fields"],
        "fields": [f"SEQUENCE:field{number}" for number in range(len(protected))],
    }
    for number, name in enumerate(protected):
        lists[f"field{number}"] = [f"VISIBLE:{name}", f"FORMAT:UTF8,UTF8:{values[name.lower()]}", "INTEGER:0"]
    written = "asn1 = SET:top\n" + "".join(
        f"[{section}]\n" + "".join(f"e{place} = {element}\n" for place, element in enumerate(elements))
        for section, elements in lists.items()
    )
    about, made = place() / "attributes.cnf", place() / "attributes.der"
    about.write_text(written)
    command = ["openssl", "asn1parse", "-genconf", str(about), "-noout", "-out", str(made)]
    subprocess.run(command, check=True, capture_output=True)
    return made.read_bytes()


def _signed(octets: bytes, by: Identity) -> bytes:
    _, key = by.files()
    command = ["openssl", "dgst", "-sha256", "-sign", key]
    return subprocess.run(command, input=octets, check=True, capture_output=True).stdout


def _serial(by: Identity) -> bytes:
    number = by.certificate.serial_number
    return _tlv(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _tlv(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content
