# SPDX-License-Identifier: GPL-3.0-or-later
"""What the janitor forgets, and what it must not."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from acme_milter.store import certificates, challenge_mails, enrollments, mailbox_keys
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.challenge_mails import StoredChallengeMail
from acme_milter.store.database import Database
from acme_milter.store.mailbox_keys import StoredMailboxKey
from acme_milter.store.schema import enrollment as enrollment_table
from acme_milter.worker.janitor import KEEP_DOUBTS, KEEP_MAILS, Janitor
from tests.fresh_store import open_store

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    yield database
    database.close()


def an_active_mailbox(database: Database, not_after: datetime) -> str:
    with database.write() as connection:
        opened = enrollments.open_new(connection, address="a@org.example", authority="ca", now=NOW)
        key = StoredMailboxKey(
            id="k", principal="a@org.example", algorithm="p256", sealed_key=b"s", spki=b"", csr=b"", created_at=NOW
        )
        mailbox_keys.insert(connection, key)
        certificates.insert(
            connection,
            StoredCertificate(
                principal="a@org.example",
                id="c", enrollment_id=opened.id, address="a@org.example", authority="ca", key_id="k", serial="1",
                issuer="CN=ca", not_before=NOW, not_after=not_after, chain_pem=b"", stored_at=NOW,
            ),
        )  # fmt: skip
        connection.execute(enrollment_table.update().values(state="active", certificate_id="c", next_attempt_at=None))
    return opened.id


def test_the_bytes_of_an_old_mail_go_and_the_memory_of_its_answer_stays(database: Database) -> None:
    enrollment_id = an_active_mailbox(database, NOW + 99 * KEEP_MAILS)
    mail = StoredChallengeMail(
        id="m", enrollment_id=enrollment_id, token_digest=b"digest", sealed_mail=b"sealed", queue_id="4Vx",
        dkim_domain="ca.example", dkim_selector="s", disposition="discard", accepted_at=NOW,
    )  # fmt: skip
    with database.write() as connection:
        challenge_mails.insert(connection, mail)

    def sealed_after_tidying(now: datetime) -> bytes:
        Janitor(database=database, clock=lambda: now).tidy()
        with database.read() as connection:
            (kept,) = challenge_mails.of_enrollment(connection, enrollment_id)
            assert challenge_mails.digests_of(connection, enrollment_id) == {b"digest"}
        return kept.sealed_mail

    assert sealed_after_tidying(NOW + KEEP_MAILS) == b"sealed"
    assert sealed_after_tidying(NOW + KEEP_MAILS + SECOND) == b""


def test_an_old_doubt_is_forgotten_and_a_young_one_kept(database: Database) -> None:
    with database.write() as connection:
        challenge_mails.doubted_since(connection, b"token", NOW)
    Janitor(database=database, clock=lambda: NOW + KEEP_DOUBTS).tidy()
    with database.write() as connection:
        assert challenge_mails.doubted_since(connection, b"token", NOW + KEEP_DOUBTS) == NOW
    later = NOW + KEEP_DOUBTS + SECOND
    Janitor(database=database, clock=lambda: later).tidy()
    with database.write() as connection:
        assert challenge_mails.doubted_since(connection, b"token", later) == later
