# SPDX-License-Identifier: GPL-3.0-or-later
"""BER's indefinite lengths turned into definite ones (X.690 §8.1.3.6), so that a reader of DER can read the rest.

RFC 5652 lets a signer write its SignedData as a stream, and libraries in wide use do. What is of definite length all
through is left octet for octet, as everything that a signature or a certificate covers has to be.
"""

MAX_DEPTH = 32
_OCTET_STRING = 0x04
_CONSTRUCTED = 0x20


class InvalidBer(ValueError):
    """Not one complete value: truncated, too deep, or something after it."""

    safe_text = True


def definite(data: bytes) -> bytes:
    """The one value in `data`, every length of it definite and every octet string in one piece. Raises InvalidBer."""
    value, end = _value(data, 0, len(data), 0)
    if end != len(data):
        raise InvalidBer("there is something after the end of the value")
    return value


def _value(data: bytes, start: int, limit: int, depth: int) -> tuple[bytes, int]:
    """The value at `start`, and where it ends."""
    if depth > MAX_DEPTH:
        raise InvalidBer("values are nested too deeply")
    content, length = _header(data, start, limit)
    first, tag_octets = data[start], data[start : _end_of_tag(data, start, limit)]
    if not first & _CONSTRUCTED:
        if length is None:
            raise InvalidBer("a primitive value is without a length")
        return data[start : content + length], content + length
    position, end = content, limit if length is None else content + length
    parts: list[bytes] = []
    while length is None or position < end:
        if length is None and data[position : position + 2] == b"\x00\x00":
            position += 2
            break
        part, position = _value(data, position, end, depth + 1)
        parts.append(part)
    if first == _OCTET_STRING | _CONSTRUCTED:
        return _written(bytes([_OCTET_STRING]), b"".join(map(_octets_of, parts))), position
    inside = b"".join(parts)
    if length is not None and inside == data[content:end]:
        return data[start:end], end
    return _written(tag_octets, inside), position


def _end_of_tag(data: bytes, start: int, limit: int) -> int:
    if start >= limit:
        raise InvalidBer("the value is truncated")
    if data[start] & 0x1F == 0x1F:
        raise InvalidBer("a tag is of a form that CMS has no use for")
    return start + 1


def _header(data: bytes, start: int, limit: int) -> tuple[int, int | None]:
    """Where the content begins and how many octets it has, None when only its end tells."""
    position = _end_of_tag(data, start, limit)
    if position >= limit:
        raise InvalidBer("the value is truncated")
    first = data[position]
    position += 1
    if first == 0x80:
        return position, None
    length = first
    if first > 0x80:
        octets = first & 0x7F
        if octets > 4 or position + octets > limit:
            raise InvalidBer("the value is truncated")
        length = int.from_bytes(data[position : position + octets], "big")
        position += octets
    if position + length > limit:
        raise InvalidBer("the value is truncated")
    return position, length


def _octets_of(part: bytes) -> bytes:
    if part[0] != _OCTET_STRING:
        raise InvalidBer("an octet string is made of something else")
    content, length = _header(part, 0, len(part))
    return part[content : content + (length or 0)]


def _written(tag: bytes, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return tag + bytes([length]) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return tag + bytes([0x80 | len(octets)]) + octets + content
