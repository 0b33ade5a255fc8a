# SPDX-License-Identifier: GPL-3.0-or-later
"""How long to wait before trying again."""

from datetime import timedelta

STEP_FIRST = timedelta(seconds=1)
STEP_LONGEST = timedelta(hours=1)

REORDER = (timedelta(minutes=30), timedelta(hours=2), timedelta(hours=8), timedelta(days=1))
"""Waits before the second, third, … order of a mailbox whose order died; the last one repeats.

The first is long enough for greylisting and a milter restart to be over; failing authorities are not to be pestered,
since some of them hold many failures against an account.
"""


def step_delay(attempts: int, jitter: float) -> timedelta:
    """Wait before repeating a step that failed ``attempts`` times in a row (1 for the first failure).

    ``jitter`` in [0, 1) spreads the wait over its upper half, so that a crowd does not come back together.
    """
    doublings: int = min(attempts - 1, 12)
    ceiling = min(STEP_FIRST * (1 << doublings), STEP_LONGEST)
    return ceiling * (0.5 + jitter / 2)


POLL_FIRST = timedelta(seconds=1)
POLL_LONGEST = timedelta(seconds=60)


def poll_delay(waited: timedelta) -> timedelta:
    """Wait before looking again at something the authority works on, when it names no Retry-After.

    ``waited`` is the time since we began to wait; the pause grows with it, from one second to one minute.
    """
    return min(max(POLL_FIRST, waited / 2), POLL_LONGEST)


def reorder_delay(generation: int) -> timedelta:
    """Wait before a mailbox's next order, when ``generation`` orders in a row have failed."""
    return REORDER[min(generation, len(REORDER)) - 1]


LOOK_AT_OUTBOX = timedelta(minutes=1)
"""How often an enrollment looks what has become of its reply, should nobody tell it."""
