# SPDX-License-Identifier: GPL-3.0-or-later
"""What has changed since a source was last read, and which of it is too much to be believed without asking. Pure.

A source that lies must never look like everybody leaving: what a guard stops is taken out of the difference, the rest
of it counts. See docs/leavers.md.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from acme_milter.config.policy import SafetyPolicy
from acme_milter.mailboxes.entry import Entry
from acme_milter.mailboxes.left_out import left_out
from acme_milter.mailboxes.record import CameAs
from acme_milter.mailboxes.source import Reading
from acme_milter.store.mailboxes import StoredMailbox
from acme_milter.store.source_runs import LeftOut

A_FEW = 3
"""Mailboxes that may go at once however small the share, unless they are more than half of the source."""

WITHIN = timedelta(days=1)
"""Losses are added up over so long: a source that forgets a tenth each hour is no better than one that is halved."""

SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the configuration says of one source. ``exclusion``: why an entry is not wanted, None when it is.
    ``configured``: whether a known mailbox's domain and source still are. ``grace``: how long it may be missing.
    """

    exclusion: Callable[[Entry], str | None]
    configured: Callable[[StoredMailbox], bool]
    grace: Callable[[StoredMailbox], timedelta]
    safety: SafetyPolicy


@dataclass(frozen=True, slots=True)
class Stop:
    """A guard's objection. ``name`` is the hold's, ``size`` how many mailboxes it is about."""

    name: str
    reason: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Rows as they are to be stored. ``joined`` are new, ``rejoined`` had left, ``returned`` were missing, ``changed``
    have another name, group or source, ``let_through`` had been waiting. ``moved`` belong to another person now:
    (before, after). ``respelled`` is (known spelling, the source's). ``number`` is of wanted mailboxes. ``left_out``
    counts what is ``excluded`` or ``rejected`` and has no row.
    """

    source: str
    number: int
    joined: tuple[StoredMailbox, ...] = ()
    rejoined: tuple[StoredMailbox, ...] = ()
    returned: tuple[StoredMailbox, ...] = ()
    changed: tuple[StoredMailbox, ...] = ()
    let_through: tuple[StoredMailbox, ...] = ()
    missing: tuple[StoredMailbox, ...] = ()
    left: tuple[StoredMailbox, ...] = ()
    moved: tuple[tuple[StoredMailbox, StoredMailbox], ...] = ()
    respelled: tuple[tuple[str, str], ...] = ()
    excluded: tuple[tuple[str, str], ...] = ()
    rejected: tuple[tuple[str, str], ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    remarks: tuple[str, ...] = ()
    stops: tuple[Stop, ...] = ()

    def without(self, held: Collection[str]) -> "Difference":
        """What remains when these holds, by name, are not released."""
        rest = self
        if {change_hold(self.source), leavers_hold(self.source)} & set(held):
            rest = rest.without_losses()
        if new_hold(self.source) in held:
            rest = dataclasses.replace(
                rest, joined=_waiting(rest.joined), rejoined=_waiting(rest.rejoined), let_through=()
            )
        return rest

    def without_losses(self) -> "Difference":
        """Nobody goes, those who are missing already neither: who lists too few is not believed at all."""
        return dataclasses.replace(self, missing=(), moved=(), left=())

    @property
    def rows(self) -> tuple[StoredMailbox, ...]:
        """Everything to be stored, but for the spelling."""
        after = tuple(row for _, row in self.moved)
        kept = (*self.returned, *self.changed, *self.let_through, *self.missing, *self.left)
        return (*self.joined, *self.rejoined, *kept, *after)


def _waiting(rows: tuple[StoredMailbox, ...]) -> tuple[StoredMailbox, ...]:
    return tuple(dataclasses.replace(row, came_as=CameAs.WAITING) for row in rows)


def change_hold(source: str) -> str:
    return f"source-change:{source}"


def leavers_hold(source: str) -> str:
    return f"leavers:{source}"


def new_hold(source: str) -> str:
    return f"new:{source}"


@dataclass(slots=True)
class _Changes:
    joined: list[StoredMailbox] = field(default_factory=list)
    rejoined: list[StoredMailbox] = field(default_factory=list)
    returned: list[StoredMailbox] = field(default_factory=list)
    changed: dict[str, StoredMailbox] = field(default_factory=dict)
    moved: list[tuple[StoredMailbox, StoredMailbox]] = field(default_factory=list)
    respelled: list[tuple[str, str]] = field(default_factory=list)


def difference(
    source: str, reading: Reading, known: Mapping[str, StoredMailbox], rules: Rules, now: datetime, *, first: bool
) -> Difference:
    """Compare one reading with what is ``known``: the source's own rows, and others' at the addresses that were read,
    by folded address. ``first``: the source was never read to the end before, so whom it lists was there all along.
    """
    excluded: list[tuple[str, str]] = []
    listed: dict[str, Entry] = {}
    for entry in reading.entries:
        reason = rules.exclusion(entry)
        if reason is None:
            listed[entry.address.lower()] = entry
        else:
            excluded.append((entry.address, reason))
    changes = _Changes()
    # A domain's first day counts like the source's: nobody wants hundreds of orders for having added a domain.
    settled = set() if first else {row.domain for row in known.values() if row.source == source}
    whose: dict[str, str] = {}
    for folded, entry in sorted(listed.items(), key=lambda each: each[1].alias_of is not None):
        came_as = CameAs.JOINER if entry.address.rpartition("@")[2] in settled else CameAs.IMPORT
        main = None if entry.alias_of is None else whose.get(entry.alias_of.lower())
        whose[folded] = _compare(source, entry, known.get(folded), main, rules, now, came_as, changes)
    own = [row for row in known.values() if row.source == source and row.left_at is None]
    # A record that could not be used is still the source's word that the mailbox is there.
    spoken = listed.keys() | {text.strip().lower() for text, _ in reading.rejected}
    gone = [row for row in own if row.is_present and row.folded not in spoken]
    absent = [row for row in own if row.missing_since is not None and row.folded not in spoken]
    waiting = [row for row in own if row.is_present and row.came_as == CameAs.WAITING and row.folded in listed]
    present = sum(row.is_present for row in own)
    lately = _lost_since(now - WITHIN, [row for row in known.values() if row.source == source], listed)
    stops = [
        *_loss_guard(source, present, gone, changes.moved, lately, rules, empty=not listed),
        *_growth_guard(source, [*changes.joined, *changes.rejoined], waiting, rules.safety, first=first),
    ]
    let_through = [dataclasses.replace(changes.changed.pop(row.folded, row), came_as=CameAs.JOINER) for row in waiting]
    return Difference(
        source=source,
        number=len(listed),
        joined=tuple(changes.joined),
        rejoined=tuple(changes.rejoined),
        returned=tuple(changes.returned),
        changed=tuple(changes.changed.values()),
        let_through=tuple(let_through),
        missing=tuple(dataclasses.replace(row, missing_since=now) for row in gone),
        left=tuple(dataclasses.replace(row, left_at=now) for row in absent if _grace_is_over(row, rules, now)),
        moved=tuple(changes.moved),
        respelled=tuple(changes.respelled),
        excluded=tuple(excluded),
        rejected=reading.rejected,
        remarks=reading.remarks,
        left_out=left_out(source, excluded, reading.rejected, known),
        stops=tuple(stops),
    )


def _compare(
    source: str,
    entry: Entry,
    row: StoredMailbox | None,
    main: str | None,
    rules: Rules,
    now: datetime,
    came_as: CameAs,
    changes: _Changes,
) -> str:
    """Note what is new of a mailbox, and return whose keys its keys are from then on. For an alias that is, as a rule,
    ``main``: whose those of its mailbox are.
    """
    if row is None:
        changes.joined.append(_new_row(source, entry, main or entry.principal(source), came_as, now))
        return changes.joined[-1].principal
    takes_over = row.source != source
    if takes_over and row.is_present and rules.configured(row):
        return row.principal  # two sources list it: it stays with the one that had it first
    if row.left_at is not None:
        principal = main or _principal_after(source, entry, row, now)
        changes.rejoined.append(_new_row(source, entry, principal, CameAs.JOINER, now))
        return principal
    if not takes_over and _is_another_s(row, entry):
        after = _new_row(source, entry, main or entry.principal(source), CameAs.JOINER, now)
        changes.moved.append((row, dataclasses.replace(after, handed_over_at=now)))
        return after.principal
    # Nobody can tell whether another source means the same person, so it does; and one who is known from now on is
    # taken for the one who was there all the time. The principal stays: keys are sealed for it.
    after = dataclasses.replace(
        row,
        source=source,
        person_id=entry.id or (None if takes_over else row.person_id),
        person_name=entry.name,
        groups=entry.groups,
        missing_since=None,
        aliases=entry.aliases,
        alias_of=entry.alias_of,
    )
    if row.missing_since is not None and not takes_over:
        changes.returned.append(after)
    elif after != row:
        changes.changed[row.folded] = after
    if entry.address != row.address:
        changes.respelled.append((row.address, entry.address))
    return after.principal


def _is_another_s(row: StoredMailbox, entry: Entry) -> bool:
    """Whether it belongs to another person than before. Where none is known by name, an alias is whose its mailbox is,
    and what becomes an alias, or another mailbox's, has to be taken for somebody else's.
    """
    if row.person_id is not None and entry.id is not None:
        return row.person_id != entry.id
    return (row.alias_of or "").lower() != (entry.alias_of or "").lower()


def _new_row(source: str, entry: Entry, principal: str, came_as: CameAs, now: datetime) -> StoredMailbox:
    return StoredMailbox(
        address=entry.address,
        folded=entry.address.lower(),
        domain=entry.address.rpartition("@")[2],
        source=source,
        principal=principal,
        person_id=entry.id,
        person_name=entry.name,
        groups=entry.groups,
        came_as=came_as,
        first_seen_at=now,
        aliases=entry.aliases,
        alias_of=entry.alias_of,
    )


def _principal_after(source: str, entry: Entry, before: StoredMailbox, now: datetime) -> str:
    """T30: whose keys are those of a mailbox that had left and is there again. Its old keys are only for a person who
    is known to be the same one; where nobody is known, it has to be taken for somebody else.
    """
    if entry.id is None:
        return f"{entry.address}#{now:%Y-%m-%dT%H:%M:%SZ}"
    same = before.source == source and before.person_id == entry.id
    return before.principal if same else entry.principal(source)


def _grace_is_over(row: StoredMailbox, rules: Rules, now: datetime) -> bool:
    # Two readings at least, whatever the grace: another source may bring it in between.
    return row.missing_since is not None and row.missing_since < now and row.missing_since + rules.grace(row) <= now


def allowed_losses(known: int, share: float) -> int:
    """How many of so many known mailboxes may go in one reading. One person must not trip a small source, so it is a
    few, up to half of it; a share of 0 allows none.
    """
    return 0 if share == 0 else max(int(known * share), min(A_FEW, known // 2))


def _lost_since(
    moment: datetime, own: list[StoredMailbox], listed: Collection[str]
) -> tuple[list[StoredMailbox], set[str]]:
    """What went in earlier readings since the moment: who is not there any more, and addresses that changed hands."""
    gone = [
        row for row in own if row.missing_since is not None and row.missing_since > moment and row.folded not in listed
    ]
    return gone, {row.folded for row in own if row.handed_over_at is not None and row.handed_over_at > moment}


def _loss_guard(
    source: str,
    present: int,
    gone: list[StoredMailbox],
    moved: list[tuple[StoredMailbox, StoredMailbox]],
    lately: tuple[list[StoredMailbox], set[str]],
    rules: Rules,
    *,
    empty: bool,
) -> list[Stop]:
    size = len(gone) + len(moved)
    if size == 0:
        return []
    said = f"{len(gone)} of {present} mailboxes of {source} are gone" if gone else f"of {present} mailboxes of {source}"
    if moved:
        said += f"{', ' if gone else ' '}{len(moved)} belong to another person"
    said += f" ({_examples([*gone, *(row for row, _ in moved)])})"
    unconfigured = sum(not rules.configured(row) for row in gone)
    if empty:
        return [Stop(change_hold(source), f"{said}: it lists none that is wanted any more", size)]
    if unconfigured:
        return [
            Stop(change_hold(source), f"{said}: {unconfigured} because the configuration does not name them now", size)
        ]
    gone_before, handed_over = lately
    twice = [row for row, _ in moved if row.folded in handed_over]
    if twice:
        return [Stop(change_hold(source), f"{said}: {len(twice)} of them a second time within a day", size)]
    before = len(gone_before) + len(handed_over)
    said += f", {before} more within a day before" if before else ""
    allowed = allowed_losses(present + len(gone_before), rules.safety.max_source_change)
    if size + before > allowed:
        return [Stop(change_hold(source), f"{said}: more than {allowed} (safety.max_source_change)", size)]
    if size > rules.safety.max_leavers_per_run:
        most = rules.safety.max_leavers_per_run
        return [Stop(leavers_hold(source), f"{said}: more than {most} (safety.max_leavers_per_run)", size)]
    return []


def _growth_guard(
    source: str, joined: list[StoredMailbox], waiting: list[StoredMailbox], safety: SafetyPolicy, *, first: bool
) -> list[Stop]:
    coming = [row for row in joined if row.came_as == CameAs.JOINER] + waiting
    if first or len(coming) <= safety.max_new_per_run:
        return []
    reason = f"{len(coming)} new mailboxes of {source} ({_examples(coming)}): more than {safety.max_new_per_run}"
    return [Stop(new_hold(source), f"{reason} (safety.max_new_per_run)", len(coming))]


def _examples(rows: list[StoredMailbox]) -> str:
    shown = ", ".join(row.address for row in rows[:SHOWN])
    return shown if len(rows) <= SHOWN else f"{shown}, …"
