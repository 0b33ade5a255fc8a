# SPDX-License-Identifier: GPL-3.0-or-later
"""One DKIM-Signature field as a value (RFC 6376 §3.5), narrowed to what we accept (RFC 8301, RFC 8463)."""

import re
from dataclasses import dataclass
from enum import StrEnum

from acme_milter.protocol.dkim_tags import InvalidTagList, decode_base64, parse_tag_list, without_blanks
from acme_milter.protocol.faults import MailFault, MailRefused
from acme_milter.protocol.headers import unfold
from acme_milter.protocol.mailbox import InvalidMailbox, canonical_domain

_REQUIRED_TAGS = ("v", "a", "b", "bh", "d", "h", "s")
_SELECTOR_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?")
_HEADER_NAME = re.compile(rb"[\x21-\x39\x3c-\x7e]+")
_DIGITS = re.compile(rb"[0-9]{1,12}")
_CANONICALIZATION = re.compile(rb"(simple|relaxed)(?:/(simple|relaxed))?")
_BODY_HASH_OCTETS = 32
_ED25519_SIGNATURE_OCTETS = 64
_RSA_SIGNATURE_OCTETS = range(64, 513)  # 512 to 4096 bits: a key too short is reported as that, not as bad syntax


class SignatureAlgorithm(StrEnum):
    """The algorithms we verify: RFC 8301 §3.1 forbids rsa-sha1, RFC 8463 adds ed25519-sha256."""

    RSA_SHA256 = "rsa-sha256"
    ED25519_SHA256 = "ed25519-sha256"


@dataclass(frozen=True, slots=True)
class Signature:
    """The tags of one signature. `index` counts DKIM-Signature fields from the top, 0 first.

    `domain` is the lower-case A-label form of d=, `identity_domain` that of the domain of i= (d= when i= is absent),
    `header_names` are lower case in the order of h=, `timestamp` and `expiration` are seconds since 1970.
    """

    index: int
    domain: str
    selector: str
    algorithm: SignatureAlgorithm
    header_names: tuple[str, ...]
    header_canonicalization: str
    body_canonicalization: str
    identity_domain: str
    timestamp: int | None
    expiration: int | None


def signature_tags(value: bytes) -> dict[str, bytes]:
    """The tag list of a DKIM-Signature field value; raises MailRefused(DKIM_TAGS)."""
    try:
        return parse_tag_list(unfold(value))
    except InvalidTagList as problem:
        raise _tags(f"DKIM-Signature has {problem}") from None


def signature_domain(tags: dict[str, bytes]) -> str | None:
    """The canonical form of d=, or None when it is absent or no domain (RFC 8616 §4: U-labels may occur)."""
    try:
        return canonical_domain(tags["d"].decode("utf-8"))
    except (KeyError, UnicodeDecodeError, InvalidMailbox):
        return None


def parse_signature(index: int, tags: dict[str, bytes]) -> Signature:
    """Read one signature from its tags; raises MailRefused with DKIM_TAGS, DKIM_ALGORITHM or DKIM_LENGTH_TAG."""
    for tag in _REQUIRED_TAGS:
        if not tags.get(tag):
            raise _tags(f"DKIM-Signature has no {tag}=")
    if tags["v"] != b"1":
        raise _tags("DKIM-Signature has a v= other than 1")
    algorithm = _algorithm(tags["a"])
    if "l" in tags:
        # What is appended beyond l= is unsigned, and Content-Type decides how it is read (RFC 6376 §8.2).
        raise MailRefused(MailFault.DKIM_LENGTH_TAG, "DKIM-Signature has l=")
    if tags.get("q", b"dns/txt") != b"dns/txt":
        raise _tags("DKIM-Signature has a q= other than dns/txt")
    _check_values(tags, algorithm)
    domain = signature_domain(tags)
    if domain is None:
        raise _tags("DKIM-Signature has a d= that is no domain")
    canonicalization = _CANONICALIZATION.fullmatch(tags.get("c", b"simple/simple"))
    if canonicalization is None:
        raise _tags("DKIM-Signature has an unknown c=")
    header, body = (part or b"simple" for part in canonicalization.groups())
    return Signature(
        index=index,
        domain=domain,
        selector=_selector(tags["s"]),
        algorithm=algorithm,
        header_names=_header_names(tags["h"]),
        header_canonicalization=header.decode("ascii"),
        body_canonicalization=body.decode("ascii"),
        identity_domain=_identity_domain(tags.get("i"), domain),
        timestamp=_seconds(tags, "t"),
        expiration=_seconds(tags, "x"),
    )


def _tags(detail: str) -> MailRefused:
    return MailRefused(MailFault.DKIM_TAGS, detail)


def _algorithm(value: bytes) -> SignatureAlgorithm:
    try:
        return SignatureAlgorithm(value.decode("ascii"))
    except (ValueError, UnicodeDecodeError):
        detail = "DKIM-Signature has an a= other than rsa-sha256 and ed25519-sha256"
        raise MailRefused(MailFault.DKIM_ALGORITHM, detail) from None


def _check_values(tags: dict[str, bytes], algorithm: SignatureAlgorithm) -> None:
    try:
        body_hash, signature = decode_base64(tags["bh"]), decode_base64(tags["b"])
    except InvalidTagList as problem:
        raise _tags(f"DKIM-Signature has {problem}") from None
    if len(body_hash) != _BODY_HASH_OCTETS:
        raise _tags("DKIM-Signature has a bh= that is no SHA-256")
    if algorithm is SignatureAlgorithm.ED25519_SHA256:
        plausible = len(signature) == _ED25519_SIGNATURE_OCTETS
    else:
        plausible = len(signature) in _RSA_SIGNATURE_OCTETS
    if not plausible:
        raise _tags("DKIM-Signature has a b= of an impossible length")


def _selector(value: bytes) -> str:
    try:
        selector = value.decode("ascii")
    except UnicodeDecodeError:
        raise _tags("DKIM-Signature has an s= outside ASCII") from None
    if len(selector) > 180 or not all(_SELECTOR_LABEL.fullmatch(label) for label in selector.split(".")):
        raise _tags("DKIM-Signature has an s= that is no selector")
    return selector.lower()


def _header_names(value: bytes) -> tuple[str, ...]:
    names = [name.strip(b" \t") for name in value.split(b":")]
    if not all(_HEADER_NAME.fullmatch(name) for name in names):
        raise _tags("DKIM-Signature has an h= that is no list of names")
    lowered = tuple(name.decode("ascii").lower() for name in names)
    if "from" not in lowered:
        raise _tags("DKIM-Signature has an h= without From")  # RFC 6376 §5.4
    return lowered


def _identity_domain(value: bytes | None, domain: str) -> str:
    if value is None:
        return domain
    try:
        identity = canonical_domain(without_blanks(value).rpartition(b"@")[2].decode("utf-8"))
    except (UnicodeDecodeError, InvalidMailbox):
        raise _tags("DKIM-Signature has an i= without a domain") from None
    # RFC 6376 §3.5: the domain of i= is d= or below it.
    if b"@" not in value or not (identity == domain or identity.endswith(f".{domain}")):
        raise _tags("DKIM-Signature has an i= outside d=")
    return identity


def _seconds(tags: dict[str, bytes], name: str) -> int | None:
    if name not in tags:
        return None
    if not _DIGITS.fullmatch(tags[name]):
        raise _tags(f"DKIM-Signature has a {name}= that is no time")
    return int(tags[name])
