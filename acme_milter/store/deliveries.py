# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries on deliveries: one certificate and one target each, until it is there, is over, or needs a person.

What is to be there no more is the same row's affair, see `withdrawals`.
"""

import enum
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from acme_milter.enrollment.model import State
from acme_milter.store import certificates, delivery_leases
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.delivery_rivals import BESIDE, MINE, MY_AGE, OTHER, THEIR_AGE, THEIRS
from acme_milter.store.rehearsals import in_earnest
from acme_milter.store.schema import certificate, enrollment
from acme_milter.store.schema import delivery as table


class DeliveryState(enum.StrEnum):
    """What a row's columns say together."""

    WAITING = "waiting"
    RETRYING = "retrying"  # it has failed, and is tried again by itself
    FAILED = "failed"  # it waits for a person
    DONE = "done"
    ENDED = "ended"  # it is not wanted, or not possible, any more
    WITHDRAWN = "withdrawn"  # it was there, and was taken back


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """`target` is the title of a target in the mailbox's policy, `kind` its `to`. `outcome`: where it is now, or, of
    one that was taken back, what was done.

    `withdraw_why`: it is to be there no more, for this reason; then waiting, retrying and failed tell how far that is.
    `done_at` without an outcome: it has ended, and `last_error` says why. `begun_at`: since when it may be there;
    `delivered_at`: when it was put there last; `location`: its target's, as the configuration had it then.
    `attempts`: those that were made since it was asked for, or retried by a person, the one that was done included.
    `lease_owner`: whose turn it is. Of one that was just claimed, `begun_at` and `lease_owner` are those of before:
    whose it was then, who may still be at work.
    """

    id: str
    certificate_id: str
    address: str
    target: str
    kind: str
    asked_at: datetime
    next_attempt_at: datetime | None
    attempts: int
    last_error: str | None
    done_at: datetime | None
    outcome: str | None
    lease_owner: str | None
    withdraw_why: str | None
    begun_at: datetime | None
    delivered_at: datetime | None
    location: str | None

    @property
    def state(self) -> DeliveryState:
        if self.done_at is not None and self.withdraw_why is not None:
            return DeliveryState.WITHDRAWN
        if self.done_at is not None:
            return DeliveryState.DONE if self.outcome is not None else DeliveryState.ENDED
        if self.next_attempt_at is None:
            return DeliveryState.FAILED
        return DeliveryState.WAITING if self.last_error is None else DeliveryState.RETRYING

    def begins_anew(self, *, again: bool) -> bool:
        """Whether it does when somebody asks for it: it has ended; with `again` also, where nobody is about to bring
        it, since it is there, or was taken back, or is to be.
        """
        settled_or_going = self.state is DeliveryState.DONE or self.withdraw_why is not None
        return self.state is DeliveryState.ENDED or (again and settled_or_going)


COLUMNS = [table.c[name] for name in Delivery.__dataclass_fields__]
# Written out, as the partial indexes have it.
UNDONE = sa.text("delivery.done_at IS NULL")


def ask(
    connection: sa.Connection,
    certificate_id: str,
    address: str,
    targets: Mapping[str, str],
    now: datetime,
    *,
    again: bool = False,
) -> list[str]:
    """Have the certificate delivered to each of `targets` (title → kind); returns the titles that this changed.

    What waits, has failed or is done stays as it is, and what had ended begins anew; `again` has done what is done, and
    what was taken back, or is to be.
    """
    asked = []
    known = {one.target: one for one in of_certificate(connection, certificate_id)}
    for title, kind in targets.items():
        values = {"kind": kind, "asked_at": now, "next_attempt_at": now, "attempts": 0}
        values |= {"last_error": None, "done_at": None, "outcome": None}
        before = known.get(title)
        if before is None:
            place = {"certificate_id": certificate_id, "address": address, "target": title}
            connection.execute(table.insert().values(id=uuid.uuid4().hex, **place, **values))
        elif before.begins_anew(again=again):
            values |= {"withdraw_why": None}
            if before.state is DeliveryState.WITHDRAWN:
                values |= {"delivered_at": None}
            values |= delivery_leases.disturbed(before.lease_owner, now, done=before.done_at is not None)
            connection.execute(table.update().where(table.c.id == before.id).values(**values))
        else:
            continue
        asked.append(title)
    return asked


def get(connection: sa.Connection, delivery_id: str) -> Delivery:
    """Raises sqlalchemy.exc.NoResultFound."""
    return from_row(connection.execute(sa.select(*COLUMNS).where(table.c.id == delivery_id)).one())


def of_certificate(connection: sa.Connection, certificate_id: str) -> list[Delivery]:
    rows = connection.execute(sa.select(*COLUMNS).where(table.c.certificate_id == certificate_id))
    return sorted(map(from_row, rows), key=lambda one: one.target)


def get_of(connection: sa.Connection, certificate_id: str, target: str) -> Delivery:
    """The certificate's at this target. Raises sqlalchemy.exc.NoResultFound."""
    place = sa.and_(table.c.certificate_id == certificate_id, table.c.target == target)
    return from_row(connection.execute(sa.select(*COLUMNS).where(place)).one())


def of_mailbox(connection: sa.Connection, address: str) -> list[Delivery]:
    """All of the mailbox's, whosever the certificate was, the oldest first."""
    query = sa.select(*COLUMNS).where(table.c.address == address).order_by(table.c.asked_at, table.c.target)
    return [from_row(row) for row in connection.execute(query)]


def targets_due(connection: sa.Connection, now: datetime) -> list[str]:
    """Titles of the targets that something is due for, sorted."""
    return [title for title in _titles(connection) if _any_due(connection, title, now)]


def _titles(connection: sa.Connection) -> Iterator[str]:
    """Of the targets that something undone is for: from one to the next in the index, as there are few of them."""
    title = connection.execute(sa.select(sa.func.min(table.c.target)).where(UNDONE)).scalar()
    while title is not None:
        yield title
        following = sa.select(sa.func.min(table.c.target)).where(UNDONE, table.c.target > title)
        title = connection.execute(following).scalar()


def _any_due(connection: sa.Connection, title: str, now: datetime) -> bool:
    query = sa.select(table.c.id).where(UNDONE, table.c.target == title, table.c.next_attempt_at <= now, _unleased(now))
    return connection.execute(query.limit(1)).first() is not None


def claim(connection: sa.Connection, target: str, *, owner: str, now: datetime, until: datetime) -> Delivery | None:
    """Lease the next one of the target to `owner`, a name that no other lease has; None: there is none to be had.

    Those of one mailbox go one at a time, the newest certificate last, so that it is what stays. What is to be taken
    back waits for nobody's turn, and nobody waits for its.
    """
    brought = sa.and_(table.c.withdraw_why.is_(None), OTHER.c.withdraw_why.is_(None))
    older = sa.and_(OTHER.c.next_attempt_at.is_not(None), brought, THEIR_AGE < MY_AGE)
    in_the_way = (
        sa.exists()
        .select_from(OTHER.join(THEIRS, THEIRS.c.id == OTHER.c.certificate_id))
        .where(
            OTHER.c.address == table.c.address,
            OTHER.c.target == table.c.target,
            OTHER.c.id != table.c.id,
            OTHER.c.done_at.is_(None),
            sa.or_(OTHER.c.lease_until >= now, older),
        )
    )
    found = connection.execute(
        sa.select(*COLUMNS)
        .select_from(table.join(MINE, MINE.c.id == table.c.certificate_id))
        .where(UNDONE, table.c.target == target, table.c.next_attempt_at <= now, _unleased(now), ~in_the_way)
        .order_by(table.c.next_attempt_at)
        .limit(1)
    ).first()
    if found is None:
        return None
    values = {"lease_owner": owner, "lease_until": until, "begun_at": found.begun_at or now}
    connection.execute(table.update().where(table.c.id == found.id).values(**values))
    return from_row(found)


def is_overtaken(connection: sa.Connection, delivery_id: str) -> bool:
    """Whether a newer certificate for the same use is at the target already: this one would take its place."""
    query = (
        sa.select(OTHER.c.id)
        .select_from(BESIDE)
        .where(
            table.c.id == delivery_id,
            OTHER.c.done_at.is_not(None),
            OTHER.c.outcome.is_not(None),
            OTHER.c.withdraw_why.is_(None),
            THEIRS.c.usage == MINE.c.usage,
            THEIR_AGE > MY_AGE,
        )
        .limit(1)
    )
    return connection.execute(query).first() is not None


def done(
    connection: sa.Connection,
    delivery_id: str,
    outcome: str,
    now: datetime,
    *,
    owner: str,
    overlaps_until: datetime | None = None,
) -> bool:
    """It is there. False, and nothing is changed, when the lease is another's by now, or nobody's.

    `overlaps_until`: another one may still be at work, and is taken to have ended then.
    """
    values = {"done_at": now, "outcome": outcome, "next_attempt_at": None, "last_error": None, "delivered_at": now}
    values |= {"lease_until": overlaps_until, "attempts": table.c.attempts + 1}
    return delivery_leases.end(connection, delivery_id, [owner], values, withdrawal=False)


def ended(
    connection: sa.Connection,
    delivery_id: str,
    why: str,
    now: datetime,
    *,
    owner: str,
    begun_at: datetime | None = None,
) -> bool:
    """It is over without having been delivered; otherwise as `done`. `begun_at`: as it was before this turn."""
    values = {"done_at": now, "outcome": None, "next_attempt_at": None, "last_error": why, "begun_at": begun_at}
    return delivery_leases.end(connection, delivery_id, delivery_leases.names(owner), values, withdrawal=False)


def failed(
    connection: sa.Connection,
    delivery_id: str,
    error: str,
    again: datetime | None,
    *,
    owner: str,
    overlaps: bool = False,
    withdrawal: bool = False,
) -> bool:
    """It did not work, and is tried `again` then; None: when a person says so. Otherwise as `done`; `overlaps`:
    another one may still be at work.
    """
    values = {"attempts": table.c.attempts + 1, "last_error": error, "next_attempt_at": again}
    values |= {"lease_owner": owner if overlaps else None}
    return delivery_leases.end(connection, delivery_id, delivery_leases.names(owner), values, withdrawal=withdrawal)


def retry(connection: sa.Connection, ids: Collection[str], now: datetime) -> int:
    """Try these again at once that have failed, given up or not; returns how many that were."""
    if not ids:
        return 0
    changed = connection.execute(
        table.update()
        .where(table.c.id.in_(ids), table.c.done_at.is_(None), table.c.last_error.is_not(None), _unleased(now))
        .values(next_attempt_at=now, attempts=0, last_error=None)
    )
    return changed.rowcount


def in_use(connection: sa.Connection, address: str, principal: str) -> list[StoredCertificate]:
    """The newest certificate in use for each kind of use that this person has for the mailbox, the oldest first;
    a rehearsal's is in nobody's use.
    """
    rows = connection.execute(
        sa.select(certificate.c.id)
        .join(enrollment, certificates.ITS_ENROLLMENT)
        .where(
            certificate.c.address == address,
            certificate.c.principal == principal,
            enrollment.c.state == State.ACTIVE.value,
            in_earnest(certificate.c.authority),
        )
        .order_by(certificate.c.stored_at, certificate.c.id)
    )
    newest = {found.usage: found for found in (certificates.get(connection, row.id) for row in rows)}
    return sorted(newest.values(), key=lambda one: (one.stored_at, one.id))


def _unleased(now: datetime) -> sa.ColumnElement[bool]:
    return sa.or_(table.c.lease_until.is_(None), table.c.lease_until < now)


def from_row(row: sa.Row[tuple[object, ...]]) -> Delivery:
    """Of a row of COLUMNS."""
    return Delivery(**row._asdict())
