# SPDX-License-Identifier: GPL-3.0-or-later
"""An account key signs ACME requests and nothing else."""

import base64
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acme_milter.keys.jws_input import MAX_SIGNING_INPUT, check_signing_input
from acme_milter.keys.refusal import KeydRefused

Json = dict[str, object]
Change = Callable[[Json], Json]

OWN = {"crv": "P-256", "kty": "EC", "x": "own-x", "y": "own-y"}
OLD = {"crv": "P-256", "kty": "EC", "x": "old-x", "y": "old-y"}
ACCOUNT = "https://ca.example/acct/1"
KID: Json = {"alg": "ES256", "nonce": "n0nce_-", "url": "https://ca.example/new-order", "kid": ACCOUNT}
JWK: Json = {"alg": "ES256", "nonce": "n0nce_-", "url": "https://ca.example/new-acct", "jwk": OWN}
INNER: Json = {"alg": "ES256", "url": "https://ca.example/key-change", "jwk": OWN}
CHANGE: Json = {"account": ACCOUNT, "oldKey": OLD}


def _b64(value: object) -> bytes:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=")


def _input(header: object, payload: object = b"") -> bytes:
    return _b64(header) + b"." + _b64(payload)


@pytest.mark.parametrize("header", [KID, JWK])
@pytest.mark.parametrize("payload", [b"", {}, {"identifiers": [{"type": "email", "value": "a@b.example"}]}])
def test_an_acme_request_is_signed(header: Json, payload: object) -> None:
    check_signing_input(_input(header, payload), OWN)


def test_the_inner_request_of_a_key_change_is_signed_without_a_nonce() -> None:
    check_signing_input(_input(INNER, CHANGE), OWN)


@pytest.mark.parametrize(
    ("header", "payload"),
    [
        ({**KID, "alg": "RS256"}, b""),
        ({**KID, "alg": "none"}, b""),
        ({**KID, "alg": None}, b""),
        ({**KID, "url": "http://ca.example/new-order"}, b""),
        ({**KID, "url": "https://"}, b""),
        ({**KID, "url": "https://[::1/x"}, b""),
        ({**KID, "url": "https://ca.example/\n"}, b""),
        ({**KID, "url": 5}, b""),
        ({**KID, "nonce": ""}, b""),
        ({**KID, "nonce": "a b"}, b""),
        ({**KID, "nonce": 5}, b""),
        ({**KID, "kid": "1"}, b""),
        ({**KID, "kid": "http://ca.example/acct/1"}, b""),
        ({**KID, "jwk": OWN}, b""),
        ({**KID, "crit": ["b64"]}, b""),
        ({**KID, "b64": False}, b""),
        ({**KID, "typ": "JWT"}, b""),
        ({name: value for name, value in KID.items() if name != "kid"}, b""),
        ({name: value for name, value in KID.items() if name != "nonce"}, b""),
        ({name: value for name, value in KID.items() if name != "url"}, b""),
        ({name: value for name, value in KID.items() if name != "alg"}, b""),
        ({**JWK, "jwk": OLD}, b""),
        ({**JWK, "jwk": {**OWN, "d": "x"}}, b""),
        ({**JWK, "jwk": "own"}, b""),
        (KID, b"plain text"),
        (KID, [1]),
        (KID, b"\xff"),
        (KID, b"[" * 50_000),
        (b'{"alg":"ES256","alg":"ES256"}', b""),
        ([KID], b""),
        (INNER, b""),
        (INNER, {}),
        (INNER, {**CHANGE, "more": 1}),
        (INNER, {**CHANGE, "account": "http://ca.example"}),
        (INNER, {**CHANGE, "oldKey": OWN}),
        (INNER, {**CHANGE, "oldKey": "old"}),
        ({**INNER, "jwk": OLD}, CHANGE),
        ({**INNER, "kid": ACCOUNT}, CHANGE),
    ],
)
def test_what_is_no_acme_request_is_not_signed(header: object, payload: object) -> None:
    with pytest.raises(KeydRefused, match="malformed signing input"):
        check_signing_input(_input(header, payload), OWN)


OUTER: Json = {**KID, "url": INNER["url"]}
NEXT = {"crv": "P-256", "kty": "EC", "x": "next-x", "y": "next-y"}


def _jws(header: Json | None = None, change: Json | None = None) -> Json:
    """The inner JWS of a change from OWN to NEXT."""
    inner = header or {**INNER, "jwk": NEXT}
    parts = {"protected": inner, "payload": change or {**CHANGE, "oldKey": OWN}, "signature": b"signature"}
    return {name: _b64(part).decode() for name, part in parts.items()}


def test_a_key_change_is_signed_for_the_key_that_is_known_to_be_the_next_one() -> None:
    check_signing_input(_input(OUTER, _jws()), OWN, NEXT)


@pytest.mark.parametrize("jws", [_jws(), _jws({**INNER, "jwk": OLD}), _jws(KID), _jws(change={"x": 1})])
@pytest.mark.parametrize(
    "shape",
    [
        lambda jws: jws,
        lambda jws: {**jws, "contact": []},
        lambda jws: {**jws, "header": {}},
        lambda jws: {name.capitalize(): value for name, value in jws.items()},
        lambda jws: {name.replace("s", "\u017f"): value for name, value in jws.items()},
        lambda jws: {name: value for name, value in jws.items() if name != "signature"},
        lambda jws: {"payload": jws["payload"], "signatures": [{"protected": jws["protected"], "signature": "c2ln"}]},
    ],
)
@pytest.mark.parametrize("header", [OUTER, KID, {**JWK, "url": INNER["url"]}])
def test_no_jws_is_signed_for_a_payload_where_no_next_key_is_brought(header: Json, jws: Json, shape: Change) -> None:
    with pytest.raises(KeydRefused, match="without the sealed next key"):
        check_signing_input(_input(header, shape(jws)), OWN)


@pytest.mark.parametrize(
    ("header", "payload"),
    [
        (OUTER, _jws({**INNER, "jwk": OLD})),
        (OUTER, _jws({**INNER, "jwk": {**NEXT, "kid": "1"}})),
        (OUTER, _jws({**INNER, "jwk": OWN})),
        (OUTER, _jws({**INNER, "jwk": NEXT, "nonce": "abc"})),
        (OUTER, _jws({**INNER, "jwk": NEXT, "alg": "none"})),
        (OUTER, _jws({**INNER, "jwk": NEXT, "url": "https://ca.example/elsewhere"})),
        (OUTER, _jws({"alg": "ES256", "url": INNER["url"], "kid": ACCOUNT})),
        (OUTER, _jws(change={**CHANGE, "oldKey": OLD})),
        (OUTER, _jws(change={**CHANGE, "oldKey": OWN, "account": "https://ca.example/acct/2"})),
        (OUTER, _jws(change={**CHANGE, "oldKey": OWN, "more": 1})),
        (OUTER, {**_jws(), "header": {"jwk": OLD}}),
        (OUTER, {**_jws(), "Protected": _jws({**INNER, "jwk": OLD})["protected"]}),
        (OUTER, {**_jws(), "protected": 5}),
        (OUTER, {**_jws(), "protected": "e30="}),
        (OUTER, {**_jws(), "payload": ""}),
        ({**JWK, "url": INNER["url"]}, _jws()),
        (KID, _jws()),
        (OUTER, {}),
        (OUTER, b""),
    ],
)
def test_with_a_next_key_only_the_change_to_it_is_signed(header: Json, payload: object) -> None:
    with pytest.raises(KeydRefused, match="malformed signing input"):
        check_signing_input(_input(header, payload), OWN, NEXT)


def test_a_new_account_with_an_external_account_binding_is_signed() -> None:
    check_signing_input(_input(JWK, {"contact": [], "externalAccountBinding": _jws(KID, dict(OWN))}), OWN)


@pytest.mark.parametrize(
    "change",
    [
        lambda good: b"",
        lambda good: good.replace(b".", b""),
        lambda good: good + b".",
        lambda good: good + b"\n",
        lambda good: b" " + good,
        lambda good: good.replace(b".", b"=."),
        lambda good: b"." + good,
        lambda good: b"." + good.split(b".")[1],
        lambda good: good + b"=",
        lambda good: good + b"+/",
        lambda good: good + b"A" * MAX_SIGNING_INPUT,
        lambda good: good.decode().encode("utf-16"),
    ],
)
def test_what_is_not_two_parts_of_base64url_is_not_signed(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(KeydRefused, match="malformed signing input"):
        check_signing_input(change(_input(KID, {"a": 1})), OWN)


@given(noise=st.binary(max_size=200) | st.from_regex(rb"[A-Za-z0-9_-]{1,60}\.[A-Za-z0-9_-]{0,60}", fullmatch=True))
def test_noise_is_refused_and_nothing_else_happens(noise: bytes) -> None:
    with pytest.raises(KeydRefused):
        check_signing_input(noise, OWN)


def test_a_refusal_quotes_nothing() -> None:
    with pytest.raises(KeydRefused) as caught:
        check_signing_input(_input({**KID, "alg": "CANARY", "CANARY": 1}, b"CANARY"), OWN)
    assert "CANARY" not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__
