# SPDX-License-Identifier: GPL-3.0-or-later
"""A DKIM key record and whether it may prove a challenge mail (RFC 6376 §3.6.1, RFC 8301 §3.2, RFC 8463)."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from acme_milter.protocol.dkim_signature import Signature, SignatureAlgorithm
from acme_milter.protocol.dkim_tags import InvalidTagList, decode_base64, parse_tag_list, without_blanks
from acme_milter.protocol.faults import MailFault, MailRefused
from acme_milter.protocol.rsa_key_size import InvalidRsaKey, rsa_modulus_bits

HARD_MINIMUM_RSA_BITS = 1024  # RFC 8301 §3.2: shorter keys are never valid
MAXIMUM_RSA_BITS = 4096
MAX_RECORD_OCTETS = 4096
_ED25519_OCTETS = 32


class KeyKind(StrEnum):
    """The value of k=."""

    RSA = "rsa"
    ED25519 = "ed25519"


_KIND_OF_ALGORITHM = {
    SignatureAlgorithm.RSA_SHA256: KeyKind.RSA,
    SignatureAlgorithm.ED25519_SHA256: KeyKind.ED25519,
}


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A usable public key: its kind, its size in bits, whether t=s ties i= to d=, and the decoded p=."""

    kind: KeyKind
    bits: int
    strict_identity: bool
    public_key: bytes = field(repr=False)

    def canonical(self) -> bytes:
        """The record in its shortest form, so that whoever computes with it has nothing left to interpret."""
        return b"k=" + self.kind.encode("ascii") + b"; p=" + base64.b64encode(self.public_key)


def key_name(signature: Signature) -> str:
    """The DNS name of the key: `selector._domainkey.domain`, all A-labels, no final dot (RFC 6376 §3.6.2.1)."""
    return f"{signature.selector}._domainkey.{signature.domain}"


def parse_key_record(txts: Sequence[bytes]) -> KeyRecord:
    """Read the TXT answer for a key, each record's strings already joined (RFC 6376 §3.6.2.2).

    Several records have no defined meaning and are refused. Raises MailRefused with DKIM_KEY_MISSING, _REVOKED,
    _TESTING or _UNUSABLE.
    """
    if not txts:
        raise MailRefused(MailFault.DKIM_KEY_MISSING, "there is no key record")
    if len(txts) > 1:
        raise _unusable("there are several key records")
    if len(txts[0]) > MAX_RECORD_OCTETS:
        raise _unusable(f"the key record is longer than {MAX_RECORD_OCTETS} octets")
    try:
        tags = parse_tag_list(txts[0])
    except InvalidTagList as problem:
        raise _unusable(f"the key record has {problem}") from None
    strict_identity = _check_tags(tags)
    kind = _kind(tags)
    public_key = _public_key(tags)
    return KeyRecord(kind, _bits(kind, public_key), strict_identity, public_key)


def check_key(record: KeyRecord, signature: Signature, *, minimum_rsa_bits: int = HARD_MINIMUM_RSA_BITS) -> None:
    """Whether this key may verify this signature; raises MailRefused with DKIM_KEY_UNUSABLE or _TOO_SHORT."""
    if record.kind is not _KIND_OF_ALGORITHM[signature.algorithm]:
        raise _unusable("the key is not of the signature's algorithm")
    if record.strict_identity and signature.identity_domain != signature.domain:
        raise _unusable("the key has t=s and the signature's i= is below d=")
    if record.kind is not KeyKind.RSA:
        return
    if record.bits > MAXIMUM_RSA_BITS:
        raise _unusable(f"the key has {record.bits} bits, more than {MAXIMUM_RSA_BITS}")
    minimum = max(minimum_rsa_bits, HARD_MINIMUM_RSA_BITS)
    if record.bits < minimum:
        detail = f"the key has {record.bits} bits, fewer than {minimum} (minimum_rsa_bits)"
        raise MailRefused(MailFault.DKIM_KEY_TOO_SHORT, detail)


def _unusable(detail: str) -> MailRefused:
    return MailRefused(MailFault.DKIM_KEY_UNUSABLE, detail)


def _listed(tags: dict[str, bytes], name: str) -> list[bytes] | None:
    return [item.strip(b" \t") for item in tags[name].split(b":")] if name in tags else None


def _check_tags(tags: dict[str, bytes]) -> bool:
    """Check v, h, s and t; true when t=s."""
    if "v" in tags and (next(iter(tags)) != "v" or tags["v"] != b"DKIM1"):
        raise _unusable("the key record has a v= that is not DKIM1 in first place")
    hashes = _listed(tags, "h")
    if hashes is not None and b"sha256" not in hashes:
        raise _unusable("the key record's h= does not admit sha256")
    services = _listed(tags, "s")
    if services is not None and not {b"*", b"email"} & set(services):
        raise _unusable("the key record's s= does not admit email")
    flags = _listed(tags, "t") or []
    if b"y" in flags:
        # RFC 6376 §3.6.1: a domain that tests DKIM must be treated as if the mail were unsigned.
        raise MailRefused(MailFault.DKIM_KEY_TESTING, "the key record has t=y")
    return b"s" in flags


def _kind(tags: dict[str, bytes]) -> KeyKind:
    try:
        return KeyKind(tags.get("k", b"rsa").decode("ascii"))
    except (ValueError, UnicodeDecodeError):
        raise _unusable("the key record has an unknown k=") from None


def _public_key(tags: dict[str, bytes]) -> bytes:
    if "p" not in tags:
        raise _unusable("the key record has no p=")
    if not without_blanks(tags["p"]):
        raise MailRefused(MailFault.DKIM_KEY_REVOKED, "the key record has an empty p=")
    try:
        return decode_base64(tags["p"])
    except InvalidTagList:
        raise _unusable("the key record has a p= that is not base64") from None


def _bits(kind: KeyKind, public_key: bytes) -> int:
    if kind is KeyKind.ED25519:
        if len(public_key) != _ED25519_OCTETS:
            raise _unusable("the key record's p= is no ed25519 key")
        return 8 * _ED25519_OCTETS
    try:
        return rsa_modulus_bits(public_key)
    except InvalidRsaKey as problem:
        raise _unusable(f"the key record's p= is {problem}") from None
