# SPDX-License-Identifier: GPL-3.0-or-later
"""Exchanging an account's key: two signatures, and finding out whether it has happened."""

import pytest

from acme_milter.acme import key_change
from acme_milter.acme.client import AcmeClient
from acme_milter.acme.key_change import Holder
from acme_milter.acme.problem import ServerRefused
from acme_milter.keys.jws_input import check_signing_input
from acme_milter.keys.refusal import KeydRefused
from tests.acme.scripted_authority import LocalSigner, Say, ScriptedAuthority, problem


def of_account(authority: ScriptedAuthority, number: int) -> Say:
    return Say({"status": "valid"}, 200, {"Location": f"{authority.base}/acct/{number}"})


@pytest.mark.parametrize(("number", "holder"), [(1, Holder.THIS_ACCOUNT), (2, Holder.ANOTHER_ACCOUNT)])
def test_whose_a_key_is_is_asked_with_that_key(
    authority: ScriptedAuthority, client: AcmeClient, number: int, holder: Holder
) -> None:
    authority.say("/newAccount", of_account(authority, number))
    upcoming = LocalSigner()
    assert key_change.holder_of(client.network, upcoming, client.account_url) is holder
    assert authority.posts[0].json == {"onlyReturnExisting": True}
    assert authority.posts[0].protected["jwk"] == upcoming.jwk


def test_a_key_that_nobody_has_is_free(authority: ScriptedAuthority, client: AcmeClient) -> None:
    authority.say("/newAccount", problem("accountDoesNotExist"), problem("malformed"))
    assert key_change.holder_of(client.network, LocalSigner(), client.account_url) is Holder.NOBODY
    with pytest.raises(ServerRefused):
        key_change.holder_of(client.network, LocalSigner(), client.account_url)


class Checked(LocalSigner):
    """Signs what keyd would sign, and nothing else."""

    upcoming: LocalSigner | None = None

    def sign(self, signing_input: bytes) -> bytes:
        check_signing_input(signing_input, self.jwk, self.upcoming.jwk if self.upcoming else None)
        return super().sign(signing_input)


def test_keyd_signs_both_halves_of_an_exchange_and_no_exchange_to_the_same_key(
    authority: ScriptedAuthority, client: AcmeClient
) -> None:
    old, new = Checked(), Checked()
    authority.keys[client.account_url] = old.jwk
    authority.say("/keyChange", Say({}))
    old.upcoming = new
    key_change.roll_over(client.network, old, client.account_url, new)
    old.upcoming = None
    with pytest.raises(KeydRefused, match="same key"):
        key_change.roll_over(client.network, old, client.account_url, old)
