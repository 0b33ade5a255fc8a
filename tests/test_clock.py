# SPDX-License-Identifier: GPL-3.0-or-later
"""The jump watch: what counts as a jump of the wall clock, and what only looks like one."""

from datetime import UTC, datetime, timedelta

from acme_milter.clock import Clock, JumpWatch


class TwoClocks(Clock):
    """Both stand still until told; `stops_before_now` is a pause of the process between the two readings."""

    def __init__(self) -> None:
        self.wall = datetime(2027, 1, 1, tzinfo=UTC)
        self.passed = 1000.0
        self.stops_before_now = 0.0

    def now(self) -> datetime:
        self.passes(self.stops_before_now)
        self.stops_before_now = 0.0
        return self.wall

    def monotonic(self) -> float:
        return self.passed

    def passes(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.passed += seconds


def test_time_that_passes_is_no_jump_and_a_moved_wall_clock_is_one_once() -> None:
    clock = TwoClocks()
    watch = JumpWatch(clock)
    clock.passes(86400)
    assert not watch.jumped()
    for moved in (timedelta(hours=1), timedelta(hours=-1)):
        clock.wall += moved
        assert watch.jumped()
        assert not watch.jumped()


def test_a_pause_between_the_two_readings_is_no_jump() -> None:
    clock = TwoClocks()
    watch = JumpWatch(clock)
    clock.stops_before_now = 3600
    assert not watch.jumped()
    assert not watch.jumped()
