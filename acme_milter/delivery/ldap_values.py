# SPDX-License-Identifier: GPL-3.0-or-later
"""Which certificates an entry of a directory is to have, after ours has come."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What to do to the attribute. `kept` and `unread` count the values that stay: other certificates, and values that
    are none.
    """

    add: bool
    """Whether ours is still to be put there."""

    delete: tuple[bytes, ...]
    kept: int
    unread: int
    outranked: bool
    """Whether as many newer ones are there as an entry may have, so that ours is not to be."""


def change_for(ours: bytes, present: Sequence[bytes], keep: int, now: datetime) -> Change:
    """The newest `keep` by their notBefore stay, whoever put them there; what has expired goes.

    `keep` counts certificates to encrypt to, and those that can only sign by themselves: where a mailbox has one of
    each, neither may push the other out. A value that is no certificate is somebody else's matter and left alone.
    """
    others: list[tuple[bytes, x509.Certificate]] = []
    delete: list[bytes] = []
    unread = 0
    for value in present:
        certificate = _read(value)
        if certificate is None:
            unread += 1
        elif value != ours:
            if certificate.not_valid_after_utc <= now:
                delete.append(value)
            else:
                others.append((value, certificate))
    own = x509.load_der_x509_certificate(ours)
    rivals = [pair for pair in others if _only_signs(pair[1]) == _only_signs(own)]
    rivals.sort(key=lambda pair: pair[1].not_valid_before_utc, reverse=True)
    newer = [pair for pair in rivals if pair[1].not_valid_before_utc > own.not_valid_before_utc]
    outranked = len(newer) >= keep
    room = keep if outranked else keep - 1
    delete += [value for value, _ in rivals[room:]]
    if outranked and ours in present:
        delete.append(ours)
    return Change(
        add=not outranked and ours not in present,
        delete=tuple(delete),
        kept=len(others) - len(rivals[room:]),
        unread=unread,
        outranked=outranked,
    )


def is_stale(ours: bytes, signed_data: bytes) -> bool:
    """Whether a value of userSMIMECertificate (a PKCS#7 SignedData, RFC 2798 §2.8) is about other certificates.

    Outlook reads it before userCertificate, so one that is older than ours hides ours. Only the person's own mail
    program can make a new one; where it has done so, ours is in it.
    """
    return ours not in set(_certificates_in(signed_data))


def _certificates_in(signed_data: bytes) -> Iterator[bytes]:
    try:
        with warnings.catch_warnings(action="ignore"):  # of BER that is not DER: Outlook's own is read as it is
            found = pkcs7.load_der_pkcs7_certificates(signed_data)
    except (ValueError, UnsupportedAlgorithm):
        return
    yield from (certificate.public_bytes(Encoding.DER) for certificate in found)


def _read(value: bytes) -> x509.Certificate | None:
    try:
        return x509.load_der_x509_certificate(value)
    except (ValueError, x509.InvalidVersion):
        return None


def _only_signs(certificate: x509.Certificate) -> bool:
    """True when its keyUsage allows nobody to encrypt to it (RFC 8550 §4.4.2)."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return False
    return not (usage.key_encipherment or usage.key_agreement)
