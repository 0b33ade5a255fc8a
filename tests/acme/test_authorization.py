# SPDX-License-Identifier: GPL-3.0-or-later
"""Authorizations, their e-mail challenge, revocation and renewal information."""

from datetime import UTC, datetime, timedelta

import pytest

from acme_milter.acme import revocation
from acme_milter.acme.authorization import Authorization, AuthorizationStatus, ChallengeStatus
from acme_milter.acme.client import AcmeClient
from acme_milter.acme.problem import BadAnswer, ErrorType, ServerRefused
from acme_milter.acme.revocation import RevocationReason
from tests.acme.scripted_authority import LocalSigner, Say, ScriptedAuthority, problem, unb64

TOKEN = "DGyRejmCefe7v4NfDGDKfA"
RENEWAL_ID = "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"


def challenge_object(authority: ScriptedAuthority, **members: object) -> dict[str, object]:
    return {
        "type": "email-reply-00",
        "url": f"{authority.base}/chall/1",
        "token": TOKEN,
        "from": "acme-challenge+2i211oi1204310@example.com",
        **members,
    }


def fetch(
    authority: ScriptedAuthority, client: AcmeClient, *challenges: object, status: str = "pending", **members: object
) -> Authorization:
    body = {
        "status": status,
        "expires": "2026-11-23T08:00:00Z",
        "identifier": {"type": "email", "value": "alice@example.org"},
        "challenges": list(challenges),
        **members,
    }
    authority.say("/authz/1", Say(body, headers={"Retry-After": "5"}))
    return client.fetch_authorization(f"{authority.base}/authz/1")


def test_the_challenge_of_the_rfc_s_example_needs_no_status(authority: ScriptedAuthority, client: AcmeClient) -> None:
    found = fetch(authority, client, {"type": "dns-01", "status": 7}, challenge_object(authority))
    assert found.status is AuthorizationStatus.PENDING
    assert found.identifier.value == "alice@example.org"
    assert found.retry_after == timedelta(seconds=5)
    assert found.challenge is not None
    assert found.challenge.status is ChallengeStatus.PENDING
    assert found.challenge.token_part2 == TOKEN
    assert found.challenge.sender == "acme-challenge+2i211oi1204310@example.com"


def test_the_token_is_in_no_repr(authority: ScriptedAuthority, client: AcmeClient) -> None:
    assert TOKEN not in repr(fetch(authority, client, challenge_object(authority)))


def test_an_error_while_processing_is_not_the_end(authority: ScriptedAuthority, client: AcmeClient) -> None:
    error = {"type": "urn:ietf:params:acme:error:incorrectResponse", "detail": "not yet"}
    found = fetch(authority, client, challenge_object(authority, status="processing", error=error))
    assert found.status is AuthorizationStatus.PENDING
    assert found.challenge is not None
    assert found.challenge.status is ChallengeStatus.PROCESSING
    assert found.challenge.error is not None
    assert found.challenge.error.kind is ErrorType.INCORRECT_RESPONSE


@pytest.mark.parametrize("members", [{}, {"token": None, "from": None}])
def test_an_authorization_may_be_valid_already(
    authority: ScriptedAuthority, client: AcmeClient, members: dict[str, object]
) -> None:
    found = fetch(authority, client, challenge_object(authority, **members), status="valid")
    assert found.challenge is not None
    assert found.challenge.status is ChallengeStatus.VALID
    assert fetch(authority, client, status="valid").challenge is None


@pytest.mark.parametrize("status", ["invalid", "deactivated", "expired", "revoked"])
def test_a_lost_authorization_is_read_with_its_state(
    authority: ScriptedAuthority, client: AcmeClient, status: str
) -> None:
    found = fetch(authority, client, challenge_object(authority), status=status)
    assert found.status == status
    assert found.challenge is not None
    assert found.challenge.status is ChallengeStatus.INVALID


def test_a_padded_token_is_kept_as_sent(authority: ScriptedAuthority, client: AcmeClient) -> None:
    found = fetch(authority, client, challenge_object(authority, token="AAAA=="))
    assert found.challenge is not None
    assert found.challenge.token_part2 == "AAAA=="


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"token": None}, "token: missing"),
        ({"token": ""}, "token: not base64url"),
        ({"token": "s3cr3t\r\n"}, "token: not base64url"),
        ({"token": "a" * 2000}, "token: not base64url"),
        ({"token": 7}, "token: not a string"),
        ({"from": None}, "from: missing"),
        ({"from": "nobody"}, "from: not a mail address"),
        ({"from": "a@b\r\nBcc: c@d"}, "from: not a mail address"),
        ({"from": "a@b <c@d>"}, "from: not a mail address"),
        ({"url": "https://evil.example/c"}, "url: points away"),
        ({"url": None}, "url: missing"),
        ({"status": "asleep"}, "unknown state asleep"),
    ],
)
def test_an_open_challenge_that_makes_no_sense_is_a_bad_answer(
    authority: ScriptedAuthority, client: AcmeClient, members: dict[str, object], words: str
) -> None:
    with pytest.raises(BadAnswer, match=words) as caught:
        fetch(authority, client, challenge_object(authority, **members))
    assert "s3cr3t" not in str(caught.value)


def test_unknown_states_and_missing_identifiers_are_bad_answers(
    authority: ScriptedAuthority, client: AcmeClient
) -> None:
    with pytest.raises(BadAnswer, match="unknown state maybe"):
        fetch(authority, client, status="maybe")
    with pytest.raises(BadAnswer, match="identifier: not an object"):
        fetch(authority, client, identifier=None)


def test_responding_reads_whatever_state_comes_back(authority: ScriptedAuthority, client: AcmeClient) -> None:
    url = f"{authority.base}/chall/1"
    authority.say("/chall/1", Say(challenge_object(authority, status="processing")), Say({}))
    assert client.respond(url).status is ChallengeStatus.PROCESSING
    assert client.respond(url).url == url
    assert [post.json for post in authority.posts] == [{}, {}]


def test_giving_an_authorization_up(authority: ScriptedAuthority, client: AcmeClient) -> None:
    body = {"status": "deactivated", "identifier": {"type": "email", "value": "alice@example.org"}}
    authority.say("/authz/1", Say(body))
    assert client.deactivate_authorization(f"{authority.base}/authz/1").status is AuthorizationStatus.DEACTIVATED
    assert authority.posts[0].json == {"status": "deactivated"}


def test_revoking_what_is_revoked_is_a_success(authority: ScriptedAuthority, client: AcmeClient) -> None:
    authority.say("/revokeCert", Say(b""), problem("alreadyRevoked"), problem("badRevocationReason"))
    assert client.revoke(b"DER", RevocationReason.SUPERSEDED) is True
    assert client.revoke(b"DER") is False
    with pytest.raises(ServerRefused) as caught:
        client.revoke(b"DER", RevocationReason.KEY_COMPROMISE)
    assert caught.value.kind is ErrorType.BAD_REVOCATION_REASON
    assert unb64(authority.posts[0].json["certificate"]) == b"DER"
    assert [post.json.get("reason") for post in authority.posts] == [4, None, 1]


def test_revoking_with_the_certificate_s_own_key_sends_the_key(
    authority: ScriptedAuthority, client: AcmeClient
) -> None:
    authority.say("/revokeCert", Say(b""))
    own = LocalSigner()
    assert revocation.revoke(client.network, own, None, b"DER")
    assert authority.posts[0].protected["jwk"] == own.jwk


def window(start: object, end: object, **members: object) -> dict[str, object]:
    return {"suggestedWindow": {"start": start, "end": end}, **members}


def test_renewal_information_is_read_without_an_account(authority: ScriptedAuthority, client: AcmeClient) -> None:
    body = window("2027-01-02T04:00:00Z", "2027-01-03T04:00:00Z", explanationURL="https://else.example/why\x07")
    authority.say(f"/renewalInfo/{RENEWAL_ID}", Say(body, headers={"Retry-After": "21600"}), Say(body))
    found = client.renewal_info(RENEWAL_ID)
    assert found is not None
    assert found.start == datetime(2027, 1, 2, 4, tzinfo=UTC)
    assert found.end == datetime(2027, 1, 3, 4, tzinfo=UTC)
    assert found.explanation_url == "https://else.example/why\\x07"
    assert found.poll_after == timedelta(hours=6)
    assert authority.posts == []


@pytest.mark.parametrize(("header", "seconds"), [("1", 60), ("99999999", 86400), ("soon", 21600), ("600", 600)])
def test_the_next_look_is_between_a_minute_and_a_day(
    authority: ScriptedAuthority, client: AcmeClient, header: str, seconds: int
) -> None:
    body = window("2027-01-02T04:00:00Z", "2027-01-03T04:00:00Z")
    authority.say(f"/renewalInfo/{RENEWAL_ID}", Say(body, headers={"Retry-After": header}))
    found = client.renewal_info(RENEWAL_ID)
    assert found is not None
    assert found.poll_after == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"suggestedWindow": []},
        window("2027-01-03T04:00:00Z", "2027-01-02T04:00:00Z"),
        window("2027-01-03T04:00:00Z", "2027-01-03T04:00:00Z"),
        window(None, "2027-01-03T04:00:00Z"),
        window("2027-01-03", "2027-01-04"),
        window("2027-01-03T00:00:00", "2027-01-04T00:00:00"),
    ],
)
def test_a_window_that_is_none_is_a_bad_answer(
    authority: ScriptedAuthority, client: AcmeClient, body: dict[str, object]
) -> None:
    authority.say(f"/renewalInfo/{RENEWAL_ID}", Say(body))
    with pytest.raises(BadAnswer, match="renewalInfo"):
        client.renewal_info(RENEWAL_ID)


def test_an_authority_without_renewal_information_has_none(authority: ScriptedAuthority, client: AcmeClient) -> None:
    del authority.directory["renewalInfo"]
    assert client.renewal_info(RENEWAL_ID) is None


@pytest.mark.parametrize("renewal_id", ["", "a", "a.b.c", "../../x.y", "a=.b", "a.b?c"])
def test_only_a_renewal_id_is_asked_for(client: AcmeClient, renewal_id: str) -> None:
    with pytest.raises(ValueError, match="renewal id"):
        client.renewal_info(renewal_id)
