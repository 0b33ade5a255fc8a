# SPDX-License-Identifier: GPL-3.0-or-later
"""Every known behaviour of an authority ends as docs/authorities.md says: one reply, and no mail in the inbox."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from acme_milter.lab.behaviours import BEHAVIOURS, Behaviour, addresses_of, domain_of, policy_of, table
from tests.forked_commands import Lab

PAGE = Path(__file__).parents[2] / "docs" / "authorities.md"


@pytest.fixture(scope="module")
def land(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One authority for each behaviour, all of them the same test CA, each with a domain of its own."""
    with Lab(
        tmp_path_factory.mktemp("behaviours"),
        domains={domain_of(one): [name.partition("@")[0] for name in addresses_of(one)] for one in BEHAVIOURS},
        reply_dkim="own",
        more_authorities={one.name: dict(one.settings) for one in BEHAVIOURS},
        policies={domain_of(one): policy_of(one) for one in BEHAVIOURS},
        testca_options={"options": ["--first-pause", "0.3"]},
    ) as running:
        yield running


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda one: one.name)
def test_it_ends_as_the_page_says(land: Lab, behaviour: Behaviour) -> None:
    mailbox, *aliases = addresses_of(behaviour)
    land.authority.set_knobs(**behaviour.knobs)
    try:
        (row,) = land.enroll(mailbox)
    finally:
        land.authority.reset_knobs()
    assert row["state"] == behaviour.state, row["error"]
    received = land.authority.history("reply-received")
    for address in (mailbox, *aliases):
        replies = [event for event in received if event.get("sender") == address]
        assert [event["verdict"] for event in replies] == list(behaviour.replies)
        assert land.postfix.inbox(address) == []
    assert [mail for mail in land.authority.history("mail-deferred") if mail["recipient"] in aliases] == []


def test_the_page_shows_the_table_that_is_tested() -> None:
    assert table() in PAGE.read_text(encoding="utf-8")
