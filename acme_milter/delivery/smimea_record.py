# SPDX-License-Identifier: GPL-3.0-or-later
"""A certificate as an SMIMEA record: its owner name and its data (RFC 8162)."""

import hashlib
import unicodedata
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_LABEL_OCTETS = 28
_HEX_GROUP = 128
_DIGESTS = {"1": "sha256", "2": "sha512"}


@dataclass(frozen=True, slots=True)
class SmimeaRecord:
    """One record. `association` is what the usage makes of the certificate; `serial` is lower-case hex."""

    usage: str
    association: bytes
    serial: str
    not_after: datetime

    def data(self) -> str:
        """RDATA in presentation format (RFC 8162 §2): the hex in groups, which a zone file's reader takes apart."""
        text = self.association.hex()
        groups = [text[at : at + _HEX_GROUP] for at in range(0, len(text), _HEX_GROUP)]
        return f"{self.usage} {' '.join(groups)}"


def owner_name(address: str) -> str:
    """Where the records of a mailbox are, without a dot at the end (RFC 8162 §3).

    The first 28 octets of SHA-256 of the local part, in UTF-8 and NFC, exactly as it is written: upper and lower case
    are different names. `address` has its domain as A-label.
    """
    local, _, domain = address.rpartition("@")
    digest = hashlib.sha256(unicodedata.normalize("NFC", local).encode("utf-8")).digest()
    return f"{digest[:_LABEL_OCTETS].hex()}._smimecert.{domain}"


def record_for(certificate: x509.Certificate, usage: str) -> SmimeaRecord:
    """`usage` is certificate usage, selector and matching type, such as `3 1 1` (RFC 8162 §2, RFC 6698 §2.1): the whole
    certificate (selector 0) or its public key (1), as it is (0), by SHA-256 (1) or SHA-512 (2).
    """
    _, selector, matching = usage.split(" ")
    if selector == "0":
        selected = certificate.public_bytes(Encoding.DER)
    else:
        selected = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    association = selected if matching == "0" else hashlib.new(_DIGESTS[matching], selected).digest()
    return SmimeaRecord(usage, association, format(certificate.serial_number, "x"), certificate.not_valid_after_utc)
