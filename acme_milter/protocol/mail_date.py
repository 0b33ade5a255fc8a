# SPDX-License-Identifier: GPL-3.0-or-later
"""The Date field (RFC 5322 §3.3): read strictly, written in one form."""

import re
from datetime import UTC, datetime, timedelta, timezone

from acme_milter.protocol.headers import unfold

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DATE = re.compile(
    rb"(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), ?)?([0-9]{1,2}) ([A-Z][a-z]{2}) ([0-9]{4}) "
    rb"([0-9]{2}):([0-9]{2})(?::([0-9]{2}))? (?:([+-])([0-9]{2})([0-5][0-9])|GMT|UTC?|Z)(?: \([A-Za-z0-9 :+-]*\))?"
)
_MAX_OCTETS = 200


class InvalidDate(ValueError):
    """The value is not a date of the current grammar (four-digit year, numeric zone or GMT)."""

    safe_text = True


def parse_date(value: bytes) -> datetime:
    """The moment a Date value names, aware, in UTC; raises InvalidDate."""
    words = unfold(value[:_MAX_OCTETS]).split()
    match = _DATE.fullmatch(b" ".join(words))
    if match is None or len(value) > _MAX_OCTETS:
        raise InvalidDate("not a date")
    day, month, year, hour, minute, second, sign, zone_hours, zone_minutes = (
        group.decode("ascii") if group else "" for group in match.groups()
    )
    offset = timedelta(hours=int(zone_hours or 0), minutes=int(zone_minutes or 0))
    try:
        return datetime(
            int(year),
            _MONTHS.index(month) + 1,
            int(day),
            int(hour),
            int(minute),
            # A leap second is a valid time (RFC 5322 §3.3) that datetime does not know.
            min(int(second or 0), 59),
            tzinfo=timezone(-offset if sign == "-" else offset),
        ).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidDate("not a day of the calendar") from None


def format_date(moment: datetime) -> str:
    """An aware datetime as a Date value in UTC, whatever the locale: `Sat, 05 Dec 2020 10:08:55 +0000`."""
    utc = moment.astimezone(UTC)
    return (
        f"{_DAYS[utc.weekday()]}, {utc.day:02} {_MONTHS[utc.month - 1]} {utc.year:04} "
        f"{utc.hour:02}:{utc.minute:02}:{utc.second:02} +0000"
    )
