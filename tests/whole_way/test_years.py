# SPDX-License-Identifier: GPL-3.0-or-later
"""The run of years, small: renewals, joiners, leavers, an outage and a replacement; and that its judgement can fail."""

import dataclasses
import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from acme_milter.lab.years_evidence import Evidence
from acme_milter.lab.years_judgement import Finding, judge
from acme_milter.lab.years_people import draw_people

SIZE = ("--mailboxes", "12", "--days", "90", "--lifetime", "40", "--monthly", "25")


@pytest.fixture(scope="module")
def years(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a small run leaves behind; it has judged itself. One run serves all processes of this session of tests."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    left_behind = shared / "years"
    with (shared / "years.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not left_behind.exists():
            _live_through(left_behind)
    return left_behind


def _live_through(left_behind: Path) -> None:
    # Not pytest's directory: a unix socket's path has room for 107 octets only.
    scratch = Path(tempfile.mkdtemp(prefix="years-"))
    scratch.chmod(0o755)
    try:
        command = [sys.executable, "-W", "error", "-m", "acme_milter.lab.years", *SIZE, "--keep", str(scratch / "run")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
        log = scratch / "run" / "acme-milter.log"
        assert done.returncode == 0, (done.stdout, done.stderr, log.read_text()[-4000:] if log.exists() else "")
        assert "BROKEN" not in done.stdout
        shutil.copytree(scratch / "run", left_behind, ignore=shutil.ignore_patterns("*.sock", "postfix", "run"))
    finally:
        shutil.rmtree(scratch)


def judged(store: Path, evidence: Evidence) -> dict[str, Finding]:
    """The promises that were broken."""
    return {finding.promise: finding for finding in judge(store, evidence) if not finding.kept}


@pytest.fixture
def copy(years: Path, tmp_path: Path) -> Path:
    """The store, to be falsified."""
    path = tmp_path / "store.db"
    with closing(sqlite3.connect(years / "store.db")) as source, closing(sqlite3.connect(path)) as target:
        source.backup(target)
    return path


def test_every_promise_is_kept_and_everything_happened(years: Path) -> None:
    evidence = Evidence.read(years)
    assert judged(years / "store.db", evidence) == {}
    assert evidence.span.end - evidence.span.begin >= timedelta(days=90)
    assert sum(person.left is not None for person in evidence.people) >= 5
    assert sum(person.joined > timedelta() for person in evidence.people) >= 5
    with closing(sqlite3.connect(years / "store.db")) as store:
        causes = dict(store.execute("SELECT cause, count(*) FROM enrollment WHERE state <> 'failed' GROUP BY cause"))
        runs = store.execute("SELECT kind, state FROM bulk_run ORDER BY created_at").fetchall()
    assert runs == [("issue", "done"), ("replace", "done")]
    assert causes["bulk"] >= 20
    assert causes["joiner"] >= 5
    assert causes["renewal"] >= 12
    begun = [datetime.fromisoformat(order["created"]) for order in evidence.orders]
    assert not any(evidence.outage.holds(instant) for instant in begun)
    assert sum(one["revoked"] is not None for one in evidence.certificates) >= 12  # the replaced ones, and leavers'


@pytest.mark.parametrize(
    ("falsify", "promise", "named"),
    [
        (
            (
                "DELETE FROM certificate WHERE address = 'user0@org.example' AND id IN (SELECT id FROM certificate"
                " WHERE address = 'user0@org.example' ORDER BY not_before DESC LIMIT 1 OFFSET 1)"
            ),
            "the store has every certificate that the CA issued",
            "is in the CA's books alone",
        ),
        (
            "UPDATE certificate SET not_after = not_before + 1000000 WHERE address = 'user0@org.example'",
            "nobody was without a valid certificate",
            "user0@org.example (p0): none from",
        ),
        (
            (
                "UPDATE enrollment SET state = 'replying', opened_at = 0"
                " WHERE id IN (SELECT max(id) FROM enrollment WHERE state = 'active')"
            ),
            "no enrollment is open for more than a day",
            "@org.example: replying",
        ),
        (
            (
                "UPDATE mailbox_key SET principal = 'people:somebody' WHERE id IN"
                " (SELECT key_id FROM enrollment WHERE address = 'user0@org.example' LIMIT 1)"
            ),
            "every order has a key of its own, its person's",
            "user0@org.example: a key of somebody else",
        ),
        (
            "DROP INDEX uq_enrollment_open; UPDATE enrollment SET state = 'active' WHERE state = 'superseded'",
            "a mailbox has one active certificate, the others are superseded or over",
            "active",
        ),
        (
            "INSERT INTO hold (name, since, reason, size) VALUES ('leavers:people', 0, 'too many', 9)",
            "no guard and no revocation waits",
            "hold leavers:people: too many",
        ),
        (
            "UPDATE revocation SET done_at = NULL, asked_at = 0",
            "no guard and no revocation waits",
            "revocation of certificate",
        ),
    ],
    ids=["forgotten", "gap", "left-open", "wrong-key", "two-active", "held", "overdue"],
)
def test_the_judgement_names_who_is_concerned(years: Path, copy: Path, falsify: str, promise: str, named: str) -> None:
    with closing(sqlite3.connect(copy)) as store:
        store.executescript(falsify)
    broken = judged(copy, Evidence.read(years))
    assert any(named in offender for offender in broken[promise].offenders), broken


def test_a_leaver_who_keeps_a_certificate_is_named(years: Path) -> None:
    evidence = Evidence.read(years)
    lenient = [{**one, "revoked": None} for one in evidence.certificates]
    broken = judged(years / "store.db", dataclasses.replace(evidence, certificates=lenient))
    assert list(broken) == ["what leavers had is revoked in time"]
    assert broken.popitem()[1].offenders


@pytest.mark.parametrize(("crowd", "kept"), [(1, True), (3, False)])
def test_an_hour_with_more_than_twice_the_mean_is_named_unless_a_bulk_run_had_it(
    years: Path, crowd: int, kept: bool
) -> None:
    evidence = Evidence.read(years)
    hours = int((evidence.span.end - evidence.span.begin) / timedelta(hours=1))
    each_hour = [evidence.span.begin + timedelta(hours=number) for number in range(hours)]
    noon = evidence.outage.end + timedelta(days=2)
    in_bulk = [evidence.replacement.begin] * 50
    orders = [{"created": instant.isoformat()} for instant in (*each_hour, *[noon] * (crowd - 1), *in_bulk)]
    broken = judged(years / "store.db", dataclasses.replace(evidence, orders=orders))
    assert list(broken) == ([] if kept else ["orders placed an hour, as the CA has them: at most twice the mean"])
    assert all(finding.offenders == (f"{noon:%Y-%m-%d %H}h: {crowd}",) for finding in broken.values())


def test_people_are_drawn_alike_from_a_seed_and_an_address_has_one_person_at_a_time() -> None:
    length = timedelta(days=1826)
    people = draw_people(200, length, seed=1)
    assert people == draw_people(200, length, seed=1) != draw_people(200, length, seed=2)
    joined = [person for person in people if person.joined]
    left = [person for person in people if person.left is not None]
    assert 235 <= len(joined) <= 244
    assert 235 <= len(left) <= 244
    assert any(person.address in {one.address for one in left} for person in joined)
    for day in range(0, 1826, 13):
        present = [person.address for person in people if person.present(timedelta(days=day))]
        assert len(present) == len(set(present))
        assert 190 <= len(present) <= 210
