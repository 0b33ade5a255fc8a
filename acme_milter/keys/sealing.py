# SPDX-License-Identifier: GPL-3.0-or-later
"""Sealing: AES-256-GCM under a key of its own for every object, that key wrapped by ours, both bound to ids.

Format, version 1 (97 octets more than the plaintext):

    1   0x01
    8   id of the wrapping key: HMAC-SHA256(key, "acme-milter sealing key id"), the first octets
    12  nonce of the wrapping
    48  the object's own key, encrypted; AAD "acme-milter sealed v1 key" and the octets before the nonce
    12  nonce of the content
    n   the content, encrypted; AAD "acme-milter sealed v1 content" and the ids
    16  its tag

Each object key encrypts once, so random nonces cannot meet; a new wrapping key re-encrypts 60 octets an object, never
the content. The ids are what makes a sealed object worthless in another row: sorted by name, every name and value
with its length before it.
"""

import hashlib
import hmac
import os
import struct
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_SIZE = 32

_VERSION = b"\x01"
_ID_SIZE = 8
_NONCE_SIZE = 12
_WRAPPED_SIZE = KEY_SIZE + 16
_PREFIX_SIZE = len(_VERSION) + _ID_SIZE
_HEAD_SIZE = _PREFIX_SIZE + _NONCE_SIZE + _WRAPPED_SIZE
_OVERHEAD = _HEAD_SIZE + _NONCE_SIZE + 16
_WRAP_LABEL = b"acme-milter sealed v1 key"
_CONTENT_LABEL = b"acme-milter sealed v1 content"
_ID_LABEL = b"acme-milter sealing key id"
_LENGTH = struct.Struct(">I")


class SealBroken(Exception):
    """The object was changed, belongs to other ids, or was sealed under another key. Trying again does not help."""

    safe_text = True
    temporary = False


def sealing_key_id(key: bytes) -> str:
    """What names a sealing key without telling anything about it: 16 hexadecimal digits."""
    return _key_id(key).hex()


def seal(key: bytes, plaintext: bytes, aad: Mapping[str, str]) -> bytes:
    """Seal `plaintext` under a 32-octet key for exactly the ids in `aad`. Two seals of one text never look alike."""
    object_key = os.urandom(KEY_SIZE)
    prefix = _VERSION + _key_id(key)
    wrap_nonce, content_nonce = os.urandom(_NONCE_SIZE), os.urandom(_NONCE_SIZE)
    wrapped = _cipher(key).encrypt(wrap_nonce, object_key, _WRAP_LABEL + prefix)
    content = AESGCM(object_key).encrypt(content_nonce, plaintext, _content_aad(aad))
    return b"".join((prefix, wrap_nonce, wrapped, content_nonce, content))


def unseal(key: bytes, sealed: bytes, aad: Mapping[str, str]) -> bytes:
    """What was sealed under `key` for exactly the ids in `aad`. Raises SealBroken."""
    if len(sealed) < _OVERHEAD or not sealed.startswith(_VERSION):
        raise SealBroken("this is no sealed object of a known version")
    prefix, rest = sealed[:_PREFIX_SIZE], sealed[_PREFIX_SIZE:_HEAD_SIZE]
    content_nonce, content = sealed[_HEAD_SIZE:][:_NONCE_SIZE], sealed[_HEAD_SIZE + _NONCE_SIZE :]
    if not hmac.compare_digest(prefix[len(_VERSION) :], _key_id(key)):
        raise SealBroken("sealed under another key")
    try:
        object_key = _cipher(key).decrypt(rest[:_NONCE_SIZE], rest[_NONCE_SIZE:], _WRAP_LABEL + prefix)
        return AESGCM(object_key).decrypt(content_nonce, content, _content_aad(aad))
    except InvalidTag:
        raise SealBroken("changed, or sealed for other ids") from None


def _cipher(key: bytes) -> AESGCM:
    if len(key) != KEY_SIZE:
        raise ValueError(f"a sealing key has {KEY_SIZE} octets")
    return AESGCM(key)


def _key_id(key: bytes) -> bytes:
    return hmac.new(key, _ID_LABEL, hashlib.sha256).digest()[:_ID_SIZE]


def _content_aad(ids: Mapping[str, str]) -> bytes:
    parts = [_CONTENT_LABEL]
    for name, value in sorted(ids.items()):
        for text in (name, value):
            encoded = text.encode("utf-8")
            parts += [_LENGTH.pack(len(encoded)), encoded]
    return b"".join(parts)
