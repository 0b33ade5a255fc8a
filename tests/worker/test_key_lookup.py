# SPDX-License-Identifier: GPL-3.0-or-later
"""DKIM keys over real UDP and TCP: found, absent for certain, or unknown for now."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from acme_milter.worker.key_lookup import KeyAbsent, KeyLookup, LookupDeferred
from tests.protocol.key_server import KeyServer, Misbehaviour

NAME = "s1._domainkey.ca.example"


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with KeyServer({NAME: [b"v=DKIM1; p=AAAA"]}) as made:
        yield made


def test_record_is_fetched_from_the_given_server(server: KeyServer) -> None:
    assert KeyLookup([server.address]).fetch(NAME) == (b"v=DKIM1; p=AAAA",)
    assert server.questions == [(NAME, "udp")]


def test_strings_of_one_record_are_joined_and_records_kept_apart(server: KeyServer) -> None:
    server.zone = {NAME: [b"a" * 600, b"b"]}
    assert sorted(KeyLookup([server.address]).fetch(NAME)) == [b"a" * 600, b"b"]


def test_truncated_answer_is_fetched_again_over_tcp(server: KeyServer) -> None:
    server.zone = {NAME: [b"x" * 3_000]}
    assert KeyLookup([server.address]).fetch(NAME) == (b"x" * 3_000,)
    assert server.questions == [(NAME, "udp"), (NAME, "tcp")]


def test_octets_are_not_interpreted(server: KeyServer) -> None:
    server.zone = {NAME: [bytes(range(256))]}
    assert KeyLookup([server.address]).fetch(NAME) == (bytes(range(256)),)


@pytest.mark.parametrize("behaviour", [Misbehaviour.NO_DATA, Misbehaviour.OTHER_TYPE])
def test_name_without_txt_is_absent_for_certain(server: KeyServer, behaviour: Misbehaviour) -> None:
    server.zone = {NAME: behaviour}
    with pytest.raises(KeyAbsent):
        KeyLookup([server.address]).fetch(NAME)


def test_name_that_does_not_exist_is_absent_for_certain(server: KeyServer) -> None:
    with pytest.raises(KeyAbsent):
        KeyLookup([server.address]).fetch("gone._domainkey.ca.example")


@pytest.mark.parametrize("name", ["a" * 64 + ".ca.example", "a..b", "x." * 130 + "example", ""])
def test_impossible_name_is_absent_without_asking(server: KeyServer, name: str) -> None:
    with pytest.raises(KeyAbsent):
        KeyLookup([server.address]).fetch(name)
    assert not [question for question in server.questions if question[0]]


@pytest.mark.parametrize(
    "behaviour", [Misbehaviour.SERVFAIL, Misbehaviour.REFUSED, Misbehaviour.GARBAGE, Misbehaviour.SILENCE]
)
def test_no_certain_answer_is_deferred_within_the_time_given(server: KeyServer, behaviour: Misbehaviour) -> None:
    server.zone = {NAME: behaviour}
    started = time.monotonic()
    with pytest.raises(LookupDeferred):
        KeyLookup([server.address], timeout=0.5).fetch(NAME)
    assert time.monotonic() - started < 1.5


def test_second_server_is_asked_when_the_first_fails(server: KeyServer) -> None:
    with KeyServer({NAME: Misbehaviour.SERVFAIL}) as broken:
        lookup = KeyLookup([broken.address, server.address])
        assert lookup.fetch(NAME) == (b"v=DKIM1; p=AAAA",)


def test_server_that_is_gone_is_deferred() -> None:
    with KeyServer() as gone:
        address = gone.address
    with pytest.raises(LookupDeferred):
        KeyLookup([address], timeout=0.5).fetch(NAME)


def test_caller_can_shorten_the_time(server: KeyServer) -> None:
    server.zone = {NAME: Misbehaviour.SILENCE}
    lookup = KeyLookup([server.address])
    started = time.monotonic()
    with pytest.raises(LookupDeferred):
        lookup.fetch(NAME, within=0.3)
    assert time.monotonic() - started < 1.3
    with pytest.raises(LookupDeferred):
        lookup.fetch(NAME, within=-1)


def test_found_key_is_kept_for_its_time_to_live_and_no_longer() -> None:
    with KeyServer({NAME: [b"one"]}, ttl=1) as server:
        lookup = KeyLookup([server.address])
        assert lookup.fetch(NAME) == (b"one",)
        server.zone = {NAME: [b"two"]}
        assert lookup.fetch(NAME) == (b"one",)
        assert len(server.questions) == 1
        time.sleep(1.1)
        assert lookup.fetch(NAME) == (b"two",)


def test_absence_and_failure_are_never_kept() -> None:
    with KeyServer(ttl=300) as server:
        lookup = KeyLookup([server.address])
        with pytest.raises(KeyAbsent):
            lookup.fetch(NAME)
        server.zone = {NAME: Misbehaviour.SERVFAIL}
        with pytest.raises(LookupDeferred):
            lookup.fetch(NAME)
        server.zone = {NAME: [b"mended"]}
        assert lookup.fetch(NAME) == (b"mended",)


def test_many_threads_share_one_lookup(server: KeyServer) -> None:
    server.zone = {f"s{number}._domainkey.ca.example": [str(number).encode()] for number in range(64)}
    lookup = KeyLookup([server.address])
    with ThreadPoolExecutor(16) as executor:
        answers = executor.map(lookup.fetch, [f"s{number}._domainkey.ca.example" for number in range(64)])
        assert list(answers) == [(str(number).encode(),) for number in range(64)]


def test_cache_is_bounded() -> None:
    with KeyServer({f"s{number}.ca.example": [b"x"] for number in range(300)}, ttl=300) as server:
        lookup = KeyLookup([server.address])
        for number in range(300):
            lookup.fetch(f"s{number}.ca.example")
        assert len(lookup._cache) == 256
