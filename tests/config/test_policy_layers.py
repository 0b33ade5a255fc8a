# SPDX-License-Identifier: GPL-3.0-or-later
"""Which policy holds for whom, and which of a source's mailboxes a domain wants."""

import time
from datetime import timedelta
from pathlib import Path

import pytest

from acme_milter.config.loader import load_text
from acme_milter.config.member import Member
from acme_milter.config.policy import Policy
from acme_milter.config.schema import Config
from acme_milter.config.sources import LdapSource, SqlSource

BASE = """
authorities:
  pub: {preset: castle, agree_tos: true}
  corp: {directory: "https://ca.example/d", agree_tos: true}
sources:
  ad: {type: ldap, uri: "ldaps://dc.example", preset: active-directory, base: "dc=example"}
  hr: {type: csv, path: hr.csv, every: 10m}
  db: {type: sql, url: "postgresql://reader:canary@db.example/x", preset: postfixadmin}
defaults:
  authorities: [pub]
  certificate: {key: p384}
  renewal: {at: 67%, spread: 30d}
domains:
  example.org:
    source: [ad]
    renewal: {key: reuse}
    mailboxes:
      list: [listed@example.org, postmaster@example.org]
      include: ["*", "abuse@example.org"]
      exclude: ["noreply@*", "*-room@*", "/^test[0-9]+@/", {group: Contractors}]
      groups:
        - match: {group: "CN=Board,DC=example"}
          authorities: [corp, pub]
          renewal: {at: 0.5}
        - match: {address: ["info@*", "sales@example.org"]}
          authorities: []
          joiners: ask
        - match: {group: [board, "cn=board,dc=example"], address: "*@example.org"}
          mode: observe
      overrides:
        chief@Example.org: {renewal: {spread: 0}, authorities: []}
"""
BOARD = frozenset({"cn=board,dc=EXAMPLE"})


def member(name: str, groups: frozenset[str] = frozenset()) -> Member:
    return Member(f"{name}@example.org", f"ad:{name}", "ad", groups)


@pytest.fixture(scope="module")
def config() -> Config:
    found = [
        member("plain"),
        member("Boss", BOARD),
        member("info", BOARD),
        member("sales"),
        member("Chief", BOARD),
        member("third", frozenset({"BOARD"})),
    ]
    return load_text(BASE, Path("/etc/x.yaml")).with_members(found)


def policy(config: Config, name: str) -> Policy:
    found = config.policy_for(f"{name}@example.org")
    assert found is not None
    return found


def test_a_domain_lies_over_the_defaults(config: Config) -> None:
    plain = policy(config, "plain")
    assert (plain.authorities, plain.certificate.key) == (("pub",), "p384")
    assert (plain.renewal.key, plain.renewal.at, plain.renewal.spread) == ("reuse", 0.67, timedelta(days=30))


def test_the_first_group_that_matches_lies_over_the_domain_maps_merge_and_lists_replace(config: Config) -> None:
    boss = policy(config, "boss")
    assert boss.authorities == ("corp", "pub")
    assert (boss.renewal.at, boss.renewal.key, boss.renewal.spread) == (0.5, "reuse", timedelta(days=30))
    assert policy(config, "info").authorities == ("corp", "pub"), "the board comes first"
    assert policy(config, "sales").joiners == "ask"


def test_a_group_with_two_conditions_wants_both(config: Config) -> None:
    assert policy(config, "third").mode == "observe"
    assert policy(config, "plain").mode == "enforce"


def test_authorities_that_are_empty_are_all_of_them_at_every_level(config: Config) -> None:
    assert policy(config, "sales").authorities == ("pub", "corp")
    assert policy(config, "chief").authorities == ("pub", "corp")


def test_a_single_mailbox_lies_over_its_group(config: Config) -> None:
    chief = policy(config, "chief")
    assert (chief.renewal.at, chief.renewal.key, chief.renewal.spread) == (0.5, "reuse", timedelta(0))


def test_mailboxes_share_their_policies(config: Config) -> None:
    assert policy(config, "boss") is policy(config, "info")
    assert policy(config, "chief") is policy(config, "chief")


@pytest.mark.parametrize(
    ("address", "source", "groups", "reason"),
    [
        ("alice@example.org", "ad", [], None),
        ("alice@example.net", "ad", [], "no domain example.net is configured"),
        ("alice@example.org", "hr", [], "domains.example.org.source does not name hr"),
        ("NoReply@example.org", "ad", [], "matches exclude noreply@*"),
        ("blue-room@example.org", "ad", [], "matches exclude *-room@*"),
        ("Test12@example.org", "ad", [], "matches exclude /^test[0-9]+@/"),
        ("contest12@example.org", "ad", [], None),
        ("temp@example.org", "ad", ["contractors"], "matches exclude {group: Contractors}"),
        (
            "HostMaster@example.org",
            "ad",
            [],
            "matches the built-in pattern hostmaster@* (role address; include it by name to have it anyway)",
        ),
        (
            "news-request@example.org",
            "ad",
            [],
            "matches the built-in pattern *-request@* (mailing list's address; include it by name to have it anyway)",
        ),
        (
            "root@example.org",
            "ad",
            [],
            "matches the built-in pattern root@* (system address; include it by name to have it anyway)",
        ),
        ("abuse@example.org", "ad", [], None),
        ("postmaster@example.org", "ad", [], None),
        ("grooter@example.org", "ad", [], None),
    ],
)
def test_a_sources_mailbox_is_wanted_or_there_is_a_reason(
    config: Config, address: str, source: str, groups: list[str], reason: str | None
) -> None:
    assert config.exclusion_of(address, source, frozenset(groups)) == reason


def test_whoever_is_not_included_is_not_wanted() -> None:
    text = BASE.replace('include: ["*", "abuse@example.org"]', "include: [{group: smime}, a@example.org]")
    config = load_text(text, Path("/etc/x.yaml"))
    assert config.exclusion_of("b@example.org", "ad", frozenset({"SMIME"})) is None
    assert config.exclusion_of("A@example.org", "ad", frozenset()) is None
    assert (
        config.exclusion_of("b@example.org", "ad", frozenset())
        == "matches nothing in domains.example.org.mailboxes.include"
    )


def test_a_sources_preset_lies_under_its_own_keys() -> None:
    text = BASE.replace('base: "dc=example"', 'base: "dc=example", map: {name: cn, groups: null}')
    ldap, own = (load_text(each, Path("/etc/x.yaml")).sources["ad"] for each in (BASE, text))
    assert isinstance(ldap, LdapSource)
    assert isinstance(own, LdapSource)
    assert (ldap.map.id, ldap.map.aliases, ldap.map.name) == ("objectGUID", "proxyAddresses", "displayName")
    assert (own.map.id, own.map.aliases, own.map.name, own.map.groups) == ("objectGUID", "proxyAddresses", "cn", None)
    assert "userAccountControl" in own.filter


def test_a_sources_password_is_not_shown(config: Config) -> None:
    source = config.sources["db"]
    assert isinstance(source, SqlSource)
    assert source.has_password
    assert source.url_text() == "postgresql://reader:canary@db.example/x"
    assert "canary" not in repr(config)


def test_100000_policies_of_a_source_cost_little(config: Config) -> None:
    many = config.with_members(member(f"user{number}", BOARD) for number in range(100_000))
    began = time.process_time()
    found = {id(many.policy_for(address)) for address in many.managed()}
    assert time.process_time() - began < 5
    assert len(found) <= 6
