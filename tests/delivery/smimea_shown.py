# SPDX-License-Identifier: GPL-3.0-or-later
"""What dig shows of a certificate in DNS, worked out once more."""

import hashlib

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from acme_milter.delivery.smimea import SmimeaDelivery
from tests.delivery.mailbox_certificates import a_certificate, der, parcel_of

USAGES = ("3 0 0", "3 1 1", "3 1 2", "3 0 1", "3 0 2")


def association(certificate: x509.Certificate, usage: str) -> str:
    """RFC 6698 §2.1 once more, as dig shows it without blanks."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    octets = spki if usage[2] == "1" else der(certificate)
    digests = {"0": octets, "1": hashlib.sha256(octets).digest(), "2": hashlib.sha512(octets).digest()}
    return f"{usage} {digests[usage[4]].hex().upper()}"


def as_shown(lines: list[str]) -> list[str]:
    """dig breaks the hex up."""
    return sorted(" ".join(line.split(" ")[:3]) + " " + "".join(line.split(" ")[3:]) for line in lines)


def put(target: SmimeaDelivery, address: str, certificate: x509.Certificate | None = None) -> str:
    return target.deliver(parcel_of(address, certificate or a_certificate(address))).outcome
