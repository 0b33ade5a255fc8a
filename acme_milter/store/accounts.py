# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on ACME accounts. An account's key is stored before the authority first hears of it, and so is its next."""

from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from acme_milter.enrollment.model import CHALLENGED_STATES, OPEN_STATES, Enrollment, State
from acme_milter.store.schema import account as table
from acme_milter.store.schema import enrollment


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAccount:
    """``jwk`` is the public key as JSON text; ``url`` is None until newAccount was answered.

    ``scope`` is whose it is: a domain, a mailbox, or nothing, and then it is everybody's. The ``next_`` three are of
    the key that is to replace this one (RFC 8555 §7.3.5), ``next_attempt_at`` is when that is tried.
    """

    id: str
    authority: str
    directory_url: str
    sealed_key: bytes = field(repr=False)
    jwk: str
    thumbprint: str
    url: str | None
    terms_url: str | None
    created_at: datetime
    scope: str = ""
    terms_agreed_at: datetime | None = None
    deactivated_at: datetime | None = None
    next_sealed_key: bytes | None = field(default=None, repr=False)
    next_jwk: str | None = None
    next_thumbprint: str | None = None
    next_attempt_at: datetime | None = None
    last_error: str | None = None
    key_since: datetime | None = None

    @property
    def is_changing(self) -> bool:
        """Whether its key is to be exchanged: nothing new begins with it until that is done."""
        return self.next_sealed_key is not None


_KEEPS_KEY = {"next_sealed_key": None, "next_jwk": None, "next_thumbprint": None, "next_attempt_at": None}


def find(connection: sa.Connection, authority: str, directory_url: str, scope: str = "") -> StoredAccount | None:
    """The account in use, whether the authority has heard of it or not."""
    row = connection.execute(
        sa.select(table).where(
            table.c.authority == authority,
            table.c.directory_url == directory_url,
            table.c.scope == scope,
            table.c.deactivated_at.is_(None),
        )
    ).first()
    return None if row is None else StoredAccount(**row._asdict())


def get(connection: sa.Connection, account_id: str) -> StoredAccount | None:
    row = connection.execute(sa.select(table).where(table.c.id == account_id)).first()
    return None if row is None else StoredAccount(**row._asdict())


def ordered_with(connection: sa.Connection, ordered: Enrollment) -> StoredAccount | None:
    """The account that an enrollment was ordered with, in use or not; None: ordering has not begun.

    What began in the time when every authority had one account for everybody does not say so: it was that one.
    """
    if ordered.account_id is not None:
        return get(connection, ordered.account_id)
    if ordered.began_ordering_at is None:
        return None
    shared = table.c.authority == ordered.authority, table.c.scope == "", table.c.url.is_not(None)
    was_there = table.c.created_at <= ordered.began_ordering_at
    latest = sa.case((was_there, table.c.created_at))
    query = sa.select(table).where(*shared).order_by(was_there.desc(), latest.desc(), table.c.created_at)
    row = connection.execute(query.limit(1)).first()
    return None if row is None else StoredAccount(**row._asdict())


def every(connection: sa.Connection, authority: str | None = None) -> list[StoredAccount]:
    """Deactivated ones included, the oldest first."""
    wanted = sa.select(table).order_by(table.c.created_at, table.c.id)
    if authority is not None:
        wanted = wanted.where(table.c.authority == authority)
    return [StoredAccount(**row._asdict()) for row in connection.execute(wanted)]


def has_key(connection: sa.Connection, thumbprint: str) -> bool:
    """Whether the key with this thumbprint (RFC 7638) is an account's, or is to be: deactivated ones included."""
    either = sa.or_(table.c.thumbprint == thumbprint, table.c.next_thumbprint == thumbprint)
    return connection.execute(sa.select(table.c.id).where(either).limit(1)).first() is not None


def number_in_use(connection: sa.Connection, authority: str, directory_url: str) -> int:
    """How many accounts the authority knows of ours."""
    return connection.execute(
        sa.select(sa.func.count())
        .select_from(table)
        .where(
            table.c.authority == authority,
            table.c.directory_url == directory_url,
            table.c.deactivated_at.is_(None),
            table.c.url.is_not(None),
        )
    ).scalar_one()


def latest_deactivated(
    connection: sa.Connection, authority: str, directory_url: str, scope: str
) -> StoredAccount | None:
    """The account that was in use here last, where it was closed and no other one has taken its place."""
    row = connection.execute(
        sa.select(table)
        .where(
            table.c.authority == authority,
            table.c.directory_url == directory_url,
            table.c.scope == scope,
            table.c.deactivated_at.is_not(None),
        )
        .order_by(table.c.deactivated_at.desc())
        .limit(1)
    ).first()
    return None if row is None else StoredAccount(**row._asdict())


def insert(connection: sa.Connection, account: StoredAccount) -> None:
    connection.execute(table.insert().values({column.name: getattr(account, column.name) for column in table.columns}))


def set_url(connection: sa.Connection, account_id: str, *, url: str, terms_url: str | None, at: datetime) -> None:
    """RFC 8555 §7.3: remember where the account lives and which terms were agreed to."""
    connection.execute(table.update().where(table.c.id == account_id).values(url=url))
    agree(connection, account_id, terms_url, at)


def agree(connection: sa.Connection, account_id: str, terms_url: str | None, at: datetime) -> None:
    """These terms were agreed to; None: the authority names none."""
    agreed_at = None if terms_url is None else at
    connection.execute(
        table.update().where(table.c.id == account_id).values(terms_url=terms_url, terms_agreed_at=agreed_at)
    )


def deactivate(connection: sa.Connection, account_id: str, at: datetime) -> None:
    """RFC 8555 §7.3.6: closed for good."""
    connection.execute(table.update().where(table.c.id == account_id).values(deactivated_at=at, **_KEEPS_KEY))


def begin_exchange(
    connection: sa.Connection, account_id: str, *, sealed_key: bytes, jwk: str, thumbprint: str, at: datetime
) -> bool:
    """Keep the next key, and have the exchange tried from ``at`` on; False: there is a next one already."""
    written = connection.execute(
        table.update()
        .where(table.c.id == account_id, table.c.next_sealed_key.is_(None), table.c.deactivated_at.is_(None))
        .values(
            next_sealed_key=sealed_key, next_jwk=jwk, next_thumbprint=thumbprint, next_attempt_at=at, last_error=None
        )
    )
    return written.rowcount == 1


def exchanges_due(connection: sa.Connection, now: datetime, limit: int) -> list[str]:
    """Ids of accounts whose key is to be exchanged now."""
    wanted = sa.select(table.c.id).where(table.c.next_sealed_key.is_not(None), table.c.next_attempt_at <= now)
    return list(connection.execute(wanted.order_by(table.c.next_attempt_at, table.c.id).limit(limit)).scalars())


def claim_exchange(
    connection: sa.Connection, account_id: str, *, now: datetime, until: datetime
) -> StoredAccount | None:
    """The account, for us alone until then; None when somebody else has it, or there is nothing to exchange."""
    taken = connection.execute(
        table.update()
        .where(table.c.id == account_id, table.c.next_sealed_key.is_not(None), table.c.next_attempt_at <= now)
        .values(next_attempt_at=until, last_error=None)
    )
    return get(connection, account_id) if taken.rowcount == 1 else None


def hurry_exchange(connection: sa.Connection, account_id: str, now: datetime) -> bool:
    """Have an exchange that was put off for an error tried now. False: it is due, or somebody is trying it.

    `claim_exchange` forgets the error, and so what has one is nobody's just now.
    """
    hurried = connection.execute(
        table.update()
        .where(
            table.c.id == account_id,
            table.c.next_sealed_key.is_not(None),
            table.c.last_error.is_not(None),
            table.c.next_attempt_at > now,
        )
        .values(next_attempt_at=now)
    )
    return hurried.rowcount == 1


def put_off_exchange(connection: sa.Connection, account: StoredAccount, until: datetime, error: str | None) -> None:
    """Try again then; ``error`` says why not now."""
    connection.execute(
        table.update()
        .where(table.c.id == account.id, table.c.next_thumbprint == account.next_thumbprint)
        .values(next_attempt_at=until, last_error=error)
    )


def adopt_next_key(connection: sa.Connection, account: StoredAccount, at: datetime) -> bool:
    """The authority has the next key: it is the account's from now on. False: that was known already."""
    written = connection.execute(
        table.update()
        .where(table.c.id == account.id, table.c.thumbprint == account.thumbprint)
        .values(
            sealed_key=account.next_sealed_key,
            jwk=account.next_jwk,
            thumbprint=account.next_thumbprint,
            key_since=at,
            last_error=None,
            **_KEEPS_KEY,
        )
    )
    return written.rowcount == 1


def give_up_exchange(connection: sa.Connection, account: StoredAccount, error: str) -> None:
    """The old key stays: the authority has said that it does not have the next one and does not want it, or cannot
    be asked any more.
    """
    connection.execute(
        table.update()
        .where(table.c.id == account.id, table.c.next_thumbprint == account.next_thumbprint)
        .values(last_error=error, **_KEEPS_KEY)
    )


def exchanges_that_fail(connection: sa.Connection, limit: int) -> list[StoredAccount]:
    """Accounts whose next key is not in use because of an error."""
    wanted = sa.select(table).where(table.c.next_sealed_key.is_not(None), table.c.last_error.is_not(None))
    rows = connection.execute(wanted.order_by(table.c.authority, table.c.scope).limit(limit))
    return [StoredAccount(**row._asdict()) for row in rows]


def number_changing(connection: sa.Connection, authority: str) -> int:
    """How many of the authority's accounts wait for their next key."""
    wanted = sa.select(sa.func.count()).select_from(table)
    return connection.execute(
        wanted.where(table.c.authority == authority, table.c.next_sealed_key.is_not(None))
    ).scalar_one()


def open_challenges(connection: sa.Connection, account: StoredAccount, now: datetime) -> int:
    """How many of the account's orders may have a challenge open, whose answer is computed with its key.

    One that is only about to be ordered counts while a step of it is under way: its request may be out.
    """
    ordering = enrollment.c.state == State.ORDERING.value
    may_be_out = sa.or_(enrollment.c.order_url.is_not(None), enrollment.c.lease_until > now)
    return connection.execute(
        sa.select(sa.func.count())
        .select_from(enrollment)
        .where(
            enrollment.c.authority == account.authority,
            _ordered_with(account),
            enrollment.c.state.in_([State.ORDERING.value, *sorted(state.value for state in CHALLENGED_STATES)]),
            sa.or_(~ordering, may_be_out),
        )
    ).scalar_one()


def open_enrollments(connection: sa.Connection, account: StoredAccount) -> list[str]:
    """Ids of what was begun with the account and has not ended."""
    return list(
        connection.execute(
            sa.select(enrollment.c.id).where(
                enrollment.c.authority == account.authority,
                _ordered_with(account),
                enrollment.c.state.in_(sorted(state.value for state in OPEN_STATES)),
            )
        ).scalars()
    )


def _ordered_with(account: StoredAccount) -> sa.ColumnElement[bool]:
    ours = enrollment.c.account_id == account.id
    if account.scope:
        return ours
    # From the time when every authority had one account.
    theirs = sa.and_(enrollment.c.account_id.is_(None), enrollment.c.began_ordering_at.is_not(None))
    return sa.or_(ours, theirs)
