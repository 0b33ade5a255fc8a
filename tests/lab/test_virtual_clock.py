# SPDX-License-Identifier: GPL-3.0-or-later
"""The virtual clock: both times move together, and nobody sees a moment that others have not reached yet."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from acme_milter.clock import JumpWatch
from acme_milter.lab.virtual_clock import VirtualClock

YEAR = timedelta(days=365)
NEAR = timedelta(minutes=5)


def test_it_begins_as_the_machine_and_is_ahead_afterwards() -> None:
    clock = VirtualClock()
    assert abs(clock.now() - datetime.now(UTC)) < NEAR
    before = clock.monotonic()
    clock.advance(YEAR)
    assert abs(clock.now() - datetime.now(UTC) - YEAR) < NEAR
    assert clock.monotonic() - before >= YEAR.total_seconds()


def test_time_that_passes_is_no_jump() -> None:
    clock = VirtualClock()
    watch = JumpWatch(clock)
    clock.advance(YEAR)
    assert not watch.jumped()


def test_it_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="does not go back"):
        VirtualClock().advance(timedelta(seconds=-1))


def test_a_follower_has_the_new_time_before_anybody_can_read_it() -> None:
    clock = VirtualClock()
    told: list[float] = []
    read: list[datetime] = []
    reader = threading.Thread(target=lambda: read.append(clock.now()))

    def follower(ahead: float) -> None:
        if ahead:
            reader.start()
            reader.join(0.2)
            assert read == []  # it waits
        told.append(ahead)

    clock.follow(follower)
    clock.advance(YEAR)
    reader.join()
    assert told == [0, YEAR.total_seconds()]
    assert abs(read[0] - datetime.now(UTC) - YEAR) < NEAR


def test_a_follower_that_cannot_follow_keeps_everybody_back() -> None:
    clock = VirtualClock()

    def follower(ahead: float) -> None:
        if ahead:
            raise OSError("gone")

    clock.follow(follower)
    with pytest.raises(OSError, match="gone"):
        clock.advance(YEAR)
    assert abs(clock.now() - datetime.now(UTC)) < NEAR
