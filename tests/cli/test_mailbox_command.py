# SPDX-License-Identifier: GPL-3.0-or-later
"""`mailbox list | show | why` on a real store, with and without a worker."""

import re

import pytest

from tests.cli.conftest import OBSERVED, Office

ALICE = "alice@org.example"
NEVER = "never@org.example"


def test_the_timeline_has_the_newest_order_in_detail_with_queue_ids_and_the_older_one_in_a_line(office: Office) -> None:
    document = office.document("mailbox", "show", ALICE)
    assert document["schema"] == "acme-milter/mailbox/1"
    entries = document["timeline"]
    events = [entry["event"] for entry in entries]
    assert events.count("older-order") == 1
    for event in ("order-opened", "order-begun", "challenge-accepted", "reply-queued", "certificate-issued"):
        assert event in events
    assert events.index("challenge-accepted") < events.index("reply-queued") < events.index("certificate-issued")
    by_event = {entry["event"]: entry for entry in entries}
    for event in ("challenge-accepted", "reply-queued"):
        assert re.fullmatch("[0-9A-Za-z]+", by_event[event]["queue_id"])
    assert entries == sorted(entries, key=lambda entry: (entry["planned"], entry["at"]))


def test_it_names_the_person_the_policy_and_the_keys_and_never_a_key(office: Office) -> None:
    document = office.document("mailbox", "show", ALICE)
    assert (document["managed"], document["principal"], document["source"]) == (True, ALICE, "list")
    assert document["policy"]["authorities"] == ["testca"]
    assert document["certificate"]["state"] == "active"
    assert document["keys"]["current"]["algorithm"] == "p256"
    assert len(document["keys"]["older"]) == 1
    text, _ = office.run("mailbox", "show", ALICE)
    assert "PRIVATE" not in text
    assert document["certificate"]["serial"] in text


def test_an_address_is_found_in_any_case(office: Office) -> None:
    assert office.document("mailbox", "show", "Alice@ORG.example")["address"] == ALICE


@pytest.mark.parametrize(
    ("address", "word", "next_command"),
    [
        (ALICE, "has-certificate", None),
        (NEVER, "never-ordered", f"acme-milter cert issue {NEVER}"),
        (f"grace@{OBSERVED}", "never-ordered", f"acme-milter cert issue grace@{OBSERVED}"),
        ("nobody@org.example", "unknown", "acme-milter mailbox list --domain org.example"),
    ],
)
def test_why_says_the_reason_and_the_next_command(
    office: Office, address: str, word: str, next_command: str | None
) -> None:
    document = office.document("mailbox", "why", address)
    assert document["schema"] == "acme-milter/mailbox-why/1"
    assert (document["word"], document["command"]) == (word, next_command)
    assert address in document["text"]


def test_why_knows_that_a_domain_is_not_configured(office: Office) -> None:
    text, _ = office.run("mailbox", "why", "x@other.example")
    assert "no domain other.example is configured" in text
    assert "next: add domains.other.example" in text


@pytest.mark.parametrize("command", [("mailbox", "show"), ("mailbox", "why"), ("cert", "show")])
def test_what_is_no_address_is_one_line_and_status_1(office: Office, command: tuple[str, str]) -> None:
    out, err = office.run(*command, "two@at@signs", code=1)
    assert out == ""
    assert err == "'two@at@signs' is no mail address: the address does not have exactly one @\n"


@pytest.mark.parametrize(
    ("options", "listed", "left_out"),
    [
        (("--state", "certificate"), ALICE, NEVER),
        (("--expiring", "60w"), ALICE, NEVER),
        (("--without-cert", "--domain", "org.example"), NEVER, ALICE),
        (("--without-cert", "--domain", OBSERVED), f"grace@{OBSERVED}", NEVER),
    ],
)
def test_the_list_has_who_meets_every_condition(
    office: Office, options: tuple[str, ...], listed: str, left_out: str
) -> None:
    document = office.document("mailbox", "list", *options)
    assert document["schema"] == "acme-milter/mailbox-list/1"
    addresses = [row["address"] for row in document["mailboxes"]]
    assert listed in addresses
    assert left_out not in addresses


def test_nobody_is_missing_where_everybody_is_listed(office: Office) -> None:
    assert office.document("mailbox", "list", "--missing")["mailboxes"] == []


def test_a_domain_that_is_not_there_is_named_with_those_that_are(office: Office) -> None:
    _, err = office.run("mailbox", "list", "--domain", "org.exmaple", code=1)
    assert "no domain org.exmaple is configured; there are: org.example" in err
