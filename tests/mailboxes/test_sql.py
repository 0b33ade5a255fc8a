# SPDX-License-Identifier: GPL-3.0-or-later
"""Mailboxes from databases, on a real PostgreSQL with the tables that the products have."""

import re
import sqlite3
import traceback
from datetime import timedelta
from pathlib import Path

import pytest

from acme_milter.config.sources import TABLE_PRESETS
from acme_milter.config.sources import SqlSource as SqlSection
from acme_milter.lab.postgresql import PostgresLab
from acme_milter.lab.processes import free_port
from acme_milter.mailboxes.entry import Entry
from acme_milter.mailboxes.source import Reading, SourceFault
from acme_milter.mailboxes.sql import SqlSource, entries_of_preset, preset

PASSWORD = "s3cret/of:the@reader"
URL_PASSWORD = "s3cret%2Fof%3Athe%40reader"
READER = "reader"
MINUTE = timedelta(minutes=1)

# The columns concerned, of the kinds that the products' own schemas give them in PostgreSQL.
TABLES = {
    "postfixadmin": """
        CREATE TABLE domain (domain varchar(255) PRIMARY KEY, active boolean NOT NULL);
        CREATE TABLE mailbox (username varchar(255) PRIMARY KEY, name varchar(255) NOT NULL,
                              domain varchar(255) NOT NULL, active boolean NOT NULL);
        INSERT INTO domain VALUES ('org.example', true), ('gone.example', false);
        INSERT INTO mailbox VALUES ('alice@org.example', 'Alice', 'org.example', true),
            ('old@org.example', 'Old', 'org.example', false), ('x@gone.example', 'X', 'gone.example', true);
    """,
    "iredmail": """
        CREATE TABLE domain (domain varchar(255) PRIMARY KEY, backupmx int2 NOT NULL, active int2 NOT NULL);
        CREATE TABLE mailbox (username varchar(255) PRIMARY KEY, name varchar(255) NOT NULL,
                              domain varchar(255) NOT NULL, enabledeliver int2 NOT NULL, active int2 NOT NULL);
        INSERT INTO domain VALUES ('org.example', 0, 1), ('gone.example', 0, 0), ('backup.example', 1, 1);
        INSERT INTO mailbox VALUES ('alice@org.example', 'Alice', 'org.example', 1, 1),
            ('old@org.example', 'Old', 'org.example', 1, 0), ('send@org.example', 'S', 'org.example', 0, 1),
            ('x@gone.example', 'X', 'gone.example', 1, 1), ('y@backup.example', 'Y', 'backup.example', 1, 1);
    """,
    "modoboa": """
        CREATE TABLE core_user (id serial PRIMARY KEY, first_name text, last_name text, is_active boolean NOT NULL);
        CREATE TABLE admin_domain (id serial PRIMARY KEY, name varchar(100) NOT NULL, enabled boolean NOT NULL);
        CREATE TABLE admin_mailbox (id serial PRIMARY KEY, address varchar(252) NOT NULL,
            domain_id int NOT NULL REFERENCES admin_domain, user_id int NOT NULL REFERENCES core_user);
        INSERT INTO core_user VALUES (7, 'Alice', '', true), (8, 'Old', 'One', false), (9, 'X', 'X', true);
        INSERT INTO admin_domain VALUES (1, 'org.example', true), (2, 'gone.example', false);
        INSERT INTO admin_mailbox VALUES (1, 'alice', 1, 7), (2, 'old', 1, 8), (3, 'x', 2, 9);
    """,
    "ispconfig": """
        CREATE TYPE switch AS ENUM ('n', 'y');
        CREATE TABLE mail_domain (domain varchar(255) NOT NULL, active switch NOT NULL);
        CREATE TABLE mail_user (mailuser_id serial PRIMARY KEY, email varchar(255) NOT NULL, name varchar(255),
                                postfix switch NOT NULL);
        INSERT INTO mail_domain VALUES ('org.example', 'y'), ('gone.example', 'n');
        INSERT INTO mail_user VALUES (7, 'alice@org.example', 'Alice', 'y'), (8, 'old@org.example', 'Old', 'n'),
            (9, 'x@gone.example', 'X', 'y');
    """,
}
IDS = {"modoboa": "7", "ispconfig": "7"}


@pytest.fixture(scope="module")
def server(postgresql: PostgresLab) -> PostgresLab:
    postgresql.execute(f"CREATE ROLE {READER} LOGIN PASSWORD '{PASSWORD}'")
    return postgresql


@pytest.fixture(scope="module")
def empty(server: PostgresLab) -> str:
    """The owner's URL of a database without tables."""
    url = server.make_database()
    server.execute(f"CREATE SEQUENCE counter; GRANT ALL ON SEQUENCE counter TO {READER}", url)
    return url


def as_reader(url: str, password: str = URL_PASSWORD) -> str:
    database = url.rpartition("/")[2]
    port = url.rpartition(":")[2].partition("/")[0]
    return f"postgresql://{READER}:{password}@127.0.0.1:{port}/{database}"


def read(url: str, query: str, *, timeout: str = "20s") -> Reading:
    section = SqlSection.model_validate({"type": "sql", "url": url, "query": query, "timeout": timeout})
    return SqlSource("db", section).read()


def fault(url: str, query: str = "SELECT 1 AS address", *, timeout: str = "20s") -> str:
    with pytest.raises(SourceFault) as caught:
        read(url, query, timeout=timeout)
    shown = "".join(traceback.format_exception(caught.value))
    assert PASSWORD not in shown
    assert URL_PASSWORD not in shown
    return str(caught.value)


@pytest.mark.parametrize("name", TABLE_PRESETS)
def test_a_preset_lists_the_products_mailboxes_that_take_mail(server: PostgresLab, name: str) -> None:
    database = server.make_database()
    server.execute(TABLES[name] + f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {READER};", database)
    section = SqlSection.model_validate({"type": "sql", "url": as_reader(database), "preset": name})
    reading = SqlSource("db", section).read()
    assert reading == Reading((Entry("alice@org.example", IDS.get(name), "Alice"),))
    assert entries_of_preset("db", as_reader(database), name, MINUTE) == reading


@pytest.mark.parametrize("name", TABLE_PRESETS)
def test_a_preset_on_another_products_database_says_which_tables_it_looks_for(empty: str, name: str) -> None:
    with pytest.raises(SourceFault, match=r"a table is missing") as caught:
        entries_of_preset("db", as_reader(empty), name, MINUTE)
    for table in preset(name).tables:
        assert table in str(caught.value)


def test_a_query_of_ones_own_may_name_everything(empty: str) -> None:
    query = """
        SELECT 'Alice@ORG.example' AS address, gen_random_uuid() IS NOT NULL AS active, 7 AS id, 'Alice A.' AS name,
               ARRAY['staff', 'board'] AS groups, 'a@org.example,al@org.example' AS aliases;
    """
    (entry,) = read(as_reader(empty), query).entries
    aliases = ("a@org.example", "al@org.example")
    assert entry == Entry("Alice@org.example", "7", "Alice A.", frozenset({"staff", "board"}), aliases)


def test_a_query_is_taken_literally(empty: str) -> None:
    query = "SELECT replace('a%s@org.example', '%s', ':b'::text) AS address WHERE ':x' <> '%(x)s' AND 'ab' LIKE 'a%'"
    assert [text for text, _ in read(as_reader(empty), query).rejected] == ["a:b@org.example"]


def test_what_is_not_active_is_not_listed_and_what_cannot_be_told_is_rejected(empty: str) -> None:
    query = """
        SELECT * FROM (VALUES ('a@x.example', '1'), ('b@x.example', 'N'), ('c@x.example', NULL), ('d@x.example', '?'))
        AS v(address, active)
    """
    reading = read(as_reader(empty), query)
    assert [entry.address for entry in reading.entries] == ["a@x.example"]
    assert [address for address, _ in reading.rejected] == ["c@x.example", "d@x.example"]


def test_rows_without_a_usable_address_are_rejected_with_their_number(empty: str) -> None:
    query = "SELECT * FROM (VALUES (NULL), ('nobody'), ('@x.example'), ('ok@x.example')) AS v(address)"
    reading = read(as_reader(empty), query)
    assert [entry.address for entry in reading.entries] == ["ok@x.example"]
    assert reading.rejected[0] == ("row 1", "the address is NULL")
    assert [text for text, _ in reading.rejected[1:]] == ["nobody", "@x.example"]
    assert all("row" in reason for _, reason in reading.rejected[1:])


def test_a_hundred_thousand_rows_are_read(empty: str) -> None:
    reading = read(
        as_reader(empty), "SELECT 'u' || n || '@x.example' AS address, n AS id FROM generate_series(1, 100000) n"
    )
    assert len(reading.entries) == 100_000


def test_columns_that_nobody_reads_are_remarked(empty: str) -> None:
    assert "maildir" in read(as_reader(empty), "SELECT 'a@x.example' AS address, '/x' AS maildir").remarks[0]


FAULTS: dict[str, tuple[str, str]] = {
    "no address": ("SELECT 'a@x.example' AS email", r"no column address \(it yields: email\)"),
    "twice": ("SELECT 'a@x.example' AS address, 'b' AS address", "address more than once"),
    "no table": ("SELECT address FROM nowhere", "a table is missing .*nowhere"),
    "no column": ("SELECT adress AS address FROM pg_class", "a column is missing .*adress"),
    "no right": ("SELECT passwd AS address FROM pg_shadow", "permission denied .*needs SELECT"),
    "a write": ("SELECT nextval('counter') || '@x.example' AS address", "tries to write"),
    "no select": ("CREATE TABLE x (y int)", "the query failed"),
    "no sense": ("SELEKT", "the query failed .*SELEKT"),
    "a failure at a later row": (
        "SELECT 'a@x.example' AS address, 1/(n-5000) FROM generate_series(1, 9000) n",
        "division by zero",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_query_that_cannot_be_used_is_a_fault_with_its_reason(empty: str, name: str) -> None:
    query, reason = FAULTS[name]
    text = fault(as_reader(empty), query)
    assert text.startswith("source db: ")
    assert re.search(reason, text), text


def test_a_database_that_is_not_there_or_refuses_is_a_fault_that_names_it(empty: str) -> None:
    assert "the login was refused" in fault(as_reader(empty, password="wrong"))
    assert "does not exist" in fault(as_reader(empty) + "x")
    nobody = f"postgresql://{READER}:{URL_PASSWORD}@127.0.0.1:{free_port()}/x"
    assert "cannot be reached" in fault(nobody)


def test_a_slow_answer_is_a_fault(empty: str) -> None:
    assert "no complete answer within 0.2 s" in fault(as_reader(empty), "SELECT pg_sleep(60)", timeout="200ms")


def test_slow_pages_are_a_fault_even_if_each_comes_in_time(empty: str) -> None:
    slow = "SELECT 'u' || n || '@x.example' AS address, pg_sleep(0.0002) FROM generate_series(1, 100000) n"
    text = fault(as_reader(empty), slow, timeout="700ms")
    assert "within 0.7 s" in text


def test_a_server_that_freezes_in_its_answer_is_a_fault(
    server: PostgresLab, empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acme_milter.mailboxes.sql_connection._WATCH_GRACE", 0.2)
    # The process that serves us stops itself, so that not even the server's own clock can end the statement.
    server.execute(
        "CREATE FUNCTION freeze() RETURNS void LANGUAGE sql AS $$ COPY (SELECT 1) TO PROGRAM 'kill -STOP $PPID' $$",
        empty,
    )
    text = fault(empty, "SELECT freeze()::text AS address", timeout="400ms")
    assert "no complete answer within 0.4 s" in text
    server.thaw()


def test_a_database_file_is_read_and_never_made(tmp_path: Path) -> None:
    path = tmp_path / "mail.db"
    assert "cannot be reached" in fault(f"sqlite:///{path}")
    assert not path.exists()
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE mailbox (username TEXT)")
        made.execute("INSERT INTO mailbox VALUES ('alice@org.example')")
    made.close()
    (entry,) = read(f"sqlite:///{path}", "SELECT username AS address FROM mailbox").entries
    assert entry.address == "alice@org.example"
    assert "a table is missing" in fault(f"sqlite:///{path}", "SELECT address FROM nowhere")
    assert "tries to write" in fault(f"sqlite:///{path}", "DELETE FROM mailbox")


@pytest.mark.parametrize("scheme", ["oracle", "nosuch"])
def test_a_database_without_its_driver_is_a_fault(scheme: str) -> None:
    assert "driver" in fault(f"{scheme}://{READER}:{URL_PASSWORD}@h/x") or "is no database" in fault(f"{scheme}://h/x")


def test_a_url_that_is_kept_in_a_file_is_read_at_use(empty: str, tmp_path: Path) -> None:
    place = tmp_path / "url"
    section = SqlSection.model_validate(
        {"type": "sql", "url": {"file": str(place)}, "query": "SELECT 'a@x.example' AS address"},
        context={"directory": tmp_path},
    )
    source = SqlSource("db", section)
    with pytest.raises(SourceFault, match="cannot be read"):
        source.read()
    place.touch(mode=0o600)
    place.write_text(as_reader(empty) + "\n")
    assert len(source.read().entries) == 1
