# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans on a real store: who is in one, who is left out and why; the file that is written is the file that is read."""

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa
import yaml

from acme_milter.config.loader import load_text
from acme_milter.config.schema import Config
from acme_milter.lab.organization import fill
from acme_milter.report import plan_file
from acme_milter.report.plan import Plan, Selection, make_plan
from acme_milter.report.plan_file import PlanFault
from acme_milter.report.simulation import bulk_simulate
from acme_milter.report.unanswerable import Unanswerable
from acme_milter.store import enrollments
from acme_milter.store.bulk_runs import Kind
from acme_milter.store.database import Database
from acme_milter.store.schema import enrollment, mailbox
from tests.fresh_store import open_store

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
DOMAINS = ("org.example", "branch.example")
ALL = Selection()


def configured(directory: Path, **domains: dict[str, Any]) -> Config:
    authority = {"directory": "https://ca.example/dir", "contact": ["pm@org.example"], "agree_tos": True}
    (directory / "staff.csv").touch()
    document = {
        "version": 1,
        "authorities": {"ca": authority, "other": {**authority, "limits": {"orders_per_hour": 2}}},
        "sources": {"staff": {"type": "csv", "path": str(directory / "staff.csv")}},
        "defaults": {"authorities": ["ca"]},
        "domains": {
            "org.example": {"source": "staff", **domains.get("org", {})},
            "branch.example": {"source": "staff", "authorities": ["other"], **domains.get("branch", {})},
        },
    }
    return load_text(yaml.safe_dump(document), directory / "acme-milter.yaml")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """Twelve mailboxes of two domains; the first eight have certificates, issued over the last year."""
    database = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    fill(database, mailboxes=12, certificates=8, now=NOW, domains=DOMAINS)
    yield database
    database.close()


def planned(database: Database, config: Config, selection: Selection = ALL, **more: Any) -> Plan:
    with database.read() as connection:
        return make_plan(connection, config, NOW, selection, **more)


def names(plan: Plan) -> list[str]:
    return [item.address.partition("@")[0] for item in plan.items]


def reasons(plan: Plan) -> dict[str, int]:
    return {one.reason: one.number for one in plan.excluded}


def set_state(database: Database, address: str, state: str) -> None:
    with database.write() as connection:
        connection.execute(enrollment.update().where(enrollment.c.address == address).values(state=state))


def test_without_a_wish_those_are_meant_that_have_no_valid_certificate(database: Database, tmp_path: Path) -> None:
    plan = planned(database, configured(tmp_path))
    assert names(plan) == ["user11", "user9", "user10", "user8"]
    assert plan.counts() == [("branch.example", "other", 2), ("org.example", "ca", 2)]
    assert {item.replaces_id for item in plan.items} == {None}
    assert plan.items[0].principal == "staff:11"


@pytest.mark.parametrize("state", ["revoked", "expired", "superseded", "failed"])
def test_a_certificate_that_is_over_is_none(database: Database, tmp_path: Path, state: str) -> None:
    set_state(database, "user0@org.example", state)
    assert "user0" in names(planned(database, configured(tmp_path)))


def test_a_certificate_of_the_person_before_is_none(database: Database, tmp_path: Path) -> None:
    with database.write() as connection:
        connection.execute(
            mailbox.update().where(mailbox.c.address == "user0@org.example").values(principal="staff:77")
        )
    plan = planned(database, configured(tmp_path))
    assert "user0" in names(plan)
    assert {item.principal for item in plan.items if item.address == "user0@org.example"} == {"staff:77"}
    replaced = planned(database, configured(tmp_path), Selection(issued_before=NOW))
    assert reasons(replaced) == {"its certificate is of another person, who had the mailbox before": 1}


def test_selections_are_met_all_together(database: Database, tmp_path: Path) -> None:
    config = configured(tmp_path)
    soon = timedelta(days=200)
    assert names(planned(database, config, Selection(expiring=soon))) == ["user5", "user7", "user6"]
    assert names(planned(database, config, Selection(expiring=soon, authority="other"))) == []
    assert names(planned(database, config, Selection(domains=frozenset({"org.example"})))) == ["user10", "user8"]
    assert names(planned(database, config, Selection(authority="other"))) == ["user11", "user9"]
    both = Selection(issued_before=NOW - timedelta(days=150), serials=frozenset({"1", "6", "8", "999"}))
    plan = planned(database, config, both)
    assert names(plan) == ["user5", "user7"]
    assert reasons(plan) == {"no active certificate has this serial": 1}
    assert all(item.replaces_id and item.serial in {"6", "8"} for item in plan.items)


def test_whoever_is_left_out_is_counted_with_the_reason(database: Database, tmp_path: Path) -> None:
    with database.write() as connection:
        enrollments.open_new(connection, address="user8@org.example", authority="ca", now=NOW)
        gone = {"missing_since": NOW - timedelta(days=3)}
        connection.execute(mailbox.update().where(mailbox.c.address == "user11@branch.example").values(gone))
    config = configured(tmp_path, org={"mailboxes": {"exclude": ["user10@*"]}}, branch={"mode": "observe"})
    plan = planned(database, config)
    assert plan.items == ()
    assert reasons(plan) == {
        "an order is open already": 1,
        "matches exclude user10@*": 1,
        "mode: observe answers no challenge": 1,
        "source staff does not list it since 2026-11-19": 1,
    }


def test_built_in_patterns_are_shown_when_they_keep_a_mailbox_out(database: Database, tmp_path: Path) -> None:
    with database.write() as connection:
        renamed = {"address": "postmaster@org.example", "folded": "postmaster@org.example"}
        connection.execute(mailbox.update().where(mailbox.c.address == "user10@org.example").values(renamed))
    (only,) = planned(database, configured(tmp_path)).excluded
    assert "built-in pattern postmaster@*" in only.reason
    assert only.examples == ("postmaster@org.example",)


def test_given_addresses_that_cannot_be_ordered_are_named(database: Database, tmp_path: Path) -> None:
    given = frozenset({"user8@org.example", "user0@org.example", "stranger@org.example"})
    plan = planned(database, configured(tmp_path), Selection(addresses=given))
    assert names(plan) == ["user8"]
    assert reasons(plan) == {
        "has a valid certificate; for another one: acme-milter bulk replace": 1,
        "is not a managed mailbox": 1,
    }


def test_a_listed_mailbox_needs_no_source(database: Database, tmp_path: Path) -> None:
    config = configured(tmp_path, org={"mailboxes": {"list": ["listed@org.example", "user0@org.example"]}})
    # The list says nothing of a person, so the certificate that the source's person has is not the listed mailbox's.
    assert {"listed", "user0"} <= set(names(planned(database, config)))


def test_a_plan_says_what_it_takes_and_what_that_rests_on(database: Database, tmp_path: Path) -> None:
    plan = planned(database, configured(tmp_path))
    ca, other = plan.authorities
    assert (ca.name, ca.number, ca.orders_last_hour) == ("ca", 2, 0)
    assert ca.estimate.bound_by == "in_flight 50, 30 s an order (median of the last 8)"
    assert other.estimate.takes == timedelta(hours=1)
    assert plan.takes == timedelta(hours=1)


def test_the_file_has_a_mailbox_a_line_and_is_read_as_it_was_written(database: Database, tmp_path: Path) -> None:
    plan = planned(database, configured(tmp_path), Selection(issued_before=NOW), kind=Kind.REPLACE, revoke="superseded")
    path = tmp_path / "plan.json"
    with path.open("w") as out:
        plan_file.write(plan, out)
    lines = path.read_text().splitlines()
    assert sum('"address"' in line for line in lines) == len(plan.items) == 8
    assert all(json.loads(line.removesuffix(",")) for line in lines if '"address"' in line)
    document = json.loads(path.read_text())
    assert document["schema"] == "acme-milter/plan/1"
    assert document["total"] == 8
    found = plan_file.read(path)
    assert found.items == plan.items
    assert (found.kind, found.revoke, found.made_at) == (Kind.REPLACE, "superseded", NOW)
    assert found.description == "replace: issued before 2026-11-22 09:00 UTC"


def test_two_plans_of_the_same_store_differ_in_their_date_only(database: Database, tmp_path: Path) -> None:
    config = configured(tmp_path)
    written = []
    for _ in range(2):
        out = io.StringIO()
        plan_file.write(planned(database, config), out)
        written.append(out.getvalue())
    assert written[0] == written[1]


ONE = {"address": "a@org.example", "authority": "ca", "principal": "a@org.example"}
GOOD = {
    "schema": "acme-milter/plan/1",
    "kind": "issue",
    "made_at": NOW.isoformat(),
    "mailboxes": [ONE],
}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{\n\n", ":3: is not JSON"),
        ("[]", "is no plan of this version"),
        ({**GOOD, "schema": "acme-milter/plan/9"}, "its schema is 'acme-milter/plan/9'"),
        ({**GOOD, "kind": "steal"}, "made_at or kind"),
        ({**GOOD, "made_at": "2026-11-22T09:00:00"}, "no time zone"),
        ({**GOOD, "revoke": "because"}, "no reason that is known"),
        ({**GOOD, "mailboxes": None}, "it has no mailboxes"),
        ({**GOOD, "mailboxes": [{"address": 7}]}, "mailbox 1 wants address"),
        ({**GOOD, "mailboxes": ["a@org.example"]}, "mailbox 1 wants address"),
        ({**GOOD, "mailboxes": [{**ONE, "address": "\x1b[2Ja@org.example"}]}, "mailbox 1 wants address"),
        ({**GOOD, "mailboxes": [{**ONE, "principal": "\ud800"}]}, "mailbox 1 wants address"),
        ('{"number": ' + "9" * 5000 + "}", "is no plan"),
        ({**GOOD, "mailboxes": GOOD["mailboxes"] * 2}, "stands in it twice"),  # type: ignore[operator]  # JSON
    ],
)
def test_a_file_that_is_no_plan_is_refused_with_the_reason(tmp_path: Path, content: object, words: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(PlanFault, match=words.replace("[", r"\[")):
        plan_file.read(path)


def test_what_a_plan_says_of_itself_cannot_write_on_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**GOOD, "description": "\x1b]0;title\x07all"}))
    assert plan_file.read(path).description == "\\x1b]0;title\\x07all"


def test_a_simulation_counts_one_certificate_a_mailbox_and_those_that_nobody_renews(
    database: Database, tmp_path: Path
) -> None:
    with database.write() as connection:
        connection.execute(sa.delete(mailbox).where(mailbox.c.address == "user6@org.example"))
    config = configured(tmp_path)
    with database.read() as connection:
        document = bulk_simulate(connection, config, NOW, when=(NOW + timedelta(days=30)).isoformat())
        ca, other = cast("list[dict[str, Any]]", document["authorities"])
        with pytest.raises(Unanswerable, match="is over"):
            bulk_simulate(connection, config, NOW, when=(NOW - timedelta(days=1)).isoformat())
    assert (ca["authority"], ca["to_replace"], ca["only_to_revoke"]) == ("ca", 5, 5)  # branch.example has moved on
    assert (other["authority"], other["to_replace"]) == ("other", 6)
    assert other["takes_seconds"] == 3 * 3600
    assert [hour["replaced"] for hour in other["hours"]] == [2, 4, 6]
    assert [one["in_time"] for one in other["needed"]] == [True, True, True]
