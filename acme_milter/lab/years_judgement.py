# SPDX-License-Identifier: GPL-3.0-or-later
"""The judgement on a run of years: what the store says by SQL of its own, held against the people and the CA's books.

It shares no query with the product, so that a mistake there cannot excuse itself here.
"""

import itertools
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from acme_milter.lab.years_evidence import Evidence, Span
from acme_milter.lab.years_people import Person

SOURCE = "people"
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
FIRST_CERTIFICATE = 2 * DAY
"""So long after joining somebody may be without a certificate."""

AFTERMATH = DAY
"""An outage may keep things back for so long after its end."""

OPEN = ("planned", "ordering", "awaiting-mail", "replying", "replied", "validating", "finalizing", "issued")
SHOWN = 12


@dataclass(frozen=True, slots=True)
class Finding:
    """One promise, whether it was kept, the figures, and who or what is concerned where it was not."""

    promise: str
    kept: bool
    figures: str
    offenders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Certificate:
    """`usable` is when the store had it and it counted, `ends` when it stopped counting: its end, or its revocation."""

    id: str
    address: str
    principal: str
    serial: str
    usable: datetime
    ends: datetime
    not_after: datetime
    state: str


def judge(store: Path, evidence: Evidence) -> list[Finding]:
    """Every promise of a run; `store` is the SQLite file that it left."""
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
        certificates = _certificates(connection)
        return [
            _no_gap(certificates, evidence),
            *_pace(connection, evidence),
            _leavers(certificates, evidence),
            _nothing_left_open(connection, evidence),
            _keys(connection),
            _one_active(certificates),
            _same_books(certificates, evidence),
            _nothing_waits(connection, evidence),
        ]


def _instant(microseconds: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds)


def _micros(instant: datetime) -> int:
    return (instant - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)


def _certificates(connection: sqlite3.Connection) -> list[Certificate]:
    rows = connection.execute(
        """
        SELECT c.id, c.address, c.principal, c.serial, max(c.not_before, c.stored_at),
               min(c.not_after, coalesce(r.done_at, c.not_after)), c.not_after, e.state
        FROM certificate c JOIN enrollment e ON e.id = c.enrollment_id
        LEFT JOIN revocation r ON r.certificate_id = c.id
        ORDER BY 5
        """
    )
    return [
        Certificate(id_, address, principal, serial, _instant(usable), _instant(ends), _instant(not_after), state)
        for id_, address, principal, serial, usable, ends, not_after, state in rows
    ]


def _by_person(certificates: Iterable[Certificate]) -> Mapping[tuple[str, str], list[Certificate]]:
    found: dict[tuple[str, str], list[Certificate]] = defaultdict(list)
    for certificate in certificates:
        found[certificate.address, certificate.principal].append(certificate)
    return found


def _no_gap(certificates: Sequence[Certificate], evidence: Evidence) -> Finding:
    mine = _by_person(certificates)
    offenders: list[str] = []
    least: timedelta | None = None
    judged = 0
    for person in evidence.people:
        span = _must_have(person, evidence)
        if span is None:
            continue
        judged += 1
        own = mine[person.address, f"{SOURCE}:{person.id}"]
        offenders += [f"{person.address} ({person.id}): {gap}" for gap in _gaps(own, span)]
        for older, newer in itertools.pairwise(own):
            left = older.not_after - newer.usable
            least = left if least is None else min(least, left)
    figures = f"{judged} people; renewed with {_days(least)} left at the least" if least is not None else f"{judged}"
    return Finding("nobody was without a valid certificate", not offenders, figures, tuple(offenders))


def _must_have(person: Person, evidence: Evidence) -> Span | None:
    """When somebody must have a certificate; None for those who were not there long enough."""
    begin = evidence.moment(person.joined) + FIRST_CERTIFICATE if person.joined else evidence.first_issue.end
    end = evidence.span.end if person.left is None else evidence.moment(person.left)
    unlucky = Span(evidence.outage.begin - FIRST_CERTIFICATE, evidence.outage.end)
    if person.joined and unlucky.holds(evidence.moment(person.joined)):
        begin = max(begin, evidence.outage.end + FIRST_CERTIFICATE)  # nobody could have given them one
    return Span(begin, end) if begin < end else None


def _gaps(own: Sequence[Certificate], span: Span) -> Iterator[str]:
    """Where the certificates, put together, leave part of the span uncovered."""
    covered = span.begin
    for certificate in own:  # by their beginnings
        if certificate.ends <= covered:
            continue
        if certificate.usable > covered:
            if certificate.usable >= span.end:
                break
            yield f"none from {covered:%Y-%m-%d %H:%M} to {certificate.usable:%Y-%m-%d %H:%M}"
        covered = certificate.ends
        if covered >= span.end:
            return
    if covered < span.end:
        yield f"none from {covered:%Y-%m-%d %H:%M} on"


def _pace(connection: sqlite3.Connection, evidence: Evidence) -> list[Finding]:
    begun = connection.execute("SELECT began_ordering_at FROM enrollment WHERE began_ordering_at IS NOT NULL")
    placed = (datetime.fromisoformat(order["created"]) for order in evidence.orders)
    return [
        _peak("orders begun an hour, as the store has them", (_instant(row[0]) for row in begun), evidence),
        _peak("orders placed an hour, as the CA has them", placed, evidence),
    ]


def _peak(what: str, instants: Iterable[datetime], evidence: Evidence) -> Finding:
    """At most twice the mean in any hour of the clock outside the first issue and the replacement."""
    hours = Counter(instant.replace(minute=0, second=0, microsecond=0) for instant in instants)
    counted = Counter({hour: number for hour, number in hours.items() if _is_ordinary(hour, evidence)})
    number_of_hours = sum(1 for hour in _hours(evidence.span) if _is_ordinary(hour, evidence))
    mean = counted.total() / number_of_hours
    hour, peak = max(counted.items(), key=lambda item: item[1], default=(evidence.span.begin, 0))
    figures = f"mean {mean:.3f}, peak {peak}"
    if 2 * mean < 1:  # then a single order is too many, and the rule says nothing
        return Finding(f"{what}: too few to judge", True, figures)
    offenders = [f"{hour:%Y-%m-%d %H}h: {count}" for hour, count in sorted(counted.items()) if count > 2 * mean]
    return Finding(
        f"{what}: at most twice the mean", not offenders, f"{figures} ({hour:%Y-%m-%d %H}h)", tuple(offenders)
    )


def _hours(span: Span) -> Iterator[datetime]:
    hour = span.begin.replace(minute=0, second=0, microsecond=0) + HOUR
    while hour + HOUR <= span.end:
        yield hour
        hour += HOUR


def _is_ordinary(hour: datetime, evidence: Evidence) -> bool:
    """A whole hour of the run in which no bulk went out."""
    if hour < evidence.span.begin or hour + HOUR > evidence.span.end:
        return False
    return all(hour + HOUR <= bulk.begin or hour >= bulk.end for bulk in (evidence.first_issue, evidence.replacement))


def _leavers(certificates: Sequence[Certificate], evidence: Evidence) -> Finding:
    """What somebody who left still had must be revoked, by the CA's own books, within the grace time and a day."""
    revoked = {one["serial"]: one["revoked"] for one in evidence.certificates if one["revoked"] is not None}
    mine = _by_person(certificates)
    offenders = []
    leavers = [person for person in evidence.people if person.left is not None]
    judged = 0
    for person in leavers:
        assert person.left is not None
        deadline = evidence.moment(person.left) + evidence.grace + DAY
        if evidence.outage.begin <= deadline < evidence.outage.end + AFTERMATH:
            deadline = evidence.outage.end + AFTERMATH
        if deadline > evidence.span.end:
            continue
        for certificate in mine[person.address, f"{SOURCE}:{person.id}"]:
            if certificate.not_after <= deadline:
                continue
            judged += 1
            done = revoked.get(certificate.serial)
            if done is None or datetime.fromisoformat(done) > deadline:
                offenders.append(f"{person.address} ({person.id}): serial {certificate.serial}, {done or 'never'}")
    figures = f"{len(leavers)} left, {judged} certificates of theirs"
    return Finding("what leavers had is revoked in time", not offenders, figures, tuple(offenders))


def _nothing_left_open(connection: sqlite3.Connection, evidence: Evidence) -> Finding:
    marks = ", ".join("?" for _ in OPEN)
    rows = connection.execute(
        f"SELECT address, state, coalesce(last_error, '') FROM enrollment WHERE state IN ({marks}) AND opened_at < ?",  # noqa: S608 -- question marks
        (*OPEN, _micros(evidence.span.end - DAY)),
    )
    offenders = [f"{address}: {state} {error}".rstrip() for address, state, error in rows]
    failed = _count(connection, "SELECT count(*) FROM enrollment WHERE state = 'failed'")
    cancelled = _count(connection, "SELECT count(*) FROM enrollment WHERE state = 'cancelled'")
    figures = f"{failed} orders failed and {cancelled} were cancelled on the way"
    return Finding("no enrollment is open for more than a day", not offenders, figures, tuple(offenders))


def _keys(connection: sqlite3.Connection) -> Finding:
    keys = _count(connection, "SELECT count(*) FROM mailbox_key")
    used = _count(connection, "SELECT count(DISTINCT key_id) FROM enrollment")
    orders = _count(connection, "SELECT count(*) FROM enrollment WHERE began_ordering_at IS NOT NULL")
    strangers = connection.execute(
        "SELECT e.address, e.principal FROM enrollment e JOIN mailbox_key k ON k.id = e.key_id"
        " WHERE k.principal <> e.principal"
    )
    offenders = [f"{address}: a key of somebody else than {principal}" for address, principal in strangers]
    kept = keys == used == orders and not offenders
    return Finding(
        "every order has a key of its own, its person's", kept, f"{keys} keys, {orders} orders", tuple(offenders)
    )


def _one_active(certificates: Sequence[Certificate]) -> Finding:
    states = Counter(certificate.state for certificate in certificates)
    active = Counter(certificate.address for certificate in certificates if certificate.state == "active")
    offenders = [f"{address}: {number} active" for address, number in active.items() if number > 1]
    known = {"active", "superseded", "revoked", "expired"}
    offenders += [f"{one.address}: {one.state}" for one in certificates if one.state not in known]
    figures = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    return Finding("a mailbox has one active certificate, the others are superseded or over", not offenders, figures,
                   tuple(offenders))  # fmt: skip


def _same_books(certificates: Sequence[Certificate], evidence: Evidence) -> Finding:
    ours = Counter(certificate.serial for certificate in certificates)
    theirs = Counter(str(one["serial"]) for one in evidence.certificates)
    forgotten = [f"serial {serial} is in the CA's books alone" for serial in theirs - ours]
    invented = [f"serial {serial} is in the store alone" for serial in ours - theirs]
    figures = f"{theirs.total()} issued, {ours.total()} stored"
    return Finding("the store has every certificate that the CA issued", not forgotten and not invented, figures,
                   tuple(forgotten + invented))  # fmt: skip


def _nothing_waits(connection: sqlite3.Connection, evidence: Evidence) -> Finding:
    """No guard has stopped anything, and no revocation is overdue."""
    offenders = [f"hold {name}: {reason}" for name, reason in connection.execute("SELECT name, reason FROM hold")]
    overdue = connection.execute(
        "SELECT r.certificate_id, coalesce(r.last_error, '') FROM revocation r"
        " JOIN certificate c ON c.id = r.certificate_id"
        " WHERE r.done_at IS NULL AND r.asked_at < ? AND c.not_after > ?",
        (_micros(evidence.span.end - DAY), _micros(evidence.span.end)),
    )
    offenders += [f"revocation of certificate {name}: {error}" for name, error in overdue]
    done = _count(connection, "SELECT count(*) FROM revocation WHERE done_at IS NOT NULL")
    return Finding("no guard and no revocation waits", not offenders, f"{done} revoked", tuple(offenders))


def _count(connection: sqlite3.Connection, query: str) -> int:
    return int(connection.execute(query).fetchone()[0])


def _days(span: timedelta) -> str:
    return f"{span / DAY:.1f} days"


def show(findings: Sequence[Finding], say: Callable[[str], None]) -> bool:
    """Say every finding, with those concerned where a promise was broken; True when all were kept."""
    for finding in findings:
        say(f"  {'kept  ' if finding.kept else 'BROKEN'}  {finding.promise}: {finding.figures}")
        for offender in finding.offenders[:SHOWN]:
            say(f"            {offender}")
        if len(finding.offenders) > SHOWN:
            say(f"            and {len(finding.offenders) - SHOWN} more")
    return all(finding.kept for finding in findings)
