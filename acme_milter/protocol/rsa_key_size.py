# SPDX-License-Identifier: GPL-3.0-or-later
"""The modulus size of a DER-encoded RSA public key, enough to judge a DKIM key record (RFC 6376 §3.6.1, RFC 8301)."""

_SEQUENCE = 0x30
_INTEGER = 0x02
_BIT_STRING = 0x03
# AlgorithmIdentifier of rsaEncryption with its NULL parameter (RFC 3279 §2.3.1).
_RSA_ENCRYPTION = bytes.fromhex("06092a864886f70d0101010500")


class InvalidRsaKey(ValueError):
    """The octets are not one RSA public key in DER."""

    safe_text = True


def rsa_modulus_bits(der: bytes) -> int:
    """Bits of the modulus of a SubjectPublicKeyInfo or a bare RSAPublicKey, with nothing after it.

    Both encodings are met in the field. Raises InvalidRsaKey, also for a public exponent below 3 or even.
    """
    outer = _whole(der, _SEQUENCE)
    tag, content, rest = _element(outer)
    if tag == _SEQUENCE:
        if content != _RSA_ENCRYPTION:
            raise InvalidRsaKey("not an RSA key")
        bits = _whole(rest, _BIT_STRING)
        if bits[:1] != b"\0":
            raise InvalidRsaKey("a key with unused bits")
        outer = _whole(bits[1:], _SEQUENCE)
        tag, content, rest = _element(outer)
    if tag != _INTEGER:
        raise InvalidRsaKey("no modulus")
    modulus = _positive(content)
    exponent = _positive(_whole(rest, _INTEGER))
    if exponent < 3 or exponent % 2 == 0 or modulus % 2 == 0:
        raise InvalidRsaKey("an impossible key")
    return modulus.bit_length()


def _positive(content: bytes) -> int:
    number = int.from_bytes(content, "big", signed=True)
    if number <= 0:
        raise InvalidRsaKey("a number that is not positive")
    return number


def _whole(der: bytes, wanted: int) -> bytes:
    tag, content, rest = _element(der)
    if tag != wanted or rest:
        raise InvalidRsaKey("not the expected structure")
    return content


def _element(der: bytes) -> tuple[int, bytes, bytes]:
    """Split the first tag-length-value off: (tag, content, the rest)."""
    if len(der) < 2:
        raise InvalidRsaKey("cut short")
    size, start = der[1], 2
    if size & 0x80:
        octets = size & 0x7F
        if not 1 <= octets <= 4:
            raise InvalidRsaKey("an impossible length")
        start = 2 + octets
        size = int.from_bytes(der[2:start], "big")
    if len(der) < start + size:
        raise InvalidRsaKey("cut short")
    return der[0], der[start : start + size], der[start + size :]
