# SPDX-License-Identifier: GPL-3.0-or-later
"""Nonces, retries and many threads, against a server that checks every signature."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from acme_milter.acme.client import AcmeClient
from acme_milter.acme.network import Network
from acme_milter.acme.nonces import NoncePool, valid_nonce
from acme_milter.acme.problem import BadAnswer, ErrorType, RateLimited, ServerBusy, ServerRefused
from tests.acme.conftest import MakeNetwork
from tests.acme.scripted_authority import LocalSigner, Post, Say, ScriptedAuthority, bad_nonce, problem


def test_a_nonce_is_fetched_once_and_then_taken_from_answers(authority: ScriptedAuthority, client: AcmeClient) -> None:
    authority.always("/acct/1", Say({"status": "valid"}))
    for _ in range(3):
        client.fetch_account()
    assert authority.requests.count(("HEAD", "/newNonce")) == 1
    assert len({post.protected["nonce"] for post in authority.posts}) == 3


def test_the_nonce_of_an_error_is_used_for_the_next_request(authority: ScriptedAuthority, client: AcmeClient) -> None:
    fresh = authority.nonce()
    authority.say("/acct/1", problem("unauthorized", 403, nonce=fresh), Say({"status": "valid"}))
    with pytest.raises(ServerRefused):
        client.fetch_account()
    client.fetch_account()
    assert authority.posts[-1].protected["nonce"] == fresh


def test_bad_nonce_is_retried_with_the_nonce_of_that_very_answer(
    authority: ScriptedAuthority, client: AcmeClient
) -> None:
    offered = [authority.nonce() for _ in range(6)]
    authority.say("/acct/1", *(bad_nonce(nonce=nonce) for nonce in offered), Say({"status": "valid"}))
    client.fetch_account()
    assert [post.protected["nonce"] for post in authority.posts[1:]] == offered


def test_bad_nonce_without_a_nonce_asks_for_a_new_one(authority: ScriptedAuthority, client: AcmeClient) -> None:
    authority.say("/acct/1", bad_nonce(nonce=False), bad_nonce(nonce="not/base64url"), Say({"status": "valid"}))
    client.fetch_account()
    assert authority.requests.count(("HEAD", "/newNonce")) == 3


def test_bad_nonce_for_ever_ends_at_the_deadline_as_busy(
    authority: ScriptedAuthority, make_network: MakeNetwork, signer: LocalSigner
) -> None:
    authority.always("/newAccount", bad_nonce())
    pauses: list[float] = []
    network = make_network(nonce_deadline=0.3, sleep=pauses.append)
    with pytest.raises(ServerBusy) as caught:
        network.post(f"{authority.base}/newAccount", {}, signer, None)
    assert caught.value.kind is ErrorType.BAD_NONCE
    assert caught.value.temporary
    assert not caught.value.outcome_unknown
    assert len(pauses) > 3
    assert pauses[0] == 0
    assert all(0 <= pause <= 0.5 for pause in pauses)
    assert len(set(pauses)) > 2, "without jitter many threads march in step"


def test_every_second_nonce_refused_costs_time_but_no_request(authority: ScriptedAuthority, client: AcmeClient) -> None:
    turn = Counter[str]()

    def every_second(_: Post | None) -> Say:
        turn["n"] += 1
        return bad_nonce() if turn["n"] % 2 else Say({"status": "valid"})

    authority.always("/acct/1", every_second)
    for _ in range(20):
        client.fetch_account()


def test_thirty_two_threads_share_one_network_and_never_a_nonce(
    authority: ScriptedAuthority, client: AcmeClient
) -> None:
    authority.always("/acct/1", Say({"status": "valid"}))
    start = threading.Barrier(32)

    def several() -> None:
        start.wait()
        for _ in range(5):
            client.fetch_account()

    with ThreadPoolExecutor(32) as pool:
        for done in [pool.submit(several) for _ in range(32)]:
            done.result()
    used = Counter(post.protected["nonce"] for post in authority.posts)
    assert len(used) == 160
    assert authority.connections <= 64, "connections are kept and shared"


def test_connections_are_kept_alive(authority: ScriptedAuthority, client: AcmeClient) -> None:
    authority.always("/acct/1", Say({"status": "valid"}))
    for _ in range(10):
        client.fetch_account()
    assert authority.connections == 1


def test_the_nonce_pool_is_bounded_and_gives_the_newest_first() -> None:
    pool = NoncePool(2)
    for nonce in ("a", "b", "c"):
        pool.put(nonce)
    assert [pool.take(), pool.take(), pool.take()] == ["c", "b", None]


@pytest.mark.parametrize("value", [None, "", "a b", "a=", "a+/", "é", "a\r\n", "a" * 2000])
def test_a_nonce_outside_the_alphabet_is_ignored(value: str | None) -> None:
    assert valid_nonce(value) is None


def test_a_server_without_usable_nonces_is_a_bad_answer(
    authority: ScriptedAuthority, network: Network, signer: LocalSigner
) -> None:
    authority.say("/newNonce", Say(nonce=False), Say(nonce="x y"))
    for _ in range(2):
        with pytest.raises(BadAnswer, match="Replay-Nonce"):
            network.post(f"{authority.base}/newAccount", {}, signer, None)


def test_post_as_get_has_an_empty_payload_and_a_response_an_empty_object(
    authority: ScriptedAuthority, client: AcmeClient
) -> None:
    authority.say("/acct/1", Say({"status": "valid"}))
    authority.say("/chall/1", Say({"type": "email-reply-00", "status": "processing", "url": "x"}))
    client.fetch_account()
    client.respond(f"{authority.base}/chall/1")
    assert [post.payload for post in authority.posts] == [b"", b"{}"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("30", timedelta(seconds=30)),
        ("0", timedelta(seconds=1)),
        ("99999999999999999999", timedelta(hours=24)),
        ("Wed, 21 Oct 2065 07:28:00 GMT", timedelta(hours=24)),
        ("Wed, 21 Oct 2015 07:28:00 GMT", timedelta(seconds=1)),
        ("-30", None),
        ("later", None),
        (None, None),
    ],
)
def test_the_wish_to_wait_survives_an_error_in_every_form(
    authority: ScriptedAuthority, client: AcmeClient, value: str | None, expected: timedelta | None
) -> None:
    headers = {"Link": f'<{authority.base}/limits>;rel="help"'} | ({} if value is None else {"Retry-After": value})
    refusal = problem("rateLimited", 429)
    authority.say("/acct/1", Say(refusal.body, 429, headers, refusal.content_type))
    with pytest.raises(RateLimited) as caught:
        client.fetch_account()
    assert caught.value.retry_after == expected
    assert caught.value.temporary
    assert caught.value.link("help") == f"{authority.base}/limits"
    assert "rateLimited it is" in str(caught.value)


def test_a_date_to_wait_for_is_counted_from_the_server_s_clock(
    authority: ScriptedAuthority, make_network: MakeNetwork
) -> None:
    # Our clock is a year ahead; the server's Date says what "in an hour" means.
    network = make_network(clock=lambda: datetime.now(UTC) + timedelta(days=365))
    later = (datetime.now(UTC) + timedelta(hours=1)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    authority.say("/directory", Say({}, 503, {"Retry-After": later}))
    with pytest.raises(ServerBusy) as caught:
        network.directory()
    assert caught.value.retry_after is not None
    assert abs(caught.value.retry_after - timedelta(hours=1)) < timedelta(seconds=10)
    assert network.clock_skew is not None
    assert abs(network.clock_skew - timedelta(days=365)) < timedelta(seconds=10)


def test_the_directory_is_read_once_and_again_when_it_moved(authority: ScriptedAuthority, network: Network) -> None:
    network.directory()
    network.directory()
    assert authority.requests.count(("GET", "/directory")) == 1
    authority.say("/newNonce", Say({}, 404, nonce=False))
    with pytest.raises(ServerRefused):
        network.post(f"{authority.base}/x", None, LocalSigner(), None)
    network.directory()
    assert authority.requests.count(("GET", "/directory")) == 2


def test_the_user_agent_names_us_and_the_http_library(
    authority: ScriptedAuthority, make_network: MakeNetwork, signer: LocalSigner
) -> None:
    authority.say("/newAccount", Say({}))
    make_network(user_agent="acme-milter/9.9").post(f"{authority.base}/newAccount", {}, signer, None)
    assert authority.posts[0].headers["User-Agent"].startswith("acme-milter/9.9 python-requests/")


def test_what_the_signer_raises_passes_through(
    authority: ScriptedAuthority, network: Network, signer: LocalSigner
) -> None:
    class Gone(Exception):  # stands for an exception of another room
        pass

    class Broken(LocalSigner):
        def sign(self, signing_input: bytes) -> bytes:
            raise Gone

    with pytest.raises(Gone):
        network.post(f"{authority.base}/newAccount", {}, Broken(), None)
