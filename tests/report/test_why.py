# SPDX-License-Identifier: GPL-3.0-or-later
"""`why`: the reason that explains the most, and a command that leads on."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from acme_milter.enrollment.lost_account import in_words
from acme_milter.enrollment.model import State
from acme_milter.report.why import why
from acme_milter.store import authority_health, holds, pauses, renewals
from acme_milter.store.authority_health import Health
from acme_milter.store.renewals import Renewal
from tests.report.story import DAY, NOW, Story, configuration

ALICE = "alice@org.example"
ERIN = "erin@staff.example"
YEAR = timedelta(days=365)


def failed(story: Story) -> None:
    story.ordered(ALICE, State.FAILED, last_error="the authority says caa", next_attempt_at=None)


def revoked(story: Story) -> None:
    story.ordered(ALICE, State.REVOKED, ends=YEAR)


def expired(story: Story) -> None:
    story.ordered(ALICE, State.EXPIRED, ends=-DAY)


def trying(story: Story) -> None:
    story.ordered(ALICE, State.ORDERING, last_error="ca.example:443: Connection refused")


def paused(story: Story) -> None:
    story.ordered(ALICE, State.PLANNED)
    with story.database.write() as connection:
        pauses.pause(connection, "ca", "rate limit", NOW, NOW + timedelta(hours=2))


def broken(story: Story) -> None:
    story.ordered(ALICE, State.PLANNED)
    with story.database.write() as connection:
        authority_health.put(
            connection, Health(authority="ca", failures=5, open_since=NOW - DAY, last_error="503 Service Unavailable")
        )


def key_exchanged(story: Story) -> None:
    story.ordered(ALICE, State.PLANNED, next_attempt_at=NOW - timedelta(minutes=1))
    story.exchanges_its_key()


def key_exchange_failed(story: Story) -> None:
    story.ordered(ALICE, State.PLANNED)
    story.exchanges_its_key("ca.example:443: Connection refused", NOW + timedelta(hours=1))
    with story.database.write() as connection:
        authority_health.put(connection, Health(authority="ca", failures=5, open_since=NOW, last_error="refused"))


def key_exchange_waits(story: Story) -> None:
    key_exchanged(story)
    story.ordered("bob@org.example", State.AWAITING_MAIL, account_id="a", order_url="https://ca.example/o")


LOST = in_words("ca", "", "accountDoesNotExist 400: no such account")
ANOTHER = "acme-milter authority deactivate ca --yes; then: acme-milter authority register ca --again"


def account_lost(story: Story) -> None:
    story.ordered(ALICE, State.ORDERING, last_error=LOST)


def account_lost_before(story: Story) -> None:
    story.ordered(ALICE, State.PLANNED)
    with story.database.write() as connection:
        authority_health.put(connection, Health(authority="ca", failures=5, open_since=NOW - DAY, last_error=LOST))


def waiting(story: Story) -> None:
    story.ordered(ALICE, State.PLANNED, cause="renewal")


def planned(story: Story) -> None:
    story.ordered(ALICE, State.ACTIVE, ends=YEAR)
    with story.database.write() as connection:
        certificate_id = connection.exec_driver_sql("SELECT id FROM certificate").scalar_one()
        due = NOW + 200 * DAY
        renewals.plan(
            connection,
            Renewal(certificate_id=certificate_id, authority="ca", address=ALICE, due_at=due, urgent_at=due + DAY),
        )


def renewals_held(story: Story) -> None:
    planned(story)
    with story.database.write() as connection:
        holds.ask(connection, "renewals:ca", "900 of 1000 certificates are due at once", NOW)


def renewal_failed(story: Story) -> None:
    story.ordered(ALICE, State.ACTIVE, ends=YEAR, opened_at=NOW - YEAR)
    failed(story)


@pytest.mark.parametrize(
    ("happened", "word", "words", "command"),
    [
        (failed, "failed", "the authority says caa", f"acme-milter cert issue {ALICE}"),
        (revoked, "revoked", "was revoked on 2026-11-21", f"acme-milter cert issue {ALICE}"),
        (expired, "expired", "expired on 2026-11-21", f"acme-milter cert issue {ALICE}"),
        (trying, "trying", "Connection refused", f"acme-milter mailbox show {ALICE}"),
        (
            paused,
            "authority-paused",
            "paused until 2026-11-22 14:00 UTC (rate limit)",
            "acme-milter authority resume ca",
        ),
        (
            broken,
            "authority-broken",
            "ca is broken since 2026-11-21 12:00 UTC: 503 Service Unavailable",
            "acme-milter authority show ca",
        ),
        (key_exchanged, "key-exchange", "is being exchanged just now", "acme-milter authority show ca"),
        (key_exchange_waits, "key-exchange", "1 open challenge is answered", "acme-milter authority show ca"),
        (
            key_exchange_failed,
            "key-exchange",
            "Connection refused; the next try is at 2026-11-22 13:00 UTC",
            "acme-milter authority rollover ca",
        ),
        (account_lost, "trying", "does not know our account any more", ANOTHER),
        (account_lost_before, "authority-broken", "does not know our account any more", ANOTHER),
        (waiting, "waiting", "waits for the background pace", "acme-milter status"),
        (planned, "has-certificate", "Its renewal is planned for 2027-06-10", None),
        (renewals_held, "renewals-held", "900 of 1000", "acme-milter hold release renewals:ca"),
        (renewal_failed, "renewal-failed", "the authority says caa", f"acme-milter cert renew {ALICE}"),
        (lambda _story: None, "never-ordered", "none was ever ordered", f"acme-milter cert issue {ALICE}"),
    ],
)
def test_a_listed_mailbox(
    story: Story, tmp_path: Path, happened: Callable[[Story], None], word: str, words: str, command: str | None
) -> None:
    happened(story)
    with story.database.read() as connection:
        document = why(connection, configuration(tmp_path), NOW, address=ALICE)
    assert (document["word"], document["command"]) == (word, command)
    assert words in str(document["text"])


@pytest.mark.parametrize(
    ("facts", "word", "words"),
    [
        ({"missing_since": NOW - DAY}, "missing", "does not have it since 2026-11-21"),
        ({"came_as": "waiting"}, "held", "new:staff is held: 700 are new"),
        ({"came_as": "joiner"}, "waiting", "waits for its turn in the background pace"),
        ({"missing_since": NOW - 20 * DAY, "left_at": NOW - 6 * DAY}, "left", "counts as gone since 2026-11-16"),
    ],
)
def test_a_mailbox_from_a_source(story: Story, tmp_path: Path, facts: dict[str, object], word: str, words: str) -> None:
    story.arrived(ERIN, **facts)
    with story.database.write() as connection:
        holds.ask(connection, "new:staff", "700 are new", NOW)
    with story.database.read() as connection:
        document = why(connection, configuration(tmp_path), NOW, address=ERIN)
    assert document["word"] == word
    assert words in str(document["text"])


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("svc-backup", "exclude svc-*@*"), ("noreply", "the built-in pattern noreply@* (system address;")],
)
def test_who_is_excluded_is_told_the_pattern(story: Story, tmp_path: Path, name: str, pattern: str) -> None:
    with story.database.read() as connection:
        document = why(connection, configuration(tmp_path), NOW, address=f"{name}@staff.example")
    assert document["word"] == "excluded"
    assert f"whether the source staff has it or not, it matches {pattern}" in str(document["text"])


def test_observe_brings_no_certificate_and_why_says_so(story: Story, tmp_path: Path) -> None:
    story.arrived(ERIN)
    story.ordered(ERIN, State.AWAITING_MAIL, principal=f"staff:{ERIN}")
    with story.database.read() as connection:
        document = why(connection, configuration(tmp_path, ", mode: observe"), NOW, address=ERIN)
    assert document["word"] == "observed"
    assert "set mode: enforce" in str(document["command"])


def test_what_a_predecessor_had_explains_nothing(story: Story, tmp_path: Path) -> None:
    story.arrived(ERIN)
    story.ordered(ERIN, State.SUPERSEDED, principal="staff:somebody-else", ends=YEAR)
    with story.database.read() as connection:
        document = why(connection, configuration(tmp_path), NOW, address=ERIN)
    assert (document["word"], document["has_certificate"]) == ("never-ordered", False)


@pytest.mark.parametrize(
    ("came_as", "began", "policy", "again"),
    [
        ("joiner", NOW, "", True),
        ("import", None, "", True),
        ("import", NOW, "", False),
        ("joiner", None, ", joiners: ask", False),
        ("joiner", None, ", mode: observe", False),
    ],
)
def test_why_says_when_a_failed_order_is_opened_again_by_itself(
    story: Story, tmp_path: Path, came_as: str, began: datetime | None, policy: str, again: bool
) -> None:
    story.arrived(ERIN, came_as=came_as)
    story.ordered(
        ERIN,
        State.FAILED,
        principal=f"staff:{ERIN}",
        last_error="unknown",
        began_ordering_at=began,
        next_attempt_at=None,
    )
    with story.database.read() as connection:
        document = why(connection, configuration(tmp_path, policy), NOW, address=ERIN)
    assert document["word"] == "failed"
    sentence = "The next one is opened by itself after 2026-11-22 12:00 UTC, as long as staff lists it."
    assert (sentence in str(document["text"])) is again
