# SPDX-License-Identifier: GPL-3.0-or-later
"""`report coverage | expiring` for the eye, for scripts and for a spreadsheet."""

import csv
import io

from tests.cli.conftest import OBSERVED, Office

ALICE = "alice@org.example"


def test_coverage_adds_up_for_each_domain_and_for_all(office: Office) -> None:
    document = office.document("report", "coverage")
    assert document["schema"] == "acme-milter/coverage/1"
    for row in [*document["domains"], document["total"]]:
        assert row["with_certificate"] + row["open"] + row["failed"] + row["without"] == row["managed"]
    assert {row["domain"]: row["managed"] for row in document["domains"]} == {"org.example": 13, OBSERVED: 1}
    assert document["total"]["managed"] == 14


def test_coverage_is_a_spreadsheet_with_names_in_its_first_line(office: Office) -> None:
    out, _ = office.run("report", "coverage", "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["domain"] for row in rows] == ["org.example", OBSERVED]
    assert rows[1]["with_certificate"] == "0"


def test_expiring_names_what_ends_and_what_is_planned(office: Office) -> None:
    assert ALICE not in {row["address"] for row in office.document("report", "expiring")["certificates"]}
    document = office.document("report", "expiring", "--within", "60w")
    assert document["schema"] == "acme-milter/expiring/1"
    row = next(row for row in document["certificates"] if row["address"] == ALICE)
    assert row["managed"] is True
    assert row["renewal_due_at"] < row["not_after"]
    out, _ = office.run("report", "expiring", "--within", "60w", "--csv")
    assert ALICE in {row["address"] for row in csv.DictReader(io.StringIO(out))}
    assert "renewal planned for" in office.run("report", "expiring", "--within", "60w")[0]
