# SPDX-License-Identifier: GPL-3.0-or-later
"""The store, on SQLite and on a real PostgreSQL."""

import dataclasses
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from acme_milter.enrollment.model import Enrollment, State
from acme_milter.enrollment.state_machine import Deferred, Failed, advance
from acme_milter.store import challenge_mails, enrollments, identity, outbox, queue
from acme_milter.store.challenge_mails import StoredChallengeMail
from acme_milter.store.database import Database, StoreUnusable
from acme_milter.store.outbox import OutboxEntry
from acme_milter.store.schema import enrollment as enrollment_table
from acme_milter.store.schema import metadata

NOW = datetime(2026, 11, 22, 9, 0, 0, 123456, tzinfo=UTC)
SOON = NOW + timedelta(minutes=5)
SECOND = timedelta(seconds=1)


def opened(database: Database, address: str = "alice@org.example") -> Enrollment:
    with database.write() as connection:
        return enrollments.open_new(connection, address=address, authority="ca", now=NOW)


def test_the_migrations_lead_to_exactly_the_schema(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "target_metadata": metadata})
        assert compare_metadata(context, metadata) == []


def test_the_tables_are_strict(sqlite: Database) -> None:
    with sqlite.read() as connection:
        strict = connection.exec_driver_sql("SELECT name, strict FROM pragma_table_list WHERE schema = 'main'")
        loose = {name for name, is_strict in strict if not is_strict}
    assert loose & set(metadata.tables) == set()


def test_commits_survive_a_power_cut(sqlite: Database) -> None:
    with sqlite.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2


def test_an_upgrade_may_be_repeated(database: Database) -> None:
    fresh = opened(database)
    database.upgrade()
    with database.read() as connection:
        assert enrollments.get(connection, fresh.id) == fresh


def test_a_store_that_is_up_to_date_is_opened_without_the_libraries_of_its_migrations(
    sqlite: Database, tmp_path: Path
) -> None:
    words = (
        "import sys; from acme_milter.store.database import Database\n"
        "Database(sys.argv[1]).upgrade(); print('alembic' in sys.modules)"
    )

    def needs_them(url: str) -> str:
        return subprocess.run([sys.executable, "-c", words, url], capture_output=True, text=True, check=True).stdout

    assert needs_them(sqlite.url) == "False\n"
    assert needs_them(f"sqlite:///{tmp_path / 'new.db'}") == "True\n"


def test_an_enrollment_comes_back_as_it_was_saved(database: Database) -> None:
    fresh = opened(database)
    full = dataclasses.replace(
        fresh,
        version=2,
        state=State.AWAITING_MAIL,
        token_part2=b"\x00\xff",
        challenge_sender="x@ca.example",
        began_ordering_at=NOW,
        last_error="was it",
    )
    with database.write() as connection:
        enrollments.save(connection, full)
        assert enrollments.get(connection, fresh.id) == full


def test_columns_and_fields_of_an_enrollment_agree() -> None:
    of_others = {"lease_owner", "lease_until", "not_after"}  # the scheduler's, and its certificate's
    assert {f.name for f in dataclasses.fields(Enrollment)} == {c.name for c in enrollment_table.columns} - of_others


def test_a_mailbox_has_one_open_enrollment_with_an_authority(database: Database) -> None:
    opened(database)
    with pytest.raises(enrollments.AlreadyOpen):
        opened(database)
    with pytest.raises(sa.exc.IntegrityError), database.write() as connection:
        connection.execute(
            enrollment_table.insert().values(
                id="other",
                address="alice@org.example",
                authority="ca",
                state="planned",
                version=1,
                generation=1,
                opened_at=NOW,
                state_since=NOW,
                attempts=0,
            )
        )


def test_a_failed_enrollment_makes_room_for_its_successor(database: Database) -> None:
    fresh = opened(database)
    with database.write() as connection:
        enrollments.save(connection, advance(fresh, Failed(last_error="no", successor_id="s"), NOW))
        enrollments.open_new(connection, address=fresh.address, authority="ca", now=NOW, enrollment_id="s")


def test_a_stale_version_cannot_be_saved(database: Database) -> None:
    fresh = opened(database)
    with database.write() as connection:
        enrollments.save(connection, advance(fresh, Deferred(next_attempt_at=SOON), NOW))
    with pytest.raises(enrollments.StaleVersion), database.write() as connection:
        enrollments.save(connection, advance(fresh, Failed(last_error="late"), NOW))
    with database.read() as connection:
        found = enrollments.get(connection, fresh.id)
    assert found is not None
    assert found.state is State.PLANNED


def test_of_many_claimers_one_wins(database: Database) -> None:
    fresh = opened(database)
    winners: list[str] = []
    barrier = threading.Barrier(8)

    def claim(owner: str) -> None:
        barrier.wait()
        with database.write() as connection:
            if enrollments.claim(connection, fresh.id, owner=owner, now=NOW, until=SOON) is not None:
                winners.append(owner)

    threads = [threading.Thread(target=claim, args=(f"worker-{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1


def test_a_lease_that_ran_out_may_be_taken_over(database: Database) -> None:
    fresh = opened(database)
    with database.write() as connection:
        assert enrollments.claim(connection, fresh.id, owner="dead", now=NOW, until=SOON) is not None
        assert enrollments.claim(connection, fresh.id, owner="other", now=NOW, until=SOON) is None
        later = SOON + timedelta(seconds=1)
        assert enrollments.claim(connection, fresh.id, owner="other", now=later, until=later) is not None


def test_what_is_leased_or_not_due_is_not_offered(database: Database) -> None:
    first, second, third = (
        opened(database, "a@x.example"),
        opened(database, "b@x.example"),
        opened(database, "c@x.example"),
    )
    with database.write() as connection:
        enrollments.claim(connection, first.id, owner="w", now=NOW, until=SOON)
        enrollments.save(connection, advance(second, Deferred(next_attempt_at=SOON), NOW))
        waiting = queue.waiting(connection, "ca", now=NOW, limit=10)
    assert [one.id for one in waiting] == [third.id]


def test_nothing_of_a_broken_transaction_remains(database: Database) -> None:
    def break_half_way() -> None:
        with database.write() as connection:
            enrollments.open_new(connection, address="x@x.example", authority="ca", now=NOW)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_half_way()
    with database.read() as connection:
        assert enrollments.of_mailbox(connection, "x@x.example") == []


def stored_challenge(database: Database, token_digest: bytes = b"digest") -> StoredChallengeMail:
    fresh = opened(database)
    mail = StoredChallengeMail(
        id="m1",
        enrollment_id=fresh.id,
        token_digest=token_digest,
        sealed_mail=b"s",
        queue_id="4Vx",
        dkim_domain="ca.example",
        dkim_selector="s",
        disposition="discard",
        accepted_at=NOW,
    )
    with database.write() as connection:
        challenge_mails.insert(connection, mail)
    return mail


def test_a_token_is_answered_once_for_an_enrollment(database: Database) -> None:
    mail = stored_challenge(database)
    with pytest.raises(sa.exc.IntegrityError), database.write() as connection:
        challenge_mails.insert(connection, dataclasses.replace(mail, id="m2"))
    with database.read() as connection:
        assert challenge_mails.digests_of(connection, mail.enrollment_id) == {b"digest"}


def test_doubt_begins_at_the_first_sight(database: Database) -> None:
    with database.write() as connection:
        assert challenge_mails.doubted_since(connection, b"d", NOW) == NOW
        assert challenge_mails.doubted_since(connection, b"d", SOON) == NOW


def outbox_entry(mail: StoredChallengeMail) -> OutboxEntry:
    return OutboxEntry(
        id="o1",
        enrollment_id=mail.enrollment_id,
        challenge_mail_id=mail.id,
        envelope_sender="a@x.example",
        envelope_recipient="ca@ca.example",
        message_id="<x@y>",
        sealed_reply=b"r",
        created_at=NOW,
        next_attempt_at=NOW,
    )


def test_an_outbox_entry_is_claimed_by_one_and_sent_once(database: Database) -> None:
    entry = outbox_entry(stored_challenge(database))
    with database.write() as connection:
        outbox.insert(connection, entry)
        assert outbox.due(connection, now=NOW, limit=5) == ["o1"]
        assert outbox.claim(connection, "o1", owner="w", now=NOW, until=SOON) == entry
        assert outbox.claim(connection, "o1", owner="v", now=NOW, until=SOON) is None
        assert outbox.begin_handover(connection, "o1", owner="w", at=NOW, most=2)
        assert not outbox.mark_sent(connection, "o1", owner="v", at=NOW, queue_id="q")
        assert outbox.mark_sent(connection, "o1", owner="w", at=NOW, queue_id="q")
        assert outbox.due(connection, now=SOON + timedelta(days=1), limit=5) == []


def test_an_interrupted_handover_is_remembered_and_a_refusal_after_it_does_not_undo_it(database: Database) -> None:
    entry = outbox_entry(stored_challenge(database))
    with database.write() as connection:
        outbox.insert(connection, entry)
        outbox.claim(connection, "o1", owner="w#1", now=NOW, until=SOON)
        outbox.begin_handover(connection, "o1", owner="w#1", at=NOW, most=2)
        outbox.release_all(connection, place="w", but="w#2")  # as a worker does when it starts after a crash
        again = outbox.claim(connection, "o1", owner="w#1", now=NOW, until=SOON)
        assert again is not None
        assert (again.handover_began_at, again.handovers) == (NOW, 1)
        assert outbox.begin_handover(connection, "o1", owner="w#1", at=SOON - SECOND, most=2)
        outbox.mark_deferred(connection, "o1", owner="w#1", until=NOW, error="451", certain=True)
        refused = outbox.claim(connection, "o1", owner="w#1", now=NOW, until=SOON)
        assert refused is not None
        assert (refused.handover_began_at, refused.handovers, refused.attempts) == (SOON - SECOND, 1, 1)


def test_a_handover_does_not_begin_without_a_living_lease_or_too_often(database: Database) -> None:
    entry = outbox_entry(stored_challenge(database))
    with database.write() as connection:
        outbox.insert(connection, entry)
        outbox.claim(connection, "o1", owner="w#1", now=NOW, until=SOON)
        assert not outbox.begin_handover(connection, "o1", owner="w#2", at=NOW, most=2)
        assert not outbox.begin_handover(connection, "o1", owner="w#1", at=SOON, most=2)
        assert outbox.begin_handover(connection, "o1", owner="w#1", at=NOW, most=2)
        assert outbox.begin_handover(connection, "o1", owner="w#1", at=NOW, most=2)
        assert not outbox.begin_handover(connection, "o1", owner="w#1", at=NOW, most=2)


def test_a_store_is_bound_to_the_first_key_it_meets(database: Database) -> None:
    with database.write() as connection:
        identity.bind(connection, "aaaa")
        identity.bind(connection, "aaaa")
    with pytest.raises(identity.SealedUnderAnotherKey, match=r"aaaa.*bbbb"), database.write() as connection:
        identity.bind(connection, "bbbb")


def test_a_damaged_database_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"this is no database, and long enough to be read as one" * 100)
    database = Database(f"sqlite:///{path}")
    with pytest.raises(StoreUnusable, match=r"store\.db"):
        database.upgrade()
    database.close()


def test_a_reader_makes_no_store(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    database = Database(f"sqlite:///{path}")
    with pytest.raises(StoreUnusable, match="no store yet"):
        database.require_schema()
    database.close()
    assert not path.exists()


def test_every_reference_to_another_table_has_an_index() -> None:
    """Without one, each new row over there has its referrers looked for by reading this table whole."""
    led, references = set(), set()
    for table in metadata.tables.values():
        unique = [constraint for constraint in table.constraints if isinstance(constraint, sa.UniqueConstraint)]
        indexed = [list(index.columns) for index in table.indexes] + [list(one.columns) for one in unique]
        led |= {(table.name, columns[0].name) for columns in indexed}
        references |= {(table.name, key.parent.name) for key in table.foreign_keys}
    assert references
    assert references - led == set()
