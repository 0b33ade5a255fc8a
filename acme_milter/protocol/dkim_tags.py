# SPDX-License-Identifier: GPL-3.0-or-later
"""Tag lists of DKIM (RFC 6376 §3.2): `name=value; …`, read by our own tokenizer before any library sees them."""

import base64
import binascii
import re

_NAME = re.compile(rb"[A-Za-z][A-Za-z0-9_]*")
# VALCHAR and the blanks of FWS; UTF-8 for internationalized mail (RFC 8616 §4). Folding is undone beforehand.
_VALUE = re.compile(rb"[\x21-\x3a\x3c-\x7e\x80-\xff \t]*")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]+={0,2}")


class InvalidTagList(ValueError):
    """The text is not a tag list, or a tag's value is not of its form."""

    safe_text = True


def parse_tag_list(text: bytes) -> dict[str, bytes]:
    """The tags in order, values without the blanks around them; a second tag of one name is refused.

    `text` is unfolded. A semicolon may end the list, but no tag may be empty. Raises InvalidTagList. Linear.
    """
    specs = text.split(b";")
    if not specs[-1].strip(b" \t"):
        specs.pop()
    tags: dict[str, bytes] = {}
    for spec in specs:
        name, equals, value = spec.partition(b"=")
        name = name.strip(b" \t")
        if not equals or not _NAME.fullmatch(name):
            raise InvalidTagList("a tag without a proper name")
        key = name.decode("ascii")
        if key in tags:
            raise InvalidTagList("a tag that occurs twice")
        value = value.strip(b" \t")
        if not _VALUE.fullmatch(value):
            raise InvalidTagList("a tag value with characters that are not allowed")
        tags[key] = value
    return tags


def without_blanks(value: bytes) -> bytes:
    """The value with all inner blanks removed, as base64 and `h=` values allow them."""
    return value.translate(None, b" \t")


def decode_base64(value: bytes) -> bytes:
    """Strict base64 of one or more octets, blanks allowed; raises InvalidTagList."""
    packed = without_blanks(value)
    if len(packed) % 4 or not _BASE64.fullmatch(packed):
        raise InvalidTagList("a tag value that is not base64")
    try:
        return base64.b64decode(packed, validate=True)
    except binascii.Error:
        raise InvalidTagList("a tag value that is not base64") from None
