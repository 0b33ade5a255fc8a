# SPDX-License-Identifier: GPL-3.0-or-later
"""keyd's calls: what each gives, and that a sealed key serves its purpose, its id and its owner only."""

import base64
import itertools
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import pkcs12
from hypothesis import given
from hypothesis import strategies as st

from acme_milter.keys.algorithm import KeyAlgorithm
from acme_milter.keys.jwk import public_jwk
from acme_milter.keys.keyd import Keyd
from acme_milter.keys.pool import KeyPool
from acme_milter.keys.request import split_parts
from acme_milter.keys.wrapping_key import WrappingKey

Json = dict[str, object]

SECRET = b"0123456789abcdefghijklmnopqrstuv"
ALICE = "alice@example.org"


@pytest.fixture(scope="module")
def keyd() -> Keyd:
    return Keyd(WrappingKey(SECRET), KeyPool({}))


def _call(keyd: Keyd, name: str, *parts: bytes, **fields: object) -> tuple[Json, bytes]:
    return keyd.handle({"call": name, **fields, "parts": [len(part) for part in parts]}, b"".join(parts))


def _account(keyd: Keyd, key_id: str = "a1", authority: str = "ca") -> tuple[dict[str, str], bytes]:
    answer, sealed = _call(keyd, "new_account_key", key_id=key_id, authority=authority)
    jwk = answer["jwk"]
    assert isinstance(jwk, dict)
    return jwk, sealed


def _mailbox(keyd: Keyd, key_id: str = "k1", algorithm: str = "p256", **fields: object) -> list[bytes]:
    request = {"key_id": key_id, "principal": ALICE, "algorithm": algorithm, "addresses": [ALICE]} | fields
    parts = split_parts(*_call(keyd, "new_mailbox_key", **request))
    assert parts is not None
    return parts


def _signing_input(**more: object) -> bytes:
    header = {"alg": "ES256", "nonce": "abc", "url": "https://ca.example/o", "kid": "https://ca.example/a/1"} | more
    return b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, {}))


def _refusal(answer: tuple[Json, bytes]) -> object:
    header, body = answer
    assert body == b""
    assert list(header) == ["refused"]
    return header["refused"]


def _self_signed(key: CertificatePublicKeyTypes) -> bytes:
    issuer_key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Test")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key, 5, now, now + timedelta(days=1))
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_an_account_keys_signature_verifies_with_its_jwk(keyd: Keyd) -> None:
    jwk, sealed = _account(keyd)
    assert sorted(jwk) == ["crv", "kty", "x", "y"]
    for _ in range(20):  # r and s are sometimes short and have to be padded
        signing_input = _signing_input()
        header, signature = _call(keyd, "sign_jws", sealed, signing_input, key_id="a1", authority="ca")
        assert header == {}
        assert len(signature) == 64
        x, y = (int.from_bytes(base64.urlsafe_b64decode(jwk[name] + "="), "big") for name in ("x", "y"))
        public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        public.verify(encode_dss_signature(r, s), signing_input, ec.ECDSA(hashes.SHA256()))


def test_a_key_that_is_not_yet_any_accounts_signs_its_own_key_change(keyd: Keyd) -> None:
    jwk, sealed = _account(keyd, "a2")
    old_jwk, _ = _account(keyd, "a1")
    header = {"alg": "ES256", "url": "https://ca.example/key-change", "jwk": jwk}
    payload = {"account": "https://ca.example/a/1", "oldKey": old_jwk}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, payload)]
    answer = _call(keyd, "sign_jws", sealed, b".".join(parts), key_id="a2", authority="ca")
    assert len(answer[1]) == 64


def _key_change(old: Json, new: Json) -> bytes:
    """The outer signing input of a change of account 1's key."""
    url, account = "https://ca.example/key-change", "https://ca.example/a/1"
    inner = ({"alg": "ES256", "url": url, "jwk": new}, {"account": account, "oldKey": old}, "signature")
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in inner]
    payload = dict(zip(("protected", "payload", "signature"), encoded, strict=True))
    header = {"alg": "ES256", "nonce": "abc", "url": url, "kid": account}
    return b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, payload))


def test_an_account_goes_over_only_to_a_key_that_was_made_here_for_it(keyd: Keyd) -> None:
    old, sealed = _account(keyd)
    new, next_sealed = _account(keyd)
    foreign = public_jwk(ec.generate_private_key(ec.SECP256R1()).public_key())
    ids = {"key_id": "a1", "authority": "ca"}
    assert len(_call(keyd, "sign_jws", sealed, _key_change({**old}, {**new}), next_sealed, **ids)[1]) == 64
    for parts in (
        (_key_change({**old}, {**new}),),
        (_key_change({**old}, {**foreign}),),
        (_key_change({**old}, {**foreign}), next_sealed),
        (_key_change({**old}, {**old}), sealed),
        (_signing_input(), next_sealed),
        (_key_change({**old}, {**new}), next_sealed, next_sealed),
    ):
        assert str(_refusal(_call(keyd, "sign_jws", sealed, *parts, **ids))).startswith("malformed")


def test_a_key_that_was_made_for_another_account_or_authority_or_elsewhere_is_no_next_key(keyd: Keyd) -> None:
    old, sealed = _account(keyd)
    elsewhere = Keyd(WrappingKey(SECRET[::-1]), KeyPool({}))
    for maker, key_id, authority in ((keyd, "a2", "ca"), (keyd, "a1", "other"), (elsewhere, "a1", "ca")):
        new, foreign = _account(maker, key_id, authority)
        change = _key_change({**old}, {**new})
        assert _refusal(_call(keyd, "sign_jws", sealed, change, foreign, key_id="a1", authority="ca")) == "seal broken"
    (mailbox, *_) = _mailbox(keyd, "a1")
    change = _key_change({**old}, {**old})
    assert _refusal(_call(keyd, "sign_jws", sealed, change, mailbox, key_id="a1", authority="ca")) == "seal broken"


@pytest.mark.parametrize("algorithm", ["rsa2048", "p256", "p384"])
def test_a_mailbox_key_comes_with_its_request_and_public_key(keyd: Keyd, algorithm: str) -> None:
    sealed, csr, spki = _mailbox(keyd, algorithm=algorithm)
    request = x509.load_der_x509_csr(csr)
    assert request.is_signature_valid
    public = request.public_key()
    assert public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo) == spki
    if isinstance(public, rsa.RSAPublicKey):
        assert public.key_size == 2048
    else:
        assert isinstance(public, ec.EllipticCurvePublicKey)
        assert public.curve.key_size == int(algorithm[1:])
    assert sealed not in csr


def test_every_key_is_new(keyd: Keyd) -> None:
    publics = {_mailbox(keyd)[2] for _ in range(20)} | {json.dumps(_account(keyd)[0]).encode() for _ in range(20)}
    assert len(publics) == 40


def test_rsa_keys_come_from_the_pool() -> None:
    pool = KeyPool({KeyAlgorithm.RSA2048: 1})
    pool.start()
    while not pool.ready()["rsa2048"]:
        pass
    assert pool.stop(timeout=10)
    _mailbox(Keyd(WrappingKey(SECRET), pool), algorithm="rsa2048")
    assert pool.ready() == {"rsa2048": 0}


@pytest.mark.parametrize("p12_format", ["p12-modern", "p12-legacy"])
def test_an_exported_file_opens_with_its_passphrase(keyd: Keyd, p12_format: str) -> None:
    sealed, csr, _ = _mailbox(keyd)
    chain = _self_signed(x509.load_der_x509_csr(csr).public_key())
    fields = {"key_id": "k1", "principal": ALICE, "format": p12_format, "friendly_name": "Alice"}
    answer, file = _call(keyd, "export_pkcs12", sealed, chain, **fields)
    loaded = pkcs12.load_pkcs12(file, str(answer["passphrase"]).encode())
    assert loaded.key is not None
    assert loaded.cert is not None
    assert loaded.key.public_key() == loaded.cert.certificate.public_key()
    assert loaded.cert.friendly_name == b"Alice"


def test_an_exported_pem_key_opens_with_its_passphrase_and_is_the_requests(keyd: Keyd) -> None:
    sealed, csr, _ = _mailbox(keyd)
    answer, pem = _call(keyd, "export_pem", sealed, key_id="k1", principal=ALICE)
    assert pem.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    key = serialization.load_pem_private_key(pem, str(answer["passphrase"]).encode())
    assert key.public_key() == x509.load_der_x509_csr(csr).public_key()


def test_a_certificate_of_another_key_is_not_exported(keyd: Keyd) -> None:
    sealed, _, _ = _mailbox(keyd)
    chain = _self_signed(ec.generate_private_key(ec.SECP256R1()).public_key())
    fields = {"key_id": "k1", "principal": ALICE, "format": "p12-modern", "friendly_name": "Alice"}
    assert _refusal(_call(keyd, "export_pkcs12", sealed, chain, **fields)) == "certificate wrong-key"
    assert _refusal(_call(keyd, "export_pkcs12", sealed, b"", **fields)) == "certificate not-a-pem-chain"


def test_a_mailbox_key_signs_no_acme_request_and_an_account_key_is_never_exported(keyd: Keyd) -> None:
    mailbox, csr, _ = _mailbox(keyd, "same-id")
    _, account = _account(keyd, "same-id", ALICE)
    chain = _self_signed(x509.load_der_x509_csr(csr).public_key())
    as_account = {"key_id": "same-id", "authority": ALICE}
    as_mailbox = {"key_id": "same-id", "principal": ALICE}
    export = as_mailbox | {"format": "p12-modern", "friendly_name": "x"}
    assert _refusal(_call(keyd, "sign_jws", mailbox, _signing_input(), **as_account)) == "seal broken"
    assert _refusal(_call(keyd, "export_pem", account, **as_mailbox)) == "seal broken"
    assert _refusal(_call(keyd, "export_pkcs12", account, chain, **export)) == "seal broken"


def test_a_sealed_key_serves_no_other_id_and_no_other_owner(keyd: Keyd) -> None:
    owners = [("k1", ALICE), ("k2", ALICE), ("k1", "bob@example.org")]
    sealed = {owner: _mailbox(keyd, owner[0], principal=owner[1])[0] for owner in owners}
    for own, asked in itertools.product(owners, owners):
        answer = _call(keyd, "export_pem", sealed[own], key_id=asked[0], principal=asked[1])
        assert ("passphrase" in answer[0]) == (own == asked)
        if own != asked:
            assert _refusal(answer) == "seal broken"


def test_an_account_key_that_was_opened_before_still_needs_its_own_ids(keyd: Keyd) -> None:
    _, sealed = _account(keyd, "a1", "ca")
    good = _call(keyd, "sign_jws", sealed, _signing_input(), key_id="a1", authority="ca")
    assert len(good[1]) == 64
    for key_id, authority in (("a2", "ca"), ("a1", "other")):
        answer = _call(keyd, "sign_jws", sealed, _signing_input(), key_id=key_id, authority=authority)
        assert _refusal(answer) == "seal broken"


def test_another_installations_wrapping_key_opens_nothing(keyd: Keyd) -> None:
    other = Keyd(WrappingKey(SECRET[::-1]), KeyPool({}))
    _, sealed = _account(keyd)
    answer = _call(other, "sign_jws", sealed, _signing_input(), key_id="a1", authority="ca")
    assert _refusal(answer) == "seal broken"


def test_a_successor_of_a_killed_keyd_opens_what_it_sealed(keyd: Keyd) -> None:
    _, sealed = _account(keyd)
    successor = Keyd(WrappingKey(SECRET), KeyPool({}))
    assert len(_call(successor, "sign_jws", sealed, _signing_input(), key_id="a1", authority="ca")[1]) == 64


def test_only_a_bounded_number_of_account_keys_is_kept_open(keyd: Keyd) -> None:
    fresh = Keyd(WrappingKey(SECRET), KeyPool({}))
    for number in range(80):
        _, sealed = _account(fresh, f"a{number}")
        _call(fresh, "sign_jws", sealed, _signing_input(), key_id=f"a{number}", authority="ca")
    assert _call(fresh, "status")[0]["account_keys_open"] == 64


def test_the_data_key_is_stable_and_opens_no_sealed_key(keyd: Keyd) -> None:
    key = _call(keyd, "data_key")[1]
    assert key == _call(Keyd(WrappingKey(SECRET), KeyPool({})), "data_key")[1]
    assert len(key) == 32
    as_wrapping_key = Keyd(WrappingKey(key), KeyPool({}))
    _, sealed = _account(keyd)
    answer = _call(as_wrapping_key, "sign_jws", sealed, _signing_input(), key_id="a1", authority="ca")
    assert _refusal(answer) == "seal broken"


def test_the_status_counts_calls_and_refusals() -> None:
    fresh = Keyd(WrappingKey(SECRET), KeyPool({}))
    _account(fresh)
    _call(fresh, "no such call")
    status = _call(fresh, "status")[0]
    assert status["calls"] == {"new_account_key": 1, "refused": 1}
    assert status["pool"] == {}
    assert status["wrapping_key"] == WrappingKey(SECRET).id


@pytest.mark.parametrize("call", [None, 1, [], {}, "", "handle", "_status", "rewrap"])
def test_an_unknown_call_is_refused(keyd: Keyd, call: object) -> None:
    assert _refusal(keyd.handle({"call": call}, b"")) == "unknown call"


_GOOD: Json = {"key_id": "k1", "principal": ALICE, "algorithm": "p256", "addresses": [ALICE]}


@pytest.mark.parametrize(
    "change",
    [
        {"key_id": ""},
        {"key_id": 5},
        {"key_id": None},
        {"key_id": "x" * 1001},
        {"key_id": "a\nb"},
        {"principal": ["x"]},
        {"algorithm": "ed25519"},
        {"algorithm": "RSA2048"},
        {"algorithm": 2048},
        {"addresses": []},
        {"addresses": ALICE},
        {"addresses": [ALICE] * 17},
        {"addresses": [ALICE, ALICE]},
        {"addresses": [ALICE, 5]},
        {"addresses": ["no address"]},
        {"addresses": ["Alice <alice@example.org>"]},
        {"usage": "both"},
        {"usage": None},
    ],
)
def test_a_malformed_request_is_refused(keyd: Keyd, change: Json) -> None:
    assert _refusal(_call(keyd, "new_mailbox_key", **_GOOD | change))


@pytest.mark.parametrize("parts", [None, [], [1], [1, 2, 3], [-1, 1], ["1"], [True], [1, 1], [10**30]])
def test_parts_that_do_not_add_up_to_the_body_are_refused(keyd: Keyd, parts: object) -> None:
    answer = keyd.handle({"call": "sign_jws", "key_id": "a1", "authority": "ca", "parts": parts}, b"body")
    assert _refusal(answer) == "malformed request: parts"


_values = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=3)


@given(
    call=st.sampled_from(["new_account_key", "new_mailbox_key", "sign_jws", "export_pkcs12", "export_pem"]),
    fields=st.dictionaries(st.sampled_from([*_GOOD, "authority", "format", "parts", "friendly_name"]), _values),
    body=st.binary(max_size=200),
)
def test_noise_is_answered_and_never_an_exception(keyd: Keyd, call: str, fields: Json, body: bytes) -> None:
    header, _ = keyd.handle({**fields, "call": call}, body)
    assert "refused" in header or call == "new_account_key"


def test_a_refusal_quotes_nothing_it_was_sent(keyd: Keyd) -> None:
    for name in ("new_mailbox_key", "sign_jws", "export_pkcs12", "CANARY"):
        for field in ("algorithm", "key_id", "format", "addresses"):
            fields = {"key_id": "k", "authority": "c", "principal": "p", "friendly_name": "f"} | {field: "CANARY"}
            assert "CANARY" not in str(_refusal(_call(keyd, name, b"CANARY", b"CANARY", **fields)))
