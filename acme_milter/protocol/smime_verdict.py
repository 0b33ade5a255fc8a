# SPDX-License-Identifier: GPL-3.0-or-later
"""What S/MIME says of a challenge mail (RFC 8823 §3.1 items 6 and 7), and whether its times fit the order."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from acme_milter.protocol.faults import MailFault, MailRefused

CLOCK_SLOP = timedelta(seconds=300)
AGE_SLOP = timedelta(minutes=10)
_DOUBTS = frozenset({MailFault.SMIME_BUSY, MailFault.SMIME_TRUST_UNREADABLE})


@dataclass(frozen=True, slots=True)
class SmimeVerdict:
    """`fault` and `detail` explain anything but a pass.

    `signer` is the serial number of the signer's certificate in hexadecimal and `protection` the RFC that its header
    protection follows, both of a pass only; `dated` is False where nothing that is signed says when it was made.
    """

    fault: MailFault | None
    detail: str
    signer: str = ""
    protection: str = ""
    dated: bool = True

    @property
    def passed(self) -> bool:
        """Whether the mail is proven."""
        return self.fault is None

    @property
    def doubtful(self) -> bool:
        """Whether trying again may help."""
        return self.fault in _DOUBTS


def check_smime_times(
    *,
    signed: datetime | None,
    written: datetime | None,
    written_is_protected: bool,
    now: datetime,
    not_before: datetime | None,
) -> bool:
    """Whether the mail is of our time, as for DKIM; raises MailRefused. Return whether a signed time says so.

    `signed` is the signing time among the signed attributes, `written` the Date, `not_before` when the order was
    created: ten minutes before it is the oldest that either may be, so that no old mail can be replayed. A Date that
    is not protected keeps out what was merely late; against a replay it says nothing.
    """
    known = [(name, at) for name, at in (("signing time", signed), ("Date", written)) if at is not None]
    if not known and not_before is not None:
        raise MailRefused(MailFault.SMIME_TIME, "neither Date nor a signing time says when it was made")
    for name, at in known:
        if at > now + CLOCK_SLOP and name == "signing time":
            raise MailRefused(MailFault.SMIME_TIME, "the signing time is in the future")
        if not_before is not None and at < not_before - AGE_SLOP:
            raise MailRefused(MailFault.SMIME_TIME, f"the {name} is before the order was made")
    return signed is not None or (written is not None and written_is_protected)
