# SPDX-License-Identifier: GPL-3.0-or-later
"""Accounts: what is sent, and what is made of the answers."""

import json

import pytest

from acme_milter.acme import account
from acme_milter.acme.account import AccountStatus, Eab
from acme_milter.acme.client import AcmeClient
from acme_milter.acme.network import Network
from acme_milter.acme.problem import BadAnswer, ErrorType, ServerRefused
from tests.acme.scripted_authority import LocalSigner, Say, ScriptedAuthority, problem, unb64, verify_es256


def account_answer(authority: ScriptedAuthority, status: int = 201) -> Say:
    return Say({"status": "valid"}, status, {"Location": f"{authority.base}/acct/1"})


def test_registering_sends_contact_terms_and_binding(
    authority: ScriptedAuthority, network: Network, signer: LocalSigner
) -> None:
    authority.directory["meta"] = {"termsOfService": "https://ca.example/tos", "externalAccountRequired": True}
    authority.say("/newAccount", account_answer(authority))
    found = account.register(network, signer, ["pki@example.org", "mailto:b@example.org"], True, Eab("k", b"s" * 32))
    assert found.url == f"{authority.base}/acct/1"
    assert found.status is AccountStatus.VALID
    assert found.terms_url == "https://ca.example/tos"
    payload = authority.posts[0].json
    assert payload["contact"] == ["mailto:pki@example.org", "mailto:b@example.org"]
    assert payload["termsOfServiceAgreed"] is True
    binding = json.loads(unb64(payload["externalAccountBinding"]["protected"]))
    assert binding["url"] == authority.posts[0].protected["url"]
    assert authority.posts[0].protected["jwk"] == signer.jwk


def test_an_existing_account_is_as_good_as_a_new_one(
    authority: ScriptedAuthority, network: Network, signer: LocalSigner
) -> None:
    authority.say("/newAccount", account_answer(authority, 200))
    assert AcmeClient.register(network, signer, [], agree_tos=False).account_url == f"{authority.base}/acct/1"
    assert "termsOfServiceAgreed" not in authority.posts[0].json


@pytest.mark.parametrize(
    ("meta", "kind"),
    [
        ({"termsOfService": "https://ca.example/tos"}, ErrorType.USER_ACTION_REQUIRED),
        ({"externalAccountRequired": True}, ErrorType.EXTERNAL_ACCOUNT_REQUIRED),
    ],
)
def test_what_the_directory_demands_is_refused_without_asking(
    authority: ScriptedAuthority, network: Network, signer: LocalSigner, meta: dict[str, object], kind: ErrorType
) -> None:
    authority.directory["meta"] = meta
    with pytest.raises(ServerRefused) as caught:
        account.register(network, signer, [], agree_tos=False)
    assert caught.value.kind is kind
    assert not caught.value.temporary
    assert authority.posts == []


def test_new_terms_point_to_where_they_can_be_agreed_to(authority: ScriptedAuthority, client: AcmeClient) -> None:
    refusal = problem("userActionRequired", 403, instance="https://ca.example/agree")
    link = {"Link": '<https://ca.example/tos-2>; rel="terms-of-service", </directory>;rel=index'}
    authority.say("/acct/1", Say(refusal.body, 403, link, refusal.content_type))
    with pytest.raises(ServerRefused) as caught:
        client.fetch_account()
    assert caught.value.problem is not None
    assert caught.value.problem.instance == "https://ca.example/agree"
    assert caught.value.link("terms-of-service") == "https://ca.example/tos-2"
    assert caught.value.link("index") == authority.url


@pytest.mark.parametrize(
    "contact", ["a@b,c@d", "a@b?subject=x", "nobody", "tel:+123", "a b@c", "a@b\r\n", "mailto:mailto:a@b@c", "a\x00@b"]
)
def test_a_contact_is_one_plain_address(network: Network, signer: LocalSigner, contact: str) -> None:
    with pytest.raises(ValueError, match="contact"):
        account.register(network, signer, [contact], agree_tos=True)


def test_finding_asks_only_for_an_existing_account(
    authority: ScriptedAuthority, network: Network, signer: LocalSigner
) -> None:
    authority.say("/newAccount", account_answer(authority, 200), problem("accountDoesNotExist"), problem("malformed"))
    assert AcmeClient.find(network, signer) is not None
    assert account.find(network, signer) is None
    with pytest.raises(ServerRefused):
        account.find(network, signer)
    assert [post.json for post in authority.posts] == [{"onlyReturnExisting": True}] * 3


@pytest.mark.parametrize("location", [None, "https://evil.example/acct/1", "/acct/1", ""])
def test_an_account_needs_a_location_on_the_same_origin(
    authority: ScriptedAuthority, network: Network, signer: LocalSigner, location: str | None
) -> None:
    headers = {} if location is None else {"Location": location}
    authority.say("/newAccount", Say({"status": "valid"}, 201, headers))
    with pytest.raises(BadAnswer, match="Location"):
        account.register(network, signer, [], agree_tos=False)


def test_rolling_over_signs_with_both_keys(authority: ScriptedAuthority, client: AcmeClient) -> None:
    new = LocalSigner()
    authority.say("/keyChange", Say({}))
    authority.say("/acct/1", Say({"status": "valid"}))
    old_jwk = client.signer.jwk
    renewed = client.roll_over(new)
    inner = authority.posts[0].json
    verify_es256(new.jwk, f"{inner['protected']}.{inner['payload']}".encode(), unb64(inner["signature"]))
    assert json.loads(unb64(inner["payload"])) == {"account": client.account_url, "oldKey": old_jwk}
    authority.keys[client.account_url] = new.jwk
    renewed.fetch_account()
    assert renewed.thumbprint == new.thumbprint


def test_a_key_of_another_account_is_refused_with_that_account_s_url(
    authority: ScriptedAuthority, client: AcmeClient
) -> None:
    conflict = problem("malformed", 409)
    authority.say("/keyChange", Say(conflict.body, 409, {"Location": f"{authority.base}/acct/2"}))
    with pytest.raises(ServerRefused) as caught:
        client.roll_over(LocalSigner())
    assert caught.value.location == f"{authority.base}/acct/2"
    assert caught.value.problem is not None
    assert caught.value.problem.status == 409


def test_an_authority_without_key_change_or_revocation_says_so(
    authority: ScriptedAuthority, client: AcmeClient
) -> None:
    del authority.directory["keyChange"], authority.directory["revokeCert"]
    with pytest.raises(BadAnswer, match="keyChange"):
        client.roll_over(LocalSigner())
    with pytest.raises(BadAnswer, match="revokeCert"):
        client.revoke(b"0")


def test_updating_and_deactivating(authority: ScriptedAuthority, client: AcmeClient) -> None:
    authority.say("/acct/1", Say({"status": "valid"}), Say({"status": "deactivated"}))
    client.update_contact(["new@example.org"])
    assert client.deactivate_account().status is AccountStatus.DEACTIVATED
    assert [post.json for post in authority.posts] == [
        {"contact": ["mailto:new@example.org"]},
        {"status": "deactivated"},
    ]
