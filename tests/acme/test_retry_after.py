# SPDX-License-Identifier: GPL-3.0-or-later
"""Retry-After in every form a server may send it."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acme_milter.acme.retry_after import LONGEST, SHORTEST, parse_retry_after

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("0", 1),
        ("0000000000000060", 60),
        ("86401", 86400),
        ("9" * 5000, 86400),
        ("100000000000000", 86400),
        ("Sun, 22 Nov 2026 12:05:00 GMT", 300),
        ("Sunday, 22-Nov-26 12:05:00 GMT", 300),
        ("Sun Nov 22 12:05:00 2026", 300),
        ("Sun, 22 Nov 2026 14:05:00 +0200", 300),
        ("Sun, 22 Nov 2026 12:05:00 -0000", 300),
        ("Sun, 22 Nov 2026 11:00:00 GMT", 1),
        ("Mon, 01 Jan 2300 00:00:00 GMT", 86400),
    ],
)
def test_seconds_and_dates_become_a_clamped_wait(value: str, seconds: int) -> None:
    assert parse_retry_after(value, NOW) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "soon",
        "-5",
        "+5",
        "1.5",
        "1e3",
        "0x10",
        "10 s",
        "5, 10",
        "٣",
        "²",
        "NaN",
        "2026-11-22T12:00:00Z",
        "Sun, 31 Feb 2026 00:00:00 GMT",
        "Sun, 06 Nov 99999 08:49:37 GMT",
        "Sun, 22 Nov 2026 12:05:00 +9999999999",
    ],
)
def test_nonsense_is_no_wish_at_all(value: str | None) -> None:
    assert parse_retry_after(value, NOW) is None


@pytest.fixture(params=["UTC", "Asia/Kolkata", "America/St_Johns", "Pacific/Kiritimati"])
def local_zone(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = request.param
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.usefixtures("local_zone")
def test_the_zone_of_this_machine_does_not_matter() -> None:
    for value in ("Sun, 22 Nov 2026 12:05:00 GMT", "Sun Nov 22 12:05:00 2026"):
        assert parse_retry_after(value, NOW) == timedelta(minutes=5)


@given(st.text() | st.from_regex(r"\A[A-Za-z]{0,4},? ?\d{0,3} [A-Za-z]{0,4} \d{0,6} [\d:]{0,10} ?\S{0,6}\Z"))
def test_whatever_comes_the_wait_is_bounded_or_none(value: str) -> None:
    wait = parse_retry_after(value, NOW)
    assert wait is None or SHORTEST <= wait <= LONGEST
