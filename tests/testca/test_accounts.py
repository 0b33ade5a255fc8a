# SPDX-License-Identifier: GPL-3.0-or-later
"""Accounts: RFC 8555 §7.3."""

import base64
import hashlib
import hmac
import json
from pathlib import Path

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec

from tests.testca.conftest import Enrollment, RunningCa, start_ca
from tests.testca.organization import Organization
from tests.testca.small_acme import SmallAcme, b64
from tests.testca.test_http_rules import problem


def test_a_key_finds_its_account_again(client: SmallAcme) -> None:
    again = client.post(client.directory["newAccount"], {"onlyReturnExisting": True}, header={"kid": None}, by_key=True)
    assert (again.status_code, again.headers["Location"]) == (200, client.kid)


def test_an_unknown_key_finds_nothing(ca: RunningCa) -> None:
    stranger = ca.client()
    answer = stranger.post(stranger.directory["newAccount"], {"onlyReturnExisting": True})
    assert problem(answer) == "accountDoesNotExist"
    stranger.close()


def test_the_terms_must_be_agreed_to(ca: RunningCa) -> None:
    stranger = ca.client()
    answer = stranger.register(termsOfServiceAgreed=False)
    assert problem(answer) == "userActionRequired"
    assert answer.links["terms-of-service"]
    stranger.close()


@pytest.mark.parametrize(
    ("contact", "expected"),
    [
        ("tel:+4912345", "unsupportedContact"),
        ("mailto:a@b.example?subject=x", "invalidContact"),
        ("mailto:a", "invalidContact"),
    ],
)
def test_contacts_are_checked(ca: RunningCa, contact: str, expected: str) -> None:
    stranger = ca.client()
    assert problem(stranger.register(contact=[contact])) == expected
    stranger.close()


def test_a_deactivated_account_is_shut_out_and_its_orders_die(enrollment: Enrollment) -> None:
    enrollment.place()
    client = enrollment.client
    assert client.kid is not None
    assert client.post(client.kid, {"status": "deactivated"}).json()["status"] == "deactivated"
    answer = client.post(enrollment.url)
    assert (answer.status_code, problem(answer)) == (401, "unauthorized")


def test_orders_are_listed(enrollment: Enrollment) -> None:
    enrollment.place()
    account = enrollment.client.post(str(enrollment.client.kid)).json()
    assert enrollment.client.post(account["orders"]).json() == {"orders": [enrollment.url]}


def change_key(client: SmallAcme, new: ec.EllipticCurvePrivateKey, **payload: object) -> requests.Response:
    url = client.directory["keyChange"]
    inner = client.sign(
        {"alg": "ES256", "jwk": client.jwk(new), "url": url},
        {"account": client.kid, "oldKey": client.jwk(), **payload},
        new,
    )
    return client.post(url, inner)


def test_a_rolled_over_key_signs_from_then_on(client: SmallAcme) -> None:
    new = ec.generate_private_key(ec.SECP256R1())
    assert change_key(client, new).status_code == 200
    assert problem(client.post(str(client.kid))) == "malformed"
    client.key = new
    assert client.post(str(client.kid)).json()["status"] == "valid"


def test_a_rollover_must_name_the_old_key(client: SmallAcme) -> None:
    new = ec.generate_private_key(ec.SECP256R1())
    assert problem(change_key(client, new, oldKey=client.jwk(new))) == "malformed"


def test_a_rollover_to_a_key_in_use_is_a_conflict_that_names_its_account(ca: RunningCa, client: SmallAcme) -> None:
    other = ca.client()
    other.register()
    answer = change_key(client, other.key)
    assert answer.status_code == 409
    assert answer.headers["Location"] == other.kid
    other.close()


def bind(client: SmallAcme, kid: str, secret: bytes) -> dict[str, str]:
    header = {"alg": "HS256", "kid": kid, "url": client.directory["newAccount"]}
    signed = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(client.jwk()).encode())}"
    protected, payload = signed.split(".")
    mac = hmac.digest(secret, signed.encode(), hashlib.sha256)
    return {"protected": protected, "payload": payload, "signature": b64(mac)}


def test_external_account_binding_is_demanded_and_checked(tmp_path: Path, organization: Organization) -> None:
    secret = b"a secret of thirty-two octets..."
    encoded = base64.urlsafe_b64encode(secret).rstrip(b"=").decode()
    running = start_ca(tmp_path, organization, "--eab", f"kid-1:{encoded}")
    client = running.client()
    assert client.directory["meta"]["externalAccountRequired"] is True
    assert problem(client.register()) == "externalAccountRequired"
    assert problem(client.register(externalAccountBinding=bind(client, "kid-1", b"wrong"))) == "unauthorized"
    assert problem(client.register(externalAccountBinding=bind(client, "kid-2", secret))) == "unauthorized"
    good = bind(client, "kid-1", secret)
    answer = client.register(externalAccountBinding=good)
    assert answer.status_code == 201
    assert answer.json()["externalAccountBinding"] == good
    client.close()
    running.stop()
