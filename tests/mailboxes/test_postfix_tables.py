# SPDX-License-Identifier: GPL-3.0-or-later
"""Mailboxes from a real Postfix's own tables, listed by its own programs."""

from pathlib import Path
from typing import Any

import pytest

from acme_milter.config.sources import PostfixSource
from acme_milter.mailboxes.postfix import split_list
from acme_milter.mailboxes.postfix_tables import PostfixTables
from acme_milter.mailboxes.source import Reading, SourceFault
from tests.mailboxes.conftest import MakePostfix, MakeProgram


def read(directory: Path | None, **section: Any) -> Reading:
    document = {"type": "postfix", "config_directory": directory, **section}
    return PostfixTables("mx", PostfixSource.model_validate(document)).read()


def addresses(reading: Reading) -> list[str]:
    return sorted(entry.address for entry in reading.entries)


def fault(directory: Path, **section: Any) -> str:
    with pytest.raises(SourceFault) as stopped:
        read(directory, **section)
    return str(stopped.value)


def test_every_table_of_mailboxes_is_found_and_listed_once(make_postfix: MakePostfix) -> None:
    directory = make_postfix(
        {
            "one": "ann@example.org a/\nBob@Example.ORG b/\n",
            "two": "ann@example.org a/\ncid@example.net c/\n",
            "three": "dee@example.com ok\n",
            "aliases": "info@example.org ann@example.org\n",
        },
        virtual_mailbox_maps="hash:D/one, proxy:btree:D/two\n texthash:D/one",
        relay_recipient_maps="texthash:D/three",
        virtual_alias_maps="texthash:D/aliases",
    )
    reading = read(directory)
    assert addresses(reading) == ["ann@example.org", "bob@example.org", "cid@example.net", "dee@example.com"]
    assert reading.rejected == ()


def test_parameters_in_a_table_name_are_expanded(make_postfix: MakePostfix) -> None:
    directory = make_postfix({"one": "ann@example.org a/\n"}, virtual_mailbox_maps="texthash:$config_directory/one")
    assert addresses(read(directory)) == ["ann@example.org"]


def test_five_thousand_mailboxes_come_whole(make_postfix: MakePostfix) -> None:
    expected = sorted(f"user{number}@example.org" for number in range(5000))
    directory = make_postfix(
        {"many": "".join(f"{address} x/\n" for address in expected)}, virtual_mailbox_maps="hash:D/many"
    )
    assert addresses(read(directory)) == expected


def test_a_catch_all_is_a_remark_and_no_mailbox(make_postfix: MakePostfix) -> None:
    directory = make_postfix({"one": "ann@example.org a/\n@example.org all/\n"}, virtual_mailbox_maps="texthash:D/one")
    reading = read(directory)
    assert addresses(reading) == ["ann@example.org"]
    assert len(reading.remarks) == 1
    assert "@example.org takes mail for any name" in reading.remarks[0]


def test_a_key_that_is_no_address_is_rejected_by_name(make_postfix: MakePostfix) -> None:
    directory = make_postfix({"one": "ann@example.org a/\nbob b/\n"}, virtual_mailbox_maps="texthash:D/one")
    ((text, reason),) = read(directory).rejected
    assert text == "bob"
    assert reason.startswith(f"texthash:{directory}/one: ")


def test_local_names_get_the_domains_they_are_delivered_for(make_postfix: MakePostfix) -> None:
    directory = make_postfix(
        {"local": "ann x\n", "system-aliases": "root ann\n", "extra": "example.com\n"},
        local_recipient_maps="proxy:unix:passwd.byname texthash:D/local $alias_maps static:x",
        alias_maps="texthash:D/system-aliases",
        mydestination="$myhostname, localhost, localhost.example.org, example.net texthash:D/extra",
        myorigin="example.org",
    )
    reading = read(directory)
    assert addresses(reading) == ["ann@example.net", "ann@example.org", "ann@mx.example.org"]
    assert [sentence for sentence in reading.remarks if "static:x is not listed" in sentence]


@pytest.mark.parametrize(
    "table",
    [
        "static:all",
        "regexp:D/patterns",
        "pcre:D/patterns",
        "pgsql:D/mailboxes.cf",
        "proxy:mysql:D/mailboxes.cf",
        "ldap:D/directory.cf",
        "memcache:D/cache.cf",
        "unionmap:{texthash:D/one,static:x}",
    ],
)
def test_a_table_that_only_answers_questions_stops_the_source_and_the_fault_names_the_ways_out(
    make_postfix: MakePostfix, table: str
) -> None:
    directory = make_postfix({"one": "ann@example.org a/\n"}, virtual_mailbox_maps=f"texthash:D/one {table}")
    said = fault(directory)
    assert said.startswith(f"source mx: Postfix cannot list {table.replace('D/', f'{directory}/')}, only look up")
    assert "sql_preset" in said
    assert "type dovecot" in said


def test_a_table_that_is_not_there_stops_the_source(make_postfix: MakePostfix) -> None:
    directory = make_postfix({"one": "ann@example.org a/\n"}, virtual_mailbox_maps="texthash:D/one hash:D/gone")
    said = fault(directory)
    assert f"postmap -c {directory} -s hash:{directory}/gone: exit status 1" in said
    assert "No such file or directory" in said


def test_no_tables_at_all_is_a_fault(make_postfix: MakePostfix) -> None:
    assert "name no table" in fault(make_postfix(local_recipient_maps=""))


def test_a_directory_without_a_configuration_is_a_fault(tmp_path: Path) -> None:
    assert "main.cf: No such file" in fault(tmp_path)


def test_the_tables_that_the_section_names_are_the_ones_that_count(make_postfix: MakePostfix) -> None:
    directory = make_postfix(
        {"one": "ann@example.org a/\n", "two": "bob@example.org b/\n"}, virtual_mailbox_maps="texthash:D/one"
    )
    assert addresses(read(directory, tables=[f"texthash:{directory}/two"])) == ["bob@example.org"]


def test_what_postmap_warns_of_is_a_remark(make_postfix: MakePostfix) -> None:
    directory = make_postfix({"one": "ann@example.org a/\nbob@example.org\n"}, virtual_mailbox_maps="texthash:D/one")
    reading = read(directory)
    assert addresses(reading) == ["ann@example.org"]
    assert "line 2" in " ".join(reading.remarks)


def test_a_postfix_that_hangs_is_ended(make_program: MakeProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    program = make_program("exec sleep 600")
    program.rename(program.with_name("postconf"))
    monkeypatch.setattr("acme_milter.program.PATH", f"{program.parent}:/usr/bin:/bin")
    with pytest.raises(SourceFault, match=r"postconf still ran after 0\.1 s and was killed"):
        read(None, timeout="100ms")


def test_a_machine_without_postfix_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("acme_milter.program.PATH", str(tmp_path))
    with pytest.raises(SourceFault, match="postconf is not installed"):
        read(None)


def test_lists_are_split_as_postfix_does() -> None:
    assert split_list("hash:/a,btree:/b\n inline:{a=1, {b = c d}}  proxy:pgsql:/c ,") == [
        "hash:/a", "btree:/b", "inline:{a=1, {b = c d}}", "proxy:pgsql:/c",
    ]  # fmt: skip
    assert split_list(" , ") == []
