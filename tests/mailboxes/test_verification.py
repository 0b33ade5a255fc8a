# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether Postfix would take mail for an address, asked of a real one by its own tables."""

import os
from pathlib import Path

import pytest

from acme_milter.config.sources import SOURCE_TYPES, SourceCommon
from acme_milter.mailboxes.verification import Deliverability, Verdict, Verifier, examine_with, verifiers_of
from tests.mailboxes.conftest import MakePostfix, MakeProgram

ANN, BOB, CID = "ann@example.org", "bob@example.org", "cid@example.org"


def verdict(directory: Path, address: str) -> Verdict:
    return Verifier(directory).examine([address])[address]


def kind(directory: Path, address: str) -> Deliverability:
    return verdict(directory, address).deliverability


def test_a_mailbox_is_known_and_a_missing_one_is_told_with_the_question_that_shows_it(
    make_postfix: MakePostfix,
) -> None:
    directory = make_postfix(
        {"boxes": f"{ANN} a/\n"}, virtual_mailbox_domains="example.org", virtual_mailbox_maps="hash:D/boxes"
    )
    assert Verifier(directory).verify([ANN, "Ann@Example.org", BOB]) == {ANN: True, "Ann@Example.org": True, BOB: False}
    assert verdict(directory, BOB).why == (
        f"Postfix knows no such mailbox: nothing is found by postmap -c {directory} -q {BOB} hash:{directory}/boxes"
    )
    # A local part may hold what a shell carries out, and people paste the line.
    assert f" -q '`id`@example.org' hash:{directory}/boxes" in verdict(directory, "`id`@example.org").why


def test_a_table_that_cannot_be_listed_can_be_asked(make_postfix: MakePostfix) -> None:
    directory = make_postfix(
        {"patterns": "/^a.*@example\\.org$/ yes\n"},
        virtual_mailbox_domains="example.org",
        virtual_mailbox_maps="regexp:D/patterns",
    )
    assert Verifier(directory).verify([ANN, BOB]) == {ANN: True, BOB: False}


def test_a_pattern_for_a_domain_is_no_answer_for_its_names(make_postfix: MakePostfix) -> None:
    directory = make_postfix(
        {"patterns": "/^@example\\.org$/ yes\n"},
        virtual_mailbox_domains="example.org",
        virtual_mailbox_maps="regexp:D/patterns",
    )
    assert kind(directory, ANN) is Deliverability.UNKNOWN


def test_five_thousand_addresses_are_one_question(make_postfix: MakePostfix) -> None:
    addresses = [f"user{number}@example.org" for number in range(5000)]
    directory = make_postfix(
        {"boxes": "".join(f"{address} x/\n" for address in addresses[:4000])},
        virtual_mailbox_domains="example.org",
        virtual_mailbox_maps="hash:D/boxes",
    )
    found = Verifier(directory).verify(addresses)
    assert (list(found), sum(map(bool, found.values()))) == (addresses, 4000)


@pytest.mark.parametrize("parameter", ["virtual_alias_maps", "canonical_maps", "recipient_canonical_maps"])
def test_an_alias_or_a_rewritten_address_is_deliverable(make_postfix: MakePostfix, parameter: str) -> None:
    directory = make_postfix(
        {"boxes": f"{ANN} a/\n", "others": f"{BOB} {ANN}\n"},
        virtual_mailbox_domains="example.org",
        virtual_mailbox_maps="texthash:D/boxes",
        **{parameter: "texthash:D/others"},
    )
    assert Verifier(directory).verify([BOB, CID]) == {BOB: True, CID: False}


def test_a_catch_all_takes_every_name_of_its_domain(make_postfix: MakePostfix) -> None:
    directory = make_postfix(
        {"boxes": "@example.org all/\n"},
        virtual_mailbox_domains="example.org example.net",
        virtual_mailbox_maps="texthash:D/boxes",
    )
    assert Verifier(directory).verify([ANN, "ann@example.net"]) == {ANN: True, "ann@example.net": False}


def test_an_extension_is_cut_off_where_postfix_cuts_it_off(make_postfix: MakePostfix) -> None:
    settings = {"virtual_mailbox_domains": "example.org", "virtual_mailbox_maps": "texthash:D/boxes"}
    directory = make_postfix({"boxes": f"{ANN} a/\n"}, **settings)
    assert kind(directory, "ann+lists@example.org") is Deliverability.UNKNOWN
    make_postfix(**settings, recipient_delimiter="+-")
    assert kind(directory, "ann-lists@example.org") is Deliverability.KNOWN


def test_a_domain_that_is_not_postfixes_is_not_judged(make_postfix: MakePostfix) -> None:
    directory = make_postfix(
        {"boxes": f"{ANN} a/\n"}, virtual_mailbox_domains="example.org", virtual_mailbox_maps="texthash:D/boxes"
    )
    found = verdict(directory, "ann@example.com")
    assert (found.deliverability, found.deliverable) == (Deliverability.UNCHECKED, None)
    assert "receives no mail for example.com" in found.why


@pytest.mark.parametrize(
    ("domains", "recipients"),
    [
        ("virtual_mailbox_domains", "virtual_mailbox_maps"),
        ("relay_domains", "relay_recipient_maps"),
        ("mydestination", "local_recipient_maps"),
    ],
)
def test_a_class_whose_recipients_are_not_listed_is_not_judged(
    make_postfix: MakePostfix, domains: str, recipients: str
) -> None:
    found = verdict(make_postfix(**{domains: "example.org", recipients: ""}), ANN)
    assert found.deliverability is Deliverability.UNCHECKED
    assert f"{recipients} is empty" in found.why


def test_a_local_name_is_looked_up_without_its_domain(make_postfix: MakePostfix) -> None:
    directory = make_postfix(
        {"names": "ann x\n"}, mydestination="example.org", local_recipient_maps="texthash:D/names unix:passwd.byname"
    )
    assert Verifier(directory).verify([ANN, BOB, "daemon@example.org"]) == {
        ANN: True,
        BOB: False,
        "daemon@example.org": True,
    }


def test_domains_come_from_tables_and_files_with_exceptions_and_subdomains(make_postfix: MakePostfix) -> None:
    directory = make_postfix(
        {
            "domains": "example.org yes\n",
            "more": "# ours\n!out.example.net\nexample.net, example.com\n",
            "boxes": "x@example.org x\n",
        },
        virtual_mailbox_domains="texthash:D/domains",
        relay_domains="D/more",
        virtual_mailbox_maps="texthash:D/boxes",
        relay_recipient_maps="texthash:D/boxes",
    )
    asked = ["a@example.org", "a@sub.example.org", "a@sub.example.net", "a@out.example.net", "a@example.com"]
    found = Verifier(directory).examine(asked)
    assert [found[address].deliverable for address in asked] == [False, None, False, None, False]


def test_a_table_that_cannot_be_asked_leaves_it_open_unless_another_knows(make_postfix: MakePostfix) -> None:
    directory = make_postfix(
        {"boxes": f"{ANN} a/\n"},
        virtual_mailbox_domains="example.org",
        virtual_mailbox_maps="texthash:D/boxes hash:D/gone",
    )
    assert Verifier(directory).verify([ANN, BOB]) == {ANN: True, BOB: None}
    found = verdict(directory, BOB)
    assert found.deliverability is Deliverability.UNDECIDED
    assert f"hash:{directory}/gone" in found.why
    assert "No such file or directory" in found.why


def test_domains_that_cannot_be_looked_up_leave_it_open(make_postfix: MakePostfix) -> None:
    directory = make_postfix(virtual_mailbox_domains="hash:D/gone")
    assert kind(directory, ANN) is Deliverability.UNDECIDED
    make_postfix(virtual_mailbox_domains="D/gone")
    assert kind(directory, ANN) is Deliverability.UNDECIDED


def test_a_broken_table_of_another_class_is_not_asked(make_postfix: MakePostfix) -> None:
    directory = make_postfix(
        {"boxes": f"{ANN} a/\n"},
        virtual_mailbox_domains="example.org",
        virtual_mailbox_maps="texthash:D/boxes",
        relay_recipient_maps="hash:D/gone",
    )
    assert kind(directory, BOB) is Deliverability.UNKNOWN


def test_named_tables_are_asked_besides(make_postfix: MakePostfix) -> None:
    directory = make_postfix({"own": f"{BOB} b/\n"}, virtual_mailbox_domains="example.net")
    verifier = Verifier(directory, (f"texthash:{directory}/own",))
    assert verifier.verify([ANN, BOB]) == {ANN: None, BOB: True}


def test_a_question_cannot_be_broken_in_two(make_postfix: MakePostfix) -> None:
    directory = make_postfix(
        {"boxes": f"{ANN} a/\n"}, virtual_mailbox_domains="example.org", virtual_mailbox_maps="texthash:D/boxes"
    )
    assert kind(directory, f"x\n{ANN}") is Deliverability.UNKNOWN


def test_without_a_postfix_nothing_is_judged_unless_one_was_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert kind(tmp_path, ANN) is Deliverability.UNDECIDED  # a directory without main.cf
    monkeypatch.setattr("acme_milter.program.PATH", str(tmp_path))
    assert kind(tmp_path, ANN) is Deliverability.UNDECIDED
    found = Verifier().examine([ANN])[ANN]
    assert found == Verdict(Deliverability.UNCHECKED, "postconf is not installed")


def test_a_postfix_that_hangs_leaves_it_open(make_program: MakeProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    program = make_program("exec sleep 600")
    program.rename(program.with_name("postconf"))
    monkeypatch.setattr("acme_milter.program.PATH", f"{program.parent}:/usr/bin:/bin")
    found = Verifier(timeout=0.1).examine([ANN])[ANN]
    assert found.deliverability is Deliverability.UNDECIDED
    assert "still ran after" in found.why


def section(kind: str, **keys: object) -> SourceCommon:
    return SOURCE_TYPES[kind].model_validate({"type": kind, **keys})


def test_whom_to_ask_follows_from_the_sources() -> None:
    csv = section("csv", path="/srv/staff.csv")
    assert verifiers_of({"hr": csv}) == [Verifier()]
    postfix = section("postfix", config_directory="/etc/postfix-in", tables=["hash:/x"])
    named = Verifier(Path("/etc/postfix-in"), ("hash:/x",))
    assert verifiers_of({"hr": csv, "mx": postfix, "again": postfix}) == [named]


def test_one_postfix_that_knows_an_address_is_enough_and_a_silent_one_leaves_it_open(
    make_postfix: MakePostfix, tmp_path: Path
) -> None:
    directory = make_postfix(
        {"boxes": f"{ANN} a/\n"}, virtual_mailbox_domains="example.org", virtual_mailbox_maps="texthash:D/boxes"
    )
    silent = Verifier(tmp_path)
    found = examine_with([silent, Verifier(directory)], [ANN, BOB])
    assert [found[address].deliverability for address in (ANN, BOB)] == [
        Deliverability.KNOWN,
        Deliverability.UNDECIDED,
    ]
    (tmp_path / "main.cf").write_text("compatibility_level = 3.6\nmyhostname = mx.example.net\nmydestination =\n")
    os.utime(tmp_path / "main.cf", (1, 1))
    elsewhere = examine_with([silent, Verifier(directory)], [BOB])  # now it speaks, but the domain is not its own
    assert elsewhere[BOB].deliverability is Deliverability.UNKNOWN
