# SPDX-License-Identifier: GPL-3.0-or-later
"""RFC 2047 encoded-words in an unstructured field, in the two charsets RFC 8823 §3.1 item 1 admits."""

import base64
import binascii
import re

from acme_milter.protocol.headers import unfold

# The language suffix is RFC 2231 §5. Every class excludes its own terminator, so matching is linear.
_WORD = re.compile(rb"=\?([^?*\s]+)(?:\*[^?\s]*)?\?([QqBb])\?([^?\s]*)\?=")
_BLANKS = re.compile(rb"([ \t]+)")
_HEX = re.compile(rb"=([0-9A-Fa-f]{2})")
_CODECS = {b"utf-8": "utf-8", b"us-ascii": "ascii"}


class UndecodableText(ValueError):
    """An encoded-word, or raw 8-bit text, that has no single reading."""

    safe_text = True


class UnsupportedCharset(UndecodableText):
    """An encoded-word in a charset other than UTF-8 and US-ASCII: RFC 8823 §3.1 item 1 makes the mail invalid."""


def decode_unstructured(value: bytes) -> str:
    """Unfold and decode a field value; blanks between two encoded-words vanish (RFC 2047 §6.2).

    Raw octets outside encoded-words are read as UTF-8 (RFC 6532). Raises UnsupportedCharset or UndecodableText.
    Linear in the length of the value.
    """
    parts = _BLANKS.split(unfold(value))
    decoded: list[str] = []
    after_word = False
    for position in range(0, len(parts), 2):
        match = _WORD.fullmatch(parts[position])
        if position and not (after_word and match):
            decoded.append(parts[position - 1].decode("ascii"))
        decoded.append(_decode_word(match) if match else _utf8(parts[position]))
        after_word = match is not None
    return "".join(decoded)


def _utf8(text: bytes) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        raise UndecodableText("octets that are not UTF-8") from None


def _decode_word(match: re.Match[bytes]) -> str:
    charset, encoding, text = match.groups()
    codec = _CODECS.get(charset.lower())
    if codec is None:
        raise UnsupportedCharset("an encoded-word in a charset other than UTF-8 and US-ASCII")
    octets = _decode_q(text) if encoding in b"Qq" else _decode_b(text)
    try:
        return octets.decode(codec)
    except UnicodeDecodeError:
        raise UndecodableText("an encoded-word that is not valid in its charset") from None


def _decode_q(text: bytes) -> bytes:
    if text.count(b"=") != len(_HEX.findall(text)):
        raise UndecodableText("an encoded-word with a broken = escape")
    return _HEX.sub(lambda found: bytes.fromhex(found[1].decode("ascii")), text.replace(b"_", b" "))


def _decode_b(text: bytes) -> bytes:
    try:
        # Python takes superfluous padding in silence, so the length is checked besides.
        return base64.b64decode(text if len(text) % 4 == 0 else b"=", validate=True)
    except binascii.Error:
        raise UndecodableText("an encoded-word with broken base64") from None
