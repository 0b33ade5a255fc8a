# SPDX-License-Identifier: GPL-3.0-or-later
"""Aliases that a source knows come, stay, change hands and leave as the policy wants it; on a real store and file."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from acme_milter.config.aliases import AliasChoice
from acme_milter.mailboxes.record import CameAs
from tests.worker.test_mailbox_keeping import Keeping

OWN = {
    "certificate": {"aliases": "own_certificate"},
    "leavers": {"after": "0s"},
    "safety": {"max_source_change": "50%"},
}
SAME = {"certificate": {"aliases": "same_certificate"}}


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Keeping]:
    keeping = Keeping(tmp_path)
    yield keeping
    keeping.database.close()


def read(it: Keeping, people: Mapping[str, str], *, ids: bool = True) -> None:
    """Local parts and their aliases; bystanders, so that no guard objects."""
    everybody = {**people, **{f"p{number}": "" for number in range(12)}}
    lines = ["address,id,aliases" if ids else "address,aliases"]
    for name, aliases in everybody.items():
        person = name.partition("=")[2] or name
        cells = [f"{name.partition('=')[0]}@org.example", *([person] if ids else []), aliases]
        lines.append(",".join(cells))
    it.csv.write_text("\n".join(lines) + "\n")
    os.utime(it.csv, (0, 0))
    it.keeping.load()
    for name in it.keeping.names():
        outcome = it.keeping.keep(name)
        assert (outcome.error, outcome.held) == (None, ())


def among(it: Keeping) -> set[str]:
    return {name for name in it.managed() if not name.startswith("p")}


def choice(it: Keeping, name: str) -> AliasChoice:
    config = it.standing.current()
    member = config.member(f"{name}@org.example")
    assert member is not None
    return config.aliases_of(member)


def with_policy(it: Keeping, defaults: Mapping[str, Any]) -> None:
    it.standing.replace_file(it.config(defaults=dict(defaults)))


def test_with_none_the_store_does_not_even_know_of_aliases(it: Keeping) -> None:
    read(it, {"ann": "a@org.example; berg@org.example"})
    assert (it.row("ann").aliases, among(it)) == ((), {"ann"})
    assert choice(it, "ann") == AliasChoice()
    before = it.rows()
    read(it, {"ann": "other@org.example"})
    assert it.rows() == before


def test_in_the_same_certificate_they_are_managed_addresses_and_no_mailboxes(it: Keeping) -> None:
    with_policy(it, SAME)
    read(it, {"ann": "a@org.example; berg@org.example"})
    config = it.standing.current()
    assert (among(it), "a@org.example" in config.members) == ({"ann", "a", "berg"}, False)
    assert choice(it, "ann").kept == ("a@org.example", "berg@org.example")
    assert (config.canonical("A@ORG.example"), config.member("a@org.example")) == ("a@org.example", None)
    assert config.policy_for("a@org.example") is config.policy_for("ann@org.example")


def test_an_alias_with_its_own_certificate_joins_and_leaves_like_a_mailbox(it: Keeping) -> None:
    with_policy(it, OWN)
    read(it, {"ann": "a@org.example"})
    read(it, {"ann": "a@org.example berg@org.example"})
    alias = it.row("berg")
    assert (alias.alias_of, alias.principal, alias.came_as) == ("ann@org.example", "hr:ann", CameAs.JOINER)
    assert among(it) == {"ann", "a", "berg"}
    read(it, {"ann": "a@org.example"})
    it.clock.ahead += it.clock.ahead.resolution
    read(it, {"ann": "a@org.example"})
    assert among(it) == {"ann", "a"}
    read(it, {})
    it.clock.ahead += it.clock.ahead.resolution
    read(it, {})
    assert among(it) == set()


@pytest.mark.parametrize("ids", [True, False])
def test_an_alias_that_goes_to_another_person_takes_no_keys_along(it: Keeping, ids: bool) -> None:
    with_policy(it, OWN)
    read(it, {"ann": "a@org.example", "ben": ""}, ids=ids)
    whose = it.row("a").principal
    assert whose == it.row("ann").principal
    read(it, {"ann": "", "ben": "a@org.example"}, ids=ids)
    after = it.row("a")
    assert (after.principal, after.alias_of) == (it.row("ben").principal, "ben@org.example")
    assert after.handed_over_at is not None


def test_an_alias_of_two_is_neither_s_and_the_reason_is_told(it: Keeping) -> None:
    for policy in (OWN, SAME):
        with_policy(it, policy)
        read(it, {"ann": "a@org.example", "ben": "A@org.example"})
        assert among(it) == {"ann", "ben"}
        assert choice(it, "ann").left_out == (("a@org.example", "it is an alias of ben@org.example as well"),)


@pytest.mark.parametrize("policy", [OWN, SAME])
def test_what_cannot_be_ordered_for_is_left_out_with_a_reason(it: Keeping, policy: dict[str, Any]) -> None:
    with_policy(it, policy)
    read(it, {"ann": "a@elsewhere.example ben@org.example postmaster@org.example", "ben": ""})
    assert among(it) == {"ann", "ben"}
    found = choice(it, "ann")
    words = [why.partition(" (")[0] for _, why in found.left_out]
    assert found.kept == ()
    assert words == [
        "no domain elsewhere.example is configured",
        "it is a mailbox of its own",
        "matches the built-in pattern postmaster@*",
    ]


def test_an_alias_that_was_a_mailbox_is_in_the_certificate_once_it_has_left(it: Keeping) -> None:
    with_policy(it, OWN)
    read(it, {"ann": "a@org.example"})
    with_policy(it, {**OWN, **SAME})
    read(it, {"ann": "a@org.example"})
    assert choice(it, "ann").left_out == (("a@org.example", "it is still managed with a certificate of its own"),)
    it.clock.ahead += it.clock.ahead.resolution
    read(it, {"ann": "a@org.example"})
    assert choice(it, "ann") == AliasChoice(kept=("a@org.example",))
