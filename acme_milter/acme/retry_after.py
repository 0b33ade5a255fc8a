# SPDX-License-Identifier: GPL-3.0-or-later
"""When the server says "later": the Retry-After header field (RFC 9110 §10.2.3, RFC 8555 §6.6, §7.5.1)."""

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

SHORTEST = timedelta(seconds=1)
LONGEST = timedelta(hours=24)
_SECONDS = re.compile(r"[0-9]+", re.ASCII)


def parse_http_date(value: str) -> datetime | None:
    """Read an HTTP-date in any of its three forms (RFC 9110 §5.6.7); None when it is none. Aware, UTC.

    A numeric zone is accepted and honoured although HTTP knows only GMT; a date without a zone
    (asctime-date) is GMT by definition.
    """
    try:
        moment = parsedate_to_datetime(value.strip())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        # Which of these escapes for which nonsense differs between Python versions.
        return None


def parse_retry_after(value: str | None, now: datetime) -> timedelta | None:
    """Turn a Retry-After value (seconds or HTTP-date) into a wait, counted from `now` (aware).

    Returns None when the field is absent or nonsense, else a wait clamped to 1 s .. 24 h: a server
    must neither make us spin nor park an enrollment for centuries.
    """
    if value is None:
        return None
    value = value.strip()
    if _SECONDS.fullmatch(value):
        # Ten digits are more than any clamp; int() of a megabyte of digits would be work or an error.
        digits = value.lstrip("0")
        wait = LONGEST if len(digits) > 9 else timedelta(seconds=int(digits or "0"))
    else:
        moment = parse_http_date(value)
        if moment is None:
            return None
        wait = moment - now
    return min(max(wait, SHORTEST), LONGEST)
