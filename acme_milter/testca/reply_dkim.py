# SPDX-License-Identifier: GPL-3.0-or-later
"""DKIM of the reply (RFC 8823 §3.2 item 9): the policy is ours, the arithmetic dkimpy's."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import dkim

from acme_milter.testca.reply import Reply, single_address

# Auto-Submitted is missing on purpose: §3.2 item 9 does not list it for replies.
REPLY_NAMES = (
    "from",
    "sender",
    "reply-to",
    "to",
    "cc",
    "subject",
    "date",
    "in-reply-to",
    "references",
    "message-id",
    "content-type",
    "content-transfer-encoding",
)
_ALGORITHMS = {"rsa-sha256": "rsa", "ed25519-sha256": "ed25519"}
_MOST_SIGNATURES = 8
LookUp = Callable[[str], Awaitable[Sequence[bytes]]]


async def dkim_faults(reply: Reply, look_up: LookUp, *, strict: bool, now: datetime) -> list[str]:
    """Return why no signature proves the From domain; empty when one does all by itself (RFC 6376 §6.1).

    `lenient` (not strict) asks for a good signature of the From domain and nothing else. LookupFailedError passes.
    """
    sender = single_address(reply.first("from"))
    if sender is None:
        return ["dkim-from"]
    domain = sender.rpartition("@")[2]
    signatures = reply.values("dkim-signature")[:_MOST_SIGNATURES]
    if not signatures:
        return ["dkim-none"]
    faults: list[str] = []
    for index, value in enumerate(signatures):
        one = await _signature_faults(reply, index, tags_of(value), domain, look_up, strict=strict, now=now)
        if not one:
            return []
        faults += [fault for fault in one if fault not in faults]
    return faults


def tags_of(value: str) -> dict[str, str]:
    """Return a tag list (RFC 6376 §3.2) with all blanks inside values removed."""
    pairs = (part.partition("=") for part in value.split(";"))
    return {name.strip(): re.sub(r"\s+", "", text) for name, sign, text in pairs if sign}


async def _signature_faults(
    reply: Reply, index: int, tags: dict[str, str], domain: str, look_up: LookUp, *, strict: bool, now: datetime
) -> list[str]:
    if tags.get("d", "").lower() != domain:
        return ["dkim-domain"]
    faults = _policy_faults(tags, now) if strict else []
    if faults or not tags.get("s"):
        return faults or ["dkim-tags"]
    texts = await look_up(f"{tags['s']}._domainkey.{domain}")
    if len(texts) != 1:
        return ["dkim-key-absent" if not texts else "dkim-key-ambiguous"]
    key = tags_of(texts[0].decode("ascii", "replace"))
    faults = _key_faults(key, tags) if strict else []
    if not faults and not _verifies(reply.raw, index, texts[0]):
        faults.append("dkim-signature")
    return faults


def _policy_faults(tags: dict[str, str], now: datetime) -> list[str]:
    listed = {name.strip().lower() for name in tags.get("h", "").split(":")}
    faults = [f"dkim-missing-name:{name}" for name in REPLY_NAMES if name not in listed]
    if tags.get("v") != "1" or not all(tags.get(tag) for tag in ("a", "b", "bh", "s")):
        faults.append("dkim-tags")
    if tags.get("a", "").lower() not in _ALGORITHMS:
        faults.append("dkim-algorithm")
    if "l" in tags:
        faults.append("dkim-length-tag")
    seconds = now.timestamp()
    signed, expires = tags.get("t", ""), tags.get("x", "")
    if (expires.isdigit() and int(expires) < seconds) or (signed.isdigit() and int(signed) > seconds + 300):
        faults.append("dkim-time")
    identity = tags.get("i", "").lower().rpartition("@")[2]
    if identity and identity != tags["d"].lower() and not identity.endswith("." + tags["d"].lower()):
        faults.append("dkim-identity")
    return faults


def _key_faults(key: dict[str, str], tags: dict[str, str]) -> list[str]:
    """RFC 6376 §3.6.1."""
    faults = []
    if not key.get("p"):
        faults.append("dkim-key-revoked")
    if "y" in key.get("t", "").split(":"):
        faults.append("dkim-key-testing")
    if key.get("v", "DKIM1") != "DKIM1" or key.get("k", "rsa") != _ALGORITHMS[tags["a"].lower()]:
        faults.append("dkim-key-unusable")
    if "h" in key and "sha256" not in key["h"].split(":"):
        faults.append("dkim-key-unusable")
    if not {"*", "email"} & set(key.get("s", "*").split(":")):
        faults.append("dkim-key-unusable")
    return faults


def leave_times_to_us() -> None:
    """Have dkimpy, in this whole process, judge t= and x= no more: it would by the machine's clock, not by the CA's."""
    theirs = dkim.validate_signature_fields

    def check(tags: Mapping[bytes, bytes], *others: Any) -> None:
        theirs({name: value for name, value in tags.items() if name not in (b"t", b"x")}, *others)

    dkim.validate_signature_fields = check


def _verifies(raw: bytes, index: int, record: bytes) -> bool:
    try:
        verifier = dkim.DKIM(raw, minkey=1024)
        return bool(verifier.verify(idx=index, dnsfunc=lambda _name, timeout=5: record))
    except dkim.DKIMException:
        return False
