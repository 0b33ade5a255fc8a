# SPDX-License-Identifier: GPL-3.0-or-later
"""Every kind of section leads to its source, and a database stands in for tables that Postfix cannot list."""

import os
import re
import sqlite3
from contextlib import closing
from datetime import date
from pathlib import Path

import pytest
import yaml

from acme_milter.config.sources import SOURCE_TYPES, PostfixSource
from acme_milter.mailboxes.reading import source_of
from acme_milter.mailboxes.source import SourceFault
from tests.mailboxes.conftest import MakePostfix

DOCUMENT = Path(__file__).parents[2] / "docs/mailboxes.md"
SECTIONS: dict[str, dict[str, object]] = {
    "postfix": {},
    "dovecot": {},
    "sql": {"url": "postgresql://reader@db.example.org/postfix", "preset": "postfixadmin"},
    "ldap": {"uri": "ldaps://dc1.example.org", "base": "dc=example,dc=org"},
    "csv": {"path": "/srv/staff.csv"},
    "command": {"argv": ["/usr/local/bin/list-mailboxes"]},
}


@pytest.mark.parametrize("kind", SOURCE_TYPES)
def test_every_type_of_the_configuration_is_a_source(kind: str) -> None:
    section = SOURCE_TYPES[kind].model_validate({"type": kind, **SECTIONS[kind]})
    assert source_of("staff", section).name == "staff"


def test_every_source_in_the_documentation_is_one() -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    shown = [item for block in blocks for item in yaml.safe_load(block).get("sources", {}).items()]
    assert {section["type"] for _, section in shown} >= {"postfix", "dovecot", "csv", "command"}
    for name, section in shown:
        assert source_of(name, SOURCE_TYPES[section["type"]].model_validate(section)).name == name


def test_the_day_is_the_callers(tmp_path: Path) -> None:
    path = tmp_path / "staff.csv"
    path.write_text("address,start\nann@example.org,2027-01-01\n")
    os.utime(path, (1, 1))
    section = SOURCE_TYPES["csv"].model_validate({"type": "csv", "path": path})
    before = source_of("hr", section, today=lambda: date(2026, 12, 31)).read()
    after = source_of("hr", section, today=lambda: date(2027, 1, 1)).read()
    assert (len(before.entries), len(after.entries)) == (0, 1)


def database(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("""
            CREATE TABLE domain (domain TEXT PRIMARY KEY, active BOOLEAN NOT NULL);
            CREATE TABLE mailbox (username TEXT PRIMARY KEY, name TEXT NOT NULL, domain TEXT NOT NULL,
                                  active BOOLEAN NOT NULL);
            INSERT INTO domain VALUES ('example.org', 1);
            INSERT INTO mailbox VALUES ('ann@example.org', 'Ann', 'example.org', 1),
                                       ('bob@example.org', 'Bob', 'example.org', 1);
        """)
    return f"sqlite:///{path}"


def test_a_preset_supplies_what_postfix_cannot_list_beside_what_it_can(
    make_postfix: MakePostfix, tmp_path: Path
) -> None:
    directory = make_postfix(
        {"few": "cid@example.org x\n"}, virtual_mailbox_maps="proxy:pgsql:D/mailboxes.cf, texthash:D/few"
    )
    section = PostfixSource.model_validate(
        {
            "type": "postfix",
            "config_directory": directory,
            "sql_preset": "postfixadmin",
            "url": database(tmp_path / "postfixadmin.db"),
        }
    )
    reading = source_of("mx", section).read()
    assert {entry.address: entry.name for entry in reading.entries} == {
        "cid@example.org": None,
        "ann@example.org": "Ann",
        "bob@example.org": "Bob",
    }
    assert any("postfixadmin's tables were asked" in sentence for sentence in reading.remarks)


def test_a_url_that_cannot_be_read_is_the_sources_fault(make_postfix: MakePostfix, tmp_path: Path) -> None:
    directory = make_postfix(virtual_mailbox_maps="pgsql:D/mailboxes.cf")
    url = {"file": tmp_path / "gone"}
    section = PostfixSource.model_validate(
        {"type": "postfix", "config_directory": directory, "sql_preset": "postfixadmin", "url": url}
    )
    with pytest.raises(SourceFault, match="source mx: url: "):
        source_of("mx", section).read()
