# SPDX-License-Identifier: GPL-3.0-or-later
"""ACME Renewal Information: when the CA wants a certificate renewed (RFC 9773 §4)."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from acme_milter.acme.network import Network
from acme_milter.acme.problem import printable

_ID = re.compile(r"[A-Za-z0-9_-]{1,200}\.[A-Za-z0-9_-]{1,200}", re.ASCII)
_SOONEST = timedelta(minutes=1)
_USUAL = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class RenewalInfo:
    """The suggested window (UTC, start before end), a page that explains it (for people, any origin), and
    the wait before asking again: Retry-After (§4.3), at least a minute, six hours when the server is silent."""

    start: datetime
    end: datetime
    explanation_url: str | None
    poll_after: timedelta


def renewal_info(network: Network, renewal_id: str) -> RenewalInfo | None:
    """Ask for the window of a certificate (unauthenticated GET); None when the server has no ARI.

    renewal_id: base64url(AKI) "." base64url(serial), RFC 9773 §4.1. Raises ValueError when it is none,
    BadAnswer for a window that ends before it starts (§4.2: treat as no answer).
    """
    if not _ID.fullmatch(renewal_id):
        raise ValueError("not a renewal id")
    base = network.directory().renewal_info
    if base is None:
        return None
    answer = network.get(f"{base.removesuffix('/')}/{renewal_id}")
    fields = answer.fields("renewalInfo")
    window = fields.nested(fields.values.get("suggestedWindow"), "suggestedWindow")
    start, end = window.time("start"), window.time("end")
    if start is None or end is None or end <= start:
        raise window.fault("end", "the window is incomplete or ends before it starts")
    explanation = fields.optional_text("explanationURL")
    return RenewalInfo(
        start=start,
        end=end,
        explanation_url=None if explanation is None else printable(explanation, 500),
        poll_after=max(answer.retry_after or _USUAL, _SOONEST),
    )
