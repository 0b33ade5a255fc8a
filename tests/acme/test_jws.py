# SPDX-License-Identifier: GPL-3.0-or-later
"""Signed requests, read with another implementation."""

import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from josepy.jwk import JWKEC
from josepy.jws import JWS

from acme_milter.acme.jws import Eab, algorithm_of, external_account_binding, flattened, key_change, request_body
from tests.acme.scripted_authority import LocalSigner, b64, unb64, verify_es256

URL = "https://ca.example/acme/new-account"


def test_josepy_accepts_our_signature_and_thumbprint() -> None:
    signer = LocalSigner()
    jws = flattened(signer, {"nonce": "n", "url": URL, "jwk": dict(signer.jwk)}, b'{"a":1}')
    key = JWKEC.from_json(dict(signer.jwk))
    assert isinstance(key, JWKEC)
    read = JWS.from_json(jws)
    assert read.verify(key)
    assert read.payload == b'{"a":1}'
    assert b64(key.thumbprint()) == signer.thumbprint


def test_the_protected_header_has_jwk_or_kid_and_never_both() -> None:
    signer = LocalSigner()
    for kid, expected in ((None, "jwk"), ("https://ca.example/acct/1", "kid")):
        body = json.loads(request_body(signer, url=URL, nonce="abc", kid=kid, payload=b""))
        header = json.loads(unb64(body["protected"]))
        assert set(header) == {"alg", "nonce", "url", expected}
        assert header["alg"] == "ES256"
        assert body["payload"] == ""


def test_a_private_key_member_never_leaves() -> None:
    signer = LocalSigner()
    signer.jwk = {**signer.jwk, "d": "c2VjcmV0"}
    with pytest.raises(ValueError, match="private"):
        request_body(signer, url=URL, nonce="abc", kid=None, payload=b"")


def test_a_der_signature_is_noticed_before_it_is_sent() -> None:
    class DerSigner(LocalSigner):
        def sign(self, signing_input: bytes) -> bytes:
            return b"\x30" * 71

    with pytest.raises(ValueError, match="length"):
        flattened(DerSigner(), {"url": URL}, b"")


def test_the_algorithm_follows_from_the_key() -> None:
    assert algorithm_of({"kty": "RSA", "n": "", "e": "AQAB"}) == "RS256"
    assert algorithm_of({"kty": "EC", "crv": "P-384"}) == "ES384"
    with pytest.raises(ValueError, match="algorithm"):
        algorithm_of({"kty": "EC", "crv": "secp256k1"})


def test_the_external_binding_is_a_mac_over_our_public_key() -> None:
    signer, secret = LocalSigner(), b"0123456789abcdef0123456789abcdef"
    jws = external_account_binding(Eab("kid-1", secret), url=URL, jwk=signer.jwk)
    assert json.loads(unb64(jws["protected"])) == {"alg": "HS256", "kid": "kid-1", "url": URL}
    assert json.loads(unb64(jws["payload"])) == signer.jwk
    mac = hmac.new(secret, f"{jws['protected']}.{jws['payload']}".encode(), hashlib.sha256)
    assert unb64(jws["signature"]) == mac.digest()


@given(st.binary(min_size=1, max_size=80))
def test_a_mac_key_is_read_with_and_without_padding(secret: bytes) -> None:
    plain = b64(secret)
    padded = plain + "=" * (-len(plain) % 4)
    assert Eab.from_text("k", plain).hmac_key == Eab.from_text("k", f" {padded}\n").hmac_key == secret


@pytest.mark.parametrize("text", ["", "a", "ab+/", "ab cd", "ab\u0660d", "ab==="])
def test_a_mac_key_that_is_not_base64url_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ValueError, match="EAB") as caught:
        Eab.from_text("k", text)
    assert len(text) < 4 or text not in str(caught.value)


def test_the_mac_key_is_not_in_the_repr() -> None:
    assert "s3cr3t" not in repr(Eab("k", b"s3cr3t"))


def test_the_inner_key_change_is_signed_by_the_new_key_and_has_no_nonce() -> None:
    old, new = LocalSigner(), LocalSigner()
    jws = key_change(new, url=URL, account_url="https://ca.example/acct/1", old_jwk=old.jwk)
    header = json.loads(unb64(jws["protected"]))
    assert header == {"alg": "ES256", "jwk": new.jwk, "url": URL}
    assert json.loads(unb64(jws["payload"])) == {"account": "https://ca.example/acct/1", "oldKey": old.jwk}
    verify_es256(new.jwk, f"{jws['protected']}.{jws['payload']}".encode(), unb64(jws["signature"]))
