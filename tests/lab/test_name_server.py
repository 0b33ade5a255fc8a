# SPDX-License-Identifier: GPL-3.0-or-later
"""The laboratory's name server, asked by a real resolver."""

from collections.abc import Iterator

import dns.exception
import dns.resolver
import pytest

from acme_milter.lab.name_server import NameFault, NameServer

NAME = "s._domainkey.ca.example"


@pytest.fixture
def server() -> Iterator[NameServer]:
    with NameServer({NAME: ["v=DKIM1; p=AAAA"]}) as server:
        yield server


def ask(server: NameServer, name: str) -> list[bytes]:
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = server.port
    resolver.lifetime = 0.5
    return sorted(b"".join(record.strings) for record in resolver.resolve(name, "TXT"))


def test_a_known_name_is_answered_whatever_its_case(server: NameServer) -> None:
    assert ask(server, NAME.upper()) == [b"v=DKIM1; p=AAAA"]
    assert server.questions == [NAME]


def test_a_long_record_arrives_whole(server: NameServer) -> None:
    server.set_txt(NAME, "p=" + "B" * 3000)
    assert ask(server, NAME) == [b"p=" + b"B" * 3000]


def test_several_records_of_a_name_are_all_given(server: NameServer) -> None:
    server.add_txt(NAME, b"other")
    assert ask(server, NAME) == [b"other", b"v=DKIM1; p=AAAA"]


def test_an_unknown_name_does_not_exist_and_a_name_between_has_no_data(server: NameServer) -> None:
    with pytest.raises(dns.resolver.NXDOMAIN):
        ask(server, "unknown.example")
    with pytest.raises(dns.resolver.NoAnswer):
        ask(server, "ca.example")


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (NameFault.SERVFAIL, dns.resolver.NoNameservers),
        (NameFault.REFUSED, dns.resolver.NoNameservers),
        (NameFault.TIMEOUT, dns.exception.Timeout),
        (NameFault.NODATA, dns.resolver.NoAnswer),
    ],
)
def test_a_fault_holds_for_a_name_and_those_below_until_it_ends(
    server: NameServer, fault: NameFault, error: type[Exception]
) -> None:
    server.set_fault("ca.example", fault)
    with pytest.raises(error):
        ask(server, NAME)
    server.set_fault("ca.example", None)
    assert ask(server, NAME) == [b"v=DKIM1; p=AAAA"]


def test_a_removed_name_is_gone(server: NameServer) -> None:
    server.remove(NAME)
    with pytest.raises(dns.resolver.NXDOMAIN):
        ask(server, NAME)
