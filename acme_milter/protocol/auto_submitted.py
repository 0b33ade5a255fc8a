# SPDX-License-Identifier: GPL-3.0-or-later
"""The Auto-Submitted field (RFC 3834 §5.1): a keyword, perhaps amid comments, perhaps with parameters."""

import re

from acme_milter.protocol.headers import unfold

_KEYWORD = re.compile(rb"[A-Za-z0-9!#$%&'*+^_`{|}~-]+")


class InvalidAutoSubmitted(ValueError):
    """The value has no keyword, or something other than parameters after it."""

    safe_text = True


def parse_auto_submitted(value: bytes) -> str:
    """The keyword in lower case, e.g. "auto-generated" for "auto-generated; type=acme".

    Comments may nest and parameters are ignored (RFC 8823 §3.1 item 5 only says servers SHOULD add type=acme).
    Raises InvalidAutoSubmitted. Linear in the length of the value.
    """
    head = _without_comments(unfold(value)).partition(b";")[0].strip(b" \t")
    if not _KEYWORD.fullmatch(head):
        raise InvalidAutoSubmitted("no single keyword")
    return head.decode("ascii").lower()


def _without_comments(value: bytes) -> bytes:
    """The text before the parameters, each comment replaced by a blank (RFC 5322 §3.2.2)."""
    kept = bytearray()
    depth = 0
    escaped = False
    for octet in value:
        char = bytes((octet,))
        if escaped:
            escaped = False
        elif depth and char == b"\\":
            escaped = True
        elif char == b"(":
            depth += 1
            kept += b" "
        elif depth and char == b")":
            depth -= 1
        elif not depth:
            if char == b";":
                break
            kept += char
    if depth or escaped:
        raise InvalidAutoSubmitted("an unfinished comment")
    return bytes(kept)
