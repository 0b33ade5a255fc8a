# SPDX-License-Identifier: GPL-3.0-or-later
"""The Subject of a challenge mail: "ACME:" FWS token-part1, folded or encoded as it may be (RFC 8823 §3.1 item 1)."""

import re

from acme_milter.protocol.encoded_word import UndecodableText, decode_unstructured
from acme_milter.protocol.token import InvalidToken, TokenPart1

# 96 octets of token, each character an escape in an encoded-word of its own, would still fit; longer is no challenge.
MAX_SUBJECT_OCTETS = 4096

_PREFIX = "ACME:"
_SUBJECT = re.compile(r"ACME:[ \t]([A-Za-z0-9_= \t-]+)")


def parse_challenge_subject(value: bytes) -> TokenPart1 | None:
    """Read token-part1 from a Subject's value as on the wire; None when this is no challenge.

    Space, tab and folds inside the token are removed, padding is kept. "Re: ACME: …" is a reply (RFC 8823 §3 step
    5), an encoded-word in another charset than UTF-8 and US-ASCII is invalid, and nothing may follow the token.
    """
    match = _SUBJECT.fullmatch(_decoded(value).strip(" \t"))
    if match is None:
        return None
    try:
        return TokenPart1(match[1].translate({ord(" "): None, ord("\t"): None}))
    except InvalidToken:
        return None


def looks_like_challenge(value: bytes) -> bool:
    """Whether the decoded Subject begins with "ACME:": true for all that parse_challenge_subject accepts, and more.

    Cheap enough for every mail of a managed mailbox; never raises. Folds may be CRLF or, as libmilter hands them, LF.
    """
    start = value.lstrip(b" \t\r\n")
    if start.startswith(b"ACME:"):
        return True
    if not start.startswith(b"=?"):
        return False
    return _decoded(start.replace(b"\r", b"").replace(b"\n", b"")).lstrip(" \t").startswith(_PREFIX)


def _decoded(value: bytes) -> str:
    if len(value) > MAX_SUBJECT_OCTETS:
        return ""
    try:
        return decode_unstructured(value)
    except UndecodableText:
        return ""
