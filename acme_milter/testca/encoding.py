# SPDX-License-Identifier: GPL-3.0-or-later
"""base64url as RFC 8555 §6.1 wants it: no padding, and nothing else is let through either."""

import base64
import json
import re
from collections.abc import Mapping

_ALPHABET = re.compile(r"[A-Za-z0-9_-]*\Z")


def to_base64url(data: bytes) -> str:
    """Encode bytes as base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def from_base64url(text: object) -> bytes:
    """Decode unpadded base64url; ValueError for padding, foreign characters or stray bits (RFC 8555 §6.1)."""
    if not isinstance(text, str) or not _ALPHABET.match(text):
        raise ValueError("not base64url without padding")
    if len(text) % 4 == 1:
        raise ValueError("base64url of an impossible length")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if to_base64url(data) != text:
        raise ValueError("base64url with stray bits at its end")
    return data


def to_json(document: Mapping[str, object]) -> bytes:
    """Encode a JSON object compactly as UTF-8."""
    return json.dumps(document, separators=(",", ":")).encode("utf-8")
