# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a reply as RFC 8823 §3.2 tells the server to: Subject, addresses, forbidden headers, the digest."""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message

from acme_milter.testca.encoding import from_base64url, to_base64url
from acme_milter.testca.ledger import Challenge

_HEADER = re.compile(rb"([!-9;-~]+)[ \t]*:(.*)\Z", re.DOTALL)
_WORD = re.compile(r"=\?([^?\s]+)\?([QqBb])\?([^?\s]*)\?=")
_BETWEEN_WORDS = re.compile(r"(\?=)[ \t\r\n]+(?==\?)")
_TOKEN = re.compile(r"ACME:(.*)\Z", re.DOTALL)
_BLOCK = re.compile(r"-----BEGIN ACME RESPONSE-----[ \t]*\r?\n(.*?)-----END ACME RESPONSE-----", re.DOTALL)
_ADDRESS = re.compile(r"(?:[^<>@,;:\"()]*|\"[^\"\\\r\n]*\"\s*)<([^<>\s,;]+@[^<>\s,;@]+)>\Z|([^<>\s,;]+@[^<>\s,;@]+)\Z")
_SINGLE = ("from", "sender", "reply-to", "to", "cc", "subject", "date", "in-reply-to", "references", "message-id")


@dataclass(frozen=True, slots=True)
class Reply:
    """A received mail, its header fields by lower-case name in wire order, values unfolded."""

    raw: bytes = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)

    def values(self, name: str) -> list[str]:
        """Return all values of a header."""
        return [value for found, value in self.headers if found == name]

    def first(self, name: str) -> str:
        """Return the top-most value of a header, empty when there is none."""
        return next(iter(self.values(name)), "")


def read_reply(raw: bytes) -> Reply:
    """Split the header block of a mail with CRLF lines; lines that are no header field are left out."""
    head = re.sub(rb"\r\n(?=[ \t])", b"", raw.partition(b"\r\n\r\n")[0])
    matches = [match for line in head.split(b"\r\n") if (match := _HEADER.match(line))]
    return Reply(
        raw,
        tuple(
            (match[1].decode("ascii").lower(), match[2].decode("utf-8", "surrogateescape").strip()) for match in matches
        ),
    )


def decode_words(value: str) -> str | None:
    """Decode RFC 2047 encoded-words; None when one has a charset other than UTF-8 or US-ASCII (§3.1 item 1)."""
    words = [_decode_word(match) for match in _WORD.finditer(value)]
    if None in words:
        return None
    decoded = iter(words)
    return _WORD.sub(lambda _match: next(decoded) or "", _BETWEEN_WORDS.sub(r"\1", value))


def _decode_word(match: re.Match[str]) -> str | None:
    charset, encoding, text = match[1].partition("*")[0].lower(), match[2].lower(), match[3]
    if charset not in ("utf-8", "us-ascii"):
        return None
    try:
        data = base64.b64decode(text, validate=True) if encoding == "b" else binascii.a2b_qp(text, header=True)
        return data.decode(charset)
    except ValueError:
        return None


def subject_token(subject: str) -> str | None:
    """Return token-part1 of a reply's Subject without blanks and padding; None when there is none."""
    decoded = decode_words(subject)
    match = _TOKEN.search(decoded) if decoded is not None else None
    token = "".join(match[1].split()).rstrip("=") if match else ""
    try:
        from_base64url(token)
    except ValueError:
        return None
    return token or None


def single_address(value: str) -> str | None:
    """Return the one address of a From or To header, its domain in lower case; None for anything else."""
    match = _ADDRESS.match(value.strip())
    if match is None:
        return None
    local, _, domain = (match[1] or match[2]).rpartition("@")
    return f"{local}@{domain.lower()}"


def join_tokens(challenge: Challenge, joining: str) -> str:
    """Return the token of a challenge (RFC 8823 §3 step 6) in one of the readings of knob TOKEN_JOIN."""
    if joining == "bytes":
        return to_base64url(challenge.token_part1 + challenge.token_part2)
    part1 = to_base64url(challenge.token_part1)
    if joining == "string-padded":
        part1 += "=" * (-len(part1) % 4)
    return part1 + to_base64url(challenge.token_part2)


def expected_digest(challenge: Challenge, joining: str, thumbprint: str) -> str:
    """Return base64url(SHA-256(keyAuthorization)) (RFC 8555 §8.1)."""
    authorization = f"{join_tokens(challenge, joining)}.{thumbprint}"
    return to_base64url(hashlib.sha256(authorization.encode("ascii")).digest())


def found_digest(reply: Reply) -> str | None:
    """Return the digest of the first text/plain part, whitespace and padding dropped (§3.2 item 7); None if absent."""
    part = _text_part(message_from_bytes(reply.raw))
    payload = part.get_payload(decode=True) if part is not None else None
    if not isinstance(payload, bytes):
        return None
    match = _BLOCK.search(payload.decode("utf-8", "replace"))
    return "".join(match[1].split()).rstrip("=") if match else None


def _text_part(message: Message) -> Message | None:
    kind = message.get_content_type()
    if kind == "text/plain":
        return message
    if kind == "multipart/alternative":
        return next((part for part in message.walk() if part.get_content_type() == "text/plain"), None)
    return None


def reply_faults(reply: Reply, challenge: Challenge, identifier: str, digest: str, threading: str) -> list[str]:
    """Return the names of everything wrong with a reply short of DKIM; empty when it proves control of the mailbox."""
    faults = [f"duplicate-header:{name}" for name in _SINGLE if len(reply.values(name)) > 1]
    if single_address(reply.first("from")) != identifier:
        faults.append("from")
    if single_address(reply.first("to")) != (challenge.reply_to or challenge.sender):
        faults.append("to")
    if any(name.startswith("list-") for name, _ in reply.headers):
        faults.append("list-header")
    found = found_digest(reply)
    if found is None:
        faults.append("no-response-block")
    elif not hmac.compare_digest(found.encode(), digest.encode()):
        faults.append("digest")
    thread = threading_verdict(reply, challenge.message_id)
    if (threading == "checked" and thread == "mismatch") or (threading == "required" and thread != "match"):
        faults.append("threading")
    return faults


def threading_verdict(reply: Reply, message_id: str | None) -> str:
    """Return match, mismatch or absent: does In-Reply-To name the challenge mail? (§3.2 item 5, a SHOULD)"""
    identifiers: Collection[str] = reply.first("in-reply-to").split()
    if not identifiers:
        return "absent"
    return "match" if message_id in identifiers else "mismatch"
