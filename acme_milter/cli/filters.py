# SPDX-License-Identifier: GPL-3.0-or-later
"""What commands are told in options: durations such as 30d, and days such as 2026-05-04."""

import re
from datetime import UTC, datetime, timedelta

import click

_DURATION = re.compile(r"([0-9]{1,6})([hdw])\Z")
_HOURS = {"h": 1, "d": 24, "w": 7 * 24}


class DurationType(click.ParamType[timedelta]):
    """A duration in hours, days or weeks, written as in the configuration: 12h, 30d, 2w."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        match = _DURATION.match(str(value))
        if match is None:
            self.fail(f"must be a duration such as 12h, 30d or 2w (not {value!r})", param, ctx)
        return timedelta(hours=int(match[1]) * _HOURS[match[2]])


class InstantType(click.ParamType[datetime]):
    """A day, which means its first moment in UTC, or an instant: 2026-05-04, 2026-05-04T15:00+02:00."""

    name = "date"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            found = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"must be a day such as 2026-05-04, or 2026-05-04T15:00Z (not {value!r})", param, ctx)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


DURATION = DurationType()
INSTANT = InstantType()
