# SPDX-License-Identifier: GPL-3.0-or-later
"""What an account key signs: an ACME request and nothing else (RFC 8555 §6.2, RFC 7515 §7.2.2).

Whoever can ask keyd for signatures can act for the account as long as he can ask. These checks see to it that he
cannot get a signature over anything that is not ACME, or one that is good for a plain-text URL, nor one that gives
the account away: it goes over to no key but one that keyd has made for it.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from acme_milter.keys.refusal import KeydRefused

MAX_SIGNING_INPUT = 256 * 1024

_BASE64URL = re.compile(r"[A-Za-z0-9_-]+\Z")
_SIGNING_INPUT = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)\Z")
_NONCE = re.compile(r"[A-Za-z0-9_-]+\Z")  # RFC 8555 §6.5.1
_ORDINARY = frozenset({"alg", "nonce", "url"})
_INNER_KEY_CHANGE = frozenset({"alg", "jwk", "url"})
_FLATTENED = frozenset({"protected", "payload", "signature"})
_OF_A_JWS = _FLATTENED | {"header", "signatures"}

Json = dict[str, object]


def check_signing_input(
    signing_input: bytes, own_jwk: Mapping[str, str], next_jwk: Mapping[str, str] | None = None
) -> None:
    """Raise KeydRefused unless this is base64url(protected header) "." base64url(payload) of an ACME request.

    The protected header has alg ES256, an https url, a nonce, either the key itself (jwk) or the account's URL (kid),
    and no other member. The one request without a nonce is the inner JWS of a key change (§7.3.5), which names the
    new key, here the one that signs, and tells account and old key. Whatever has a JWS for its payload is the outer one
    of a key change, by the old key: it is signed only for `next_jwk`, which the caller knows to be a key of our own
    making, and nothing else is signed where that is given. (An external account binding, §7.3.4, is a JWS within
    newAccount's payload, and none of these.)
    """
    parts = _SIGNING_INPUT.match(signing_input) if len(signing_input) <= MAX_SIGNING_INPUT else None
    if parts is None:
        raise _malformed("not base64url.base64url")
    header = _json_object(parts.group(1), "the protected header")
    payload = _json_object(parts.group(2), "the payload") if parts.group(2) else None
    if header.get("alg") != "ES256":
        raise _malformed("alg is not ES256")
    if not _is_https(header.get("url")):
        raise _malformed("url is not https")
    names = frozenset(header)
    if names == _INNER_KEY_CHANGE:
        _check_inner_key_change(payload, own_jwk)
    elif not isinstance(nonce := header.get("nonce"), str) or not _NONCE.match(nonce):
        raise _malformed("no nonce")
    elif names != _ORDINARY | {"jwk"} and names != _ORDINARY | {"kid"}:
        raise _malformed("the header has not exactly alg, nonce, url and one of jwk, kid")
    if "jwk" in header and header["jwk"] != own_jwk:
        raise _malformed("jwk is another key")
    if "kid" in header and not _is_https(header["kid"]):
        raise _malformed("kid is not an account URL")
    # Whatever the case of a name: some readers of JSON do not care.
    if payload is not None and any(name.casefold() in _OF_A_JWS for name in payload):
        _check_key_change(header, payload, own_jwk, next_jwk)
    elif next_jwk is not None:
        raise _malformed("a next key and no key change")


def _check_key_change(
    header: Json, payload: Json, own_jwk: Mapping[str, str], next_jwk: Mapping[str, str] | None
) -> None:
    """RFC 8555 §7.3.5, the server's checks 2 to 8; only the inner signature is left to it, being keyd's own."""
    if next_jwk is None:
        raise _malformed("a key change without the sealed next key")
    if frozenset(payload) != _FLATTENED:
        raise _malformed("a key change has a flattened JWS for its payload")
    inner = _json_object(_encoded(payload["protected"]), "the inner protected header")
    change = _json_object(_encoded(payload["payload"]), "the inner payload")
    if frozenset(inner) != _INNER_KEY_CHANGE or inner["alg"] != "ES256" or inner["url"] != header["url"]:
        raise _malformed("the inner header has not exactly alg ES256, jwk and the outer url")
    if inner["jwk"] != next_jwk:
        raise _malformed("a key change to another key than the next one")
    _check_inner_key_change(change, next_jwk)
    if change["oldKey"] != own_jwk or change["account"] != header.get("kid"):
        raise _malformed("a key change of another account")


def _check_inner_key_change(payload: Json | None, own_jwk: Mapping[str, str]) -> None:
    if payload is None or frozenset(payload) != {"account", "oldKey"}:
        raise _malformed("no nonce")
    if not _is_https(payload["account"]) or not isinstance(payload["oldKey"], dict):
        raise _malformed("a key change names an account and its old key")
    if payload["oldKey"] == own_jwk:
        raise _malformed("a key change to the same key")


def _malformed(what: str) -> KeydRefused:
    return KeydRefused(f"malformed signing input: {what}")


def _encoded(value: object) -> bytes:
    if not isinstance(value, str) or not _BASE64URL.match(value):
        raise _malformed("a part of the inner JWS is not base64url")
    return value.encode("ascii")


def _json_object(encoded: bytes, name: str) -> Json:
    try:
        text = base64.b64decode(encoded + b"=" * (-len(encoded) % 4), altchars=b"-_", validate=True).decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique)
    except (binascii.Error, ValueError, RecursionError):
        raise _malformed(f"{name} is not JSON") from None
    if not isinstance(value, dict):
        raise _malformed(f"{name} is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, object]]) -> Json:
    """RFC 7515 §4: of two members with one name each reader may take another one."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError
    return members


def _is_https(value: object) -> bool:
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        return False
    try:
        parts = urlsplit(value)
    except ValueError:
        return False
    return parts.scheme == "https" and bool(parts.hostname)
