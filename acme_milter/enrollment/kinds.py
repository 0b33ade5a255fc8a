# SPDX-License-Identifier: GPL-3.0-or-later
"""Which certificates a mailbox wants, which of them it has, and which is the next to be ordered.

One certificate that signs and encrypts, or one for each (RFC 8823 §3.3). With two there are two enrollments, one after
the other: nothing in a challenge mail names its order, so a mailbox has one open with an authority at a time.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.enrollment.model import Cause, Enrollment, State
from acme_milter.enrollment.staging import is_staging

_BOTH = frozenset({KeyUsageKind.SIGN, KeyUsageKind.ENCRYPT})
_DOES = {
    KeyUsageKind.DUAL: _BOTH,
    KeyUsageKind.SIGN: frozenset({KeyUsageKind.SIGN}),
    KeyUsageKind.ENCRYPT: frozenset({KeyUsageKind.ENCRYPT}),
}
_PREDECESSORS = {
    KeyUsageKind.DUAL: (KeyUsageKind.DUAL, KeyUsageKind.SIGN, KeyUsageKind.ENCRYPT),
    KeyUsageKind.SIGN: (KeyUsageKind.SIGN, KeyUsageKind.DUAL),
    KeyUsageKind.ENCRYPT: (KeyUsageKind.ENCRYPT, KeyUsageKind.DUAL),
}
"""What a certificate can take the place of, its own kind first."""

Held = Mapping[KeyUsageKind, Enrollment]
"""What a mailbox has in use, by what it is for."""


@dataclass(frozen=True, slots=True)
class Opening:
    """The next order: what its certificate is for, and which stored one it is to take the place of."""

    usage: KeyUsageKind
    replaces_id: str | None = None


def usages_of(layout: str) -> tuple[KeyUsageKind, ...]:
    """What the certificates of a policy's layout are for, in the order in which they are ordered."""
    return (KeyUsageKind.SIGN, KeyUsageKind.ENCRYPT) if layout == "dual" else (KeyUsageKind.DUAL,)


def covers(usages: Iterable[KeyUsageKind]) -> bool:
    """Whether whoever has these can sign and be written to, be it with one certificate or with two."""
    return _together(usages) == _BOTH


def missing(wanted: Sequence[KeyUsageKind], held: Collection[KeyUsageKind]) -> tuple[KeyUsageKind, ...]:
    """Which of the wanted kinds are still to be ordered.

    None while what there is covers: a changed layout makes nobody a mailbox without a certificate.
    """
    return () if covers(held) else tuple(usage for usage in wanted if usage not in held)


def supersedes(new: KeyUsageKind, old: KeyUsageKind, beside: Iterable[KeyUsageKind]) -> bool:
    """Whether an older certificate of one kind is over when one of another kind begins to be used.

    ``beside``: what else is in use. One that does both is over only when a signing and an encrypting one are there.
    """
    ready = _DOES[new] | _together(usage for usage in beside if usage is not KeyUsageKind.DUAL)
    return bool(_DOES[new] & _DOES[old]) and ready >= _DOES[old]


def in_use(known: Iterable[Enrollment], principals: Collection[str], authority: str | None = None) -> Held:
    """The active ones of a person, of one authority or of all that count; of each kind the newest.

    ``known``: a mailbox's enrollments, the newest first.
    """
    found: dict[KeyUsageKind, Enrollment] = {}
    for one in known:
        counts = not is_staging(one.authority) if authority is None else one.authority == authority
        if one.state is State.ACTIVE and one.principal in principals and counts:
            found.setdefault(one.usage, one)
    return found


def opening_of(wanted: Sequence[KeyUsageKind], held: Held, *, again: bool = False) -> Opening | None:
    """The first order for a mailbox: what it has not got, in the wanted kinds exactly; None when it has all.

    ``again``: from the first one on, whatever it has.
    """
    usage = next((usage for usage in wanted if again or usage not in held), None)
    return None if usage is None else Opening(usage, _replaced_id(usage, held))


def renewal_of(wanted: Sequence[KeyUsageKind], held: Held, old: KeyUsageKind, certificate_id: str) -> Opening | None:
    """The successor of a certificate: of its kind while that is wanted, else the first of the wanted ones that is not
    there; None when they all are.
    """
    if old in wanted:
        return Opening(old, certificate_id)
    usage = next((usage for usage in wanted if usage not in held), None)
    return None if usage is None else Opening(usage, certificate_id)


def renewed_at_once(wanted: Sequence[KeyUsageKind], held: Held) -> Opening | None:
    """Where a person who wants a mailbox's certificates renewed has it begin; None when there is none to renew."""
    openings = (Opening(usage, _replaced_id(usage, held)) for usage in wanted)
    return next((opening for opening in openings if opening.replaces_id is not None), None)


def turns_taken(known: Iterable[Enrollment], ended: Enrollment) -> frozenset[KeyUsageKind]:
    """What the orders were for that led to this one, each opened in the moment in which the one before it ended.

    ``known``: the mailbox's enrollments, the newest first.
    """
    began, taken = ended.opened_at, {ended.usage}
    for one in known:
        if one.state not in {State.ACTIVE, State.FAILED} or _reason(one) != _reason(ended):
            continue
        if one.opened_at <= began <= one.state_since:
            began = one.opened_at
            taken.add(one.usage)
    return frozenset(taken)


def next_of(
    wanted: Sequence[KeyUsageKind],
    ended: Enrollment,
    held: Held,
    also: str | None = None,
    taken: Collection[KeyUsageKind] = (),
) -> Opening | None:
    """What is ordered in the moment in which an enrollment has come to its end; None: nothing.

    The one after it, when it is not there, or is to be replaced as well: because a person asked for both anew, or
    because a bulk run says so (``also``, its certificate). After a success also one before it that is not there: its
    order may have failed long ago. What has had its turn (``taken``) is over, whatever came of it: what failed for good
    waits for a person or the next renewal, or two orders would follow each other for ever.
    """
    if ended.usage not in wanted:
        return None
    place = wanted.index(ended.usage)
    for usage in wanted[place + 1 :]:
        if usage in taken:
            continue
        anew = ended.cause is Cause.ASKED and ended.replaces_id is not None
        if usage not in held or anew or also is not None:
            return Opening(usage, also or _replaced_id(usage, held))
    before = wanted[:place] if ended.state is State.ACTIVE else ()
    lacking = next((usage for usage in before if usage not in held and usage not in taken), None)
    return None if lacking is None else Opening(lacking, _replaced_id(lacking, held))


def _together(usages: Iterable[KeyUsageKind]) -> frozenset[KeyUsageKind]:
    return frozenset().union(*(_DOES[usage] for usage in usages))


def _reason(enrollment: Enrollment) -> tuple[str, Cause, str | None, bool]:
    """For whom and why it was opened: what follows by itself goes on with it."""
    return enrollment.principal, enrollment.cause, enrollment.bulk_run_id, is_staging(enrollment.authority)


def _replaced_id(usage: KeyUsageKind, held: Held) -> str | None:
    found = (held[one].certificate_id for one in _PREDECESSORS[usage] if one in held)
    return next(found, None)
