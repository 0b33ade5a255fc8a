# SPDX-License-Identifier: GPL-3.0-or-later
"""Orders: placing, reading, finalizing, downloading."""

from datetime import UTC, datetime, timedelta

import pytest

from acme_milter.acme.client import AcmeClient
from acme_milter.acme.order import Order, OrderStatus
from acme_milter.acme.problem import BadAnswer, ErrorType, ServerBusy, ServerRefused
from tests.acme.scripted_authority import Say, ScriptedAuthority, problem, unb64

ADDRESS = "alice@example.org"
BLOCK = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"


def order_object(authority: ScriptedAuthority, **members: object) -> dict[str, object]:
    return {
        "status": "pending",
        "expires": "2026-11-23T10:00:00.123456789+02:00",
        "identifiers": [{"type": "email", "value": ADDRESS}],
        "authorizations": [f"{authority.base}/authz/1"],
        "finalize": f"{authority.base}/order/1/finalize",
        **members,
    }


def say_order(authority: ScriptedAuthority, **members: object) -> None:
    authority.say("/order/1", Say(order_object(authority, **members)))


def fetch(authority: ScriptedAuthority, client: AcmeClient) -> Order:
    return client.fetch_order(f"{authority.base}/order/1")


def say_new(authority: ScriptedAuthority, code: int = 201, **members: object) -> None:
    location = {"Location": f"{authority.base}/order/1"}
    authority.say("/newOrder", Say(order_object(authority, **members), code, location))


def test_an_order_names_one_email_identifier(authority: ScriptedAuthority, client: AcmeClient) -> None:
    say_new(authority)
    order = client.new_order(ADDRESS)
    assert authority.posts[0].json == {"identifiers": [{"type": "email", "value": ADDRESS}]}
    assert order.url == f"{authority.base}/order/1"
    assert order.status is OrderStatus.PENDING
    assert order.expires == datetime(2026, 11, 23, 8, 0, 0, 123456, tzinfo=UTC)
    assert order.authorizations == (f"{authority.base}/authz/1",)
    assert order.certificate is None
    assert order.retry_after is None


def test_a_star_is_never_ordered(authority: ScriptedAuthority, client: AcmeClient) -> None:
    with pytest.raises(ValueError, match=r"\*"):
        client.new_order("*@example.org")
    assert authority.requests == []


def test_profile_and_predecessor_are_sent_and_their_echo_is_read(
    authority: ScriptedAuthority, client: AcmeClient
) -> None:
    authority.directory["meta"] = {"profiles": {"smime": "S/MIME\x1b[0m, one year"}}
    say_new(authority, profile="smime", replaces="aki.serial")
    order = client.new_order(ADDRESS, profile="smime", replaces="aki.serial")
    assert authority.posts[0].json["profile"] == order.profile == "smime"
    assert authority.posts[0].json["replaces"] == order.replaces == "aki.serial"
    assert client.network.directory().meta.profiles["smime"].isprintable()


def test_a_profile_nobody_offers_is_refused_without_asking(authority: ScriptedAuthority, client: AcmeClient) -> None:
    authority.directory["meta"] = {"profiles": {"smime": "", "short": ""}}
    with pytest.raises(ServerRefused, match="smime, short") as caught:
        client.new_order(ADDRESS, profile="smine")
    assert caught.value.kind is ErrorType.INVALID_PROFILE
    assert authority.posts == []


def test_the_predecessor_is_not_named_where_renewal_info_is_unknown(
    authority: ScriptedAuthority, client: AcmeClient
) -> None:
    del authority.directory["renewalInfo"]
    say_new(authority)
    client.new_order(ADDRESS, replaces="aki.serial")
    assert "replaces" not in authority.posts[0].json


def test_a_predecessor_already_replaced_is_a_refusal_of_its_own_type(
    authority: ScriptedAuthority, client: AcmeClient
) -> None:
    authority.say("/newOrder", problem("alreadyReplaced", 409))
    with pytest.raises(ServerRefused) as caught:
        client.new_order(ADDRESS, replaces="aki.serial")
    assert caught.value.kind is ErrorType.ALREADY_REPLACED


def test_an_order_handed_back_is_as_good_as_a_new_one(authority: ScriptedAuthority, client: AcmeClient) -> None:
    say_new(authority, 200, status="ready")
    assert client.new_order(ADDRESS).status is OrderStatus.READY


def test_an_address_in_another_case_is_the_same(authority: ScriptedAuthority, client: AcmeClient) -> None:
    say_new(authority)
    client.new_order("Alice@Example.org")


@pytest.mark.parametrize(
    "identifiers",
    [
        [],
        [{"type": "email", "value": "mallory@example.org"}],
        [{"type": "dns", "value": ADDRESS}],
        [{"type": "email", "value": ADDRESS}, {"type": "email", "value": "mallory@example.org"}],
    ],
)
def test_an_order_for_somebody_else_is_a_bad_answer(
    authority: ScriptedAuthority, client: AcmeClient, identifiers: object
) -> None:
    say_new(authority, identifiers=identifiers)
    with pytest.raises(BadAnswer, match="not for the address"):
        client.new_order(ADDRESS)


def test_a_new_order_without_its_url_is_a_bad_answer(authority: ScriptedAuthority, client: AcmeClient) -> None:
    authority.say("/newOrder", Say(order_object(authority), 201))
    with pytest.raises(BadAnswer, match="Location"):
        client.new_order(ADDRESS)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"status": "frozen"}, "unknown state frozen"),
        ({"status": None}, "status: missing"),
        ({"finalize": None}, "finalize: missing"),
        ({"finalize": "https://evil.example/f"}, "finalize: points away"),
        ({"certificate": "http://127.0.0.1/c"}, "certificate: not an https URL"),
        ({"status": "valid"}, "certificate: missing although"),
        ({"expires": "tomorrow"}, "expires: not a timestamp"),
        ({"expires": "2026-02-31T00:00:00Z"}, "expires: not a timestamp"),
        ({"expires": "0001-01-01T00:00:00+14:00"}, "expires: not a timestamp"),
        ({"expires": 7}, "expires: not a string"),
        ({"authorizations": ["https://evil.example/a"]}, "authorizations: points away"),
        ({"authorizations": [7]}, "authorizations: not a URL"),
        ({"authorizations": "x"}, "authorizations: not a list"),
        ({"authorizations": ["x"] * 101}, "authorizations: 101 entries"),
        ({"identifiers": ["x"]}, "identifiers: not an object"),
        ({"identifiers": [{"type": "email"}]}, "value: missing"),
        ({"profile": 7}, "profile: not a string"),
    ],
)
def test_an_order_that_makes_no_sense_is_a_bad_answer_naming_the_field(
    authority: ScriptedAuthority, client: AcmeClient, members: dict[str, object], words: str
) -> None:
    say_order(authority, **members)
    with pytest.raises(BadAnswer, match=words):
        fetch(authority, client)


def test_an_invalid_order_shows_why_and_needs_no_finalize(authority: ScriptedAuthority, client: AcmeClient) -> None:
    fault = {"type": "urn:ietf:params:acme:error:caa", "detail": "no"}
    say_order(authority, status="invalid", finalize=None, expires=None, error=fault)
    order = fetch(authority, client)
    assert order.error is not None
    assert order.error.kind is ErrorType.CAA
    with pytest.raises(ValueError, match="invalid"):
        client.finalize(order, b"csr")


@pytest.mark.parametrize("error", ["broken", 7, [], {"type": 9}])
def test_an_unreadable_error_is_still_an_error(authority: ScriptedAuthority, client: AcmeClient, error: object) -> None:
    say_order(authority, status="invalid", error=error)
    assert fetch(authority, client).error is not None


def test_finalizing_sends_the_csr_and_keeps_the_order_s_url(authority: ScriptedAuthority, client: AcmeClient) -> None:
    say_order(authority, status="ready")
    order = fetch(authority, client)
    processing = order_object(authority, status="processing")
    authority.say("/order/1/finalize", Say(processing, headers={"Retry-After": "3"}))
    after = client.finalize(order, b"\xff\xfe CSR")
    assert unb64(authority.posts[-1].json["csr"]) == b"\xff\xfe CSR"
    assert (after.url, after.status) == (order.url, OrderStatus.PROCESSING)
    assert after.retry_after == timedelta(seconds=3)


@pytest.mark.parametrize(
    ("kind", "status", "temporary"),
    [("orderNotReady", 403, True), ("badCSR", 400, False), ("unauthorized", 403, False)],
)
def test_a_refused_csr_says_whether_to_poll_on(
    authority: ScriptedAuthority, client: AcmeClient, kind: str, status: int, temporary: bool
) -> None:
    say_order(authority, status="ready")
    order = fetch(authority, client)
    authority.say("/order/1/finalize", problem(kind, status))
    with pytest.raises(ServerRefused) as caught:
        client.finalize(order, b"csr")
    assert caught.value.temporary is temporary


def test_a_500_at_finalize_leaves_the_outcome_open(authority: ScriptedAuthority, client: AcmeClient) -> None:
    say_order(authority, status="ready")
    order = fetch(authority, client)
    authority.say("/order/1/finalize", problem("serverInternal", 500))
    with pytest.raises(ServerBusy) as caught:
        client.finalize(order, b"csr")
    assert caught.value.outcome_unknown


def test_a_chain_comes_as_sent_with_its_alternates(authority: ScriptedAuthority, client: AcmeClient) -> None:
    links = f'<{authority.url}>;rel="index", </cert/1/1>; rel="alternate" , <{authority.base}/cert/1/2>;rel=alternate'
    chain = Say(BLOCK * 2, headers={"Link": links}, content_type="application/pem-certificate-chain")
    authority.always("/cert/1", chain)
    found = client.download_chain(f"{authority.base}/cert/1")
    assert found.pem == BLOCK * 2
    assert found.alternates == (f"{authority.base}/cert/1/1", f"{authority.base}/cert/1/2")
    assert client.download(f"{authority.base}/cert/1") == BLOCK * 2
    assert authority.posts[0].headers["Accept"] == "application/pem-certificate-chain"
    assert authority.posts[0].payload == b""


def test_an_alternate_elsewhere_is_a_bad_answer(authority: ScriptedAuthority, client: AcmeClient) -> None:
    authority.say("/cert/1", Say(BLOCK, headers={"Link": '<https://evil.example/c>;rel="alternate"'}))
    with pytest.raises(BadAnswer, match="alternate chain: points away"):
        client.download(f"{authority.base}/cert/1")


KEY = BLOCK.replace(b"CERTIFICATE", b"PRIVATE KEY")


@pytest.mark.parametrize("body", [BLOCK + KEY, KEY + BLOCK, BLOCK + b" " + KEY, b"hello", b"\x30\x82", BLOCK[29:]])
def test_a_body_with_anything_but_certificates_is_a_bad_answer(
    authority: ScriptedAuthority, client: AcmeClient, body: bytes
) -> None:
    authority.say("/cert/1", Say(body))
    with pytest.raises(BadAnswer, match="certificate"):
        client.download(f"{authority.base}/cert/1")


@pytest.mark.parametrize("say", [Say(BLOCK[:40]), Say(BLOCK + BLOCK[:40]), Say(b""), problem("malformed", 404)])
def test_a_certificate_that_is_not_there_yet_is_asked_for_again(
    authority: ScriptedAuthority, client: AcmeClient, say: Say
) -> None:
    authority.say("/cert/1", say)
    with pytest.raises(ServerBusy):
        client.download(f"{authority.base}/cert/1")
