# SPDX-License-Identifier: GPL-3.0-or-later
"""What RFC 8555 §6 forbids a client to do, each done once."""

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec

from tests.testca.conftest import Enrollment, RunningCa
from tests.testca.small_acme import SmallAcme


def problem(answer: requests.Response) -> str:
    """Return the last part of a problem's type."""
    return str(answer.json()["type"]).removeprefix("urn:ietf:params:acme:error:")


def test_every_answer_brings_a_nonce_and_the_index_link(client: SmallAcme) -> None:
    good = client.order("nonce@org.example")
    bad = client.order("*@org.example")
    assert bad.status_code == 400
    for answer in (good, bad, client.session.get(client.directory["newNonce"])):
        assert answer.headers["Replay-Nonce"]
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.links["index"]["url"].endswith("/directory")


def test_a_nonce_is_good_once(client: SmallAcme) -> None:
    nonce = client.nonce()
    assert client.post(client.directory["newOrder"], {"identifiers": []}, header={"nonce": nonce}).status_code == 400
    again = client.post(client.directory["newOrder"], {"identifiers": []}, header={"nonce": nonce})
    assert problem(again) == "badNonce"
    assert again.headers["Replay-Nonce"]


def test_an_invented_nonce_is_refused(client: SmallAcme) -> None:
    assert problem(client.post(client.directory["newOrder"], {}, header={"nonce": "aW52ZW50ZWQ"})) == "badNonce"


def test_the_url_header_must_be_the_url_requested(client: SmallAcme) -> None:
    answer = client.post(client.directory["newOrder"], {}, header={"url": client.directory["newAccount"]})
    assert (answer.status_code, problem(answer)) == (403, "unauthorized")


def test_the_content_type_must_be_jose_json(client: SmallAcme) -> None:
    answer = client.post(client.directory["newOrder"], {}, content_type="application/json")
    assert (answer.status_code, problem(answer)) == (415, "malformed")


@pytest.mark.parametrize("member", ["protected", "payload", "signature"])
def test_padding_in_base64url_is_refused(client: SmallAcme, member: str) -> None:
    envelope = client.sign({"alg": "ES256", "nonce": client.nonce(), "kid": client.kid, "url": "x"}, {"a": 1})
    answer = client.post(client.directory["newOrder"], {}, change={member: envelope[member] + "="})
    assert problem(answer) == "malformed"


@pytest.mark.parametrize("resource", ["newOrder", "newAccount", "revokeCert", "keyChange"])
def test_get_on_a_resource_is_not_allowed(client: SmallAcme, resource: str) -> None:
    answer = client.session.get(client.directory[resource])
    assert (answer.status_code, problem(answer), answer.headers["Allow"]) == (405, "malformed", "POST")


def test_get_on_an_order_is_not_allowed(enrollment: Enrollment) -> None:
    enrollment.place()
    assert enrollment.client.session.get(enrollment.url).status_code == 405


def test_reading_needs_an_empty_payload(enrollment: Enrollment) -> None:
    enrollment.place()
    assert problem(enrollment.client.post(enrollment.url, {})) == "malformed"


def test_an_unknown_url_is_a_problem_document(client: SmallAcme) -> None:
    answer = client.session.get(client.directory["newOrder"] + "/nothing")
    assert (answer.status_code, problem(answer)) == (404, "malformed")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"alg": "HS256"}, "badSignatureAlgorithm"),
        ({"alg": "none"}, "badSignatureAlgorithm"),
        ({"kid": None}, "malformed"),
        ({"jwk": {"kty": "EC"}}, "malformed"),
        ({"kid": "https://127.0.0.1/account/nobody"}, "accountDoesNotExist"),
        ({"crit": ["exp"]}, "malformed"),
    ],
)
def test_a_protected_header_out_of_order_is_refused(
    client: SmallAcme, header: dict[str, object], expected: str
) -> None:
    answer = client.post(client.directory["newOrder"], {}, header=header)
    assert problem(answer) == expected
    if expected == "badSignatureAlgorithm":
        assert "ES256" in answer.json()["algorithms"]


def test_a_signature_by_another_key_is_refused(client: SmallAcme) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    assert problem(client.post(client.directory["newOrder"], {}, key=other)) == "malformed"


def test_an_unprotected_header_is_refused(client: SmallAcme) -> None:
    assert problem(client.post(client.directory["newOrder"], {}, change={"header": "{}"})) == "malformed"


def test_a_client_must_name_itself(client: SmallAcme) -> None:
    client.session.headers["User-Agent"] = ""
    assert problem(client.order("agent@org.example")) == "malformed"


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [
        ({"type": "email", "value": "*@org.example"}, "rejectedIdentifier"),
        ({"type": "email", "value": "any*body@org.example"}, "rejectedIdentifier"),
        ({"type": "dns", "value": "org.example"}, "unsupportedIdentifier"),
        ({"type": "email", "value": "nobody"}, "malformed"),
        ({"type": "email", "value": "a b@org.example"}, "malformed"),
        ({"type": "email", "value": "a@localhost"}, "malformed"),
        ({"type": "email", "value": "a..b@org.example"}, "malformed"),
    ],
)
def test_an_identifier_that_cannot_be_issued_is_named_in_a_subproblem(
    client: SmallAcme, identifier: dict[str, str], expected: str
) -> None:
    answer = client.post(client.directory["newOrder"], {"identifiers": [identifier]})
    assert problem(answer) == expected
    assert answer.json()["subproblems"][0]["identifier"] == identifier


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"profile": "unheard-of"}, "invalidProfile"),
        ({"replaces": "bm8.c3VjaA"}, "malformed"),
        ({"notAfter": "tomorrow"}, "malformed"),
        ({"notAfter": "2020-01-01T00:00:00Z"}, "malformed"),
    ],
)
def test_an_order_with_unusable_members_is_refused(
    client: SmallAcme, members: dict[str, object], expected: str
) -> None:
    assert problem(client.order("member@org.example", **members)) == expected


def test_another_accounts_objects_are_closed(ca: RunningCa, enrollment: Enrollment) -> None:
    enrollment.place()
    enrollment.fetch_authorization()
    stranger = ca.client()
    stranger.register()
    for url in (enrollment.url, enrollment.authorization, enrollment.challenge):
        assert problem(stranger.post(url)) == "unauthorized"
    stranger.close()
