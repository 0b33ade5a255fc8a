# SPDX-License-Identifier: GPL-3.0-or-later
"""Which tests a process begins with, where several share them."""

from collections.abc import Sequence
from itertools import groupby

import pytest

_SLOW = "tests/whole_way/"
_APART = f"{_SLOW}test_crashes.py"  # each of its tests builds a laboratory of its own
_LONGEST = tuple(f"{_SLOW}test_{name}.py" for name in ("failover", "years", "departure", "bulk", "behaviours"))


def dealt(tests: Sequence[pytest.Item], processes: int) -> list[pytest.Item]:
    """The same tests in another order: xdist gives each process an equal run of them, and each begins with its share of
    the slow ones. So what one takes from another at the end is short, and nobody waits for a long last test.
    """
    sizes = [len(tests) // processes] * processes  # as xdist's worksteal does it: the last ones have one more
    for number in range(len(tests) % processes):
        sizes[-1 - number] += 1
    hands: list[list[pytest.Item]] = [[] for _ in range(processes)]
    # A file at a time, since its tests share what they have started.
    for number, together in enumerate(sorted(_together(tests), key=_turn)):
        hands[number % processes] += together
    if any(len(hand) > size for hand, size in zip(hands, sizes, strict=True)):
        return list(tests)  # a few, that somebody has chosen
    quick = iter([test for test in tests if not test.nodeid.startswith(_SLOW)])
    for hand, size in zip(hands, sizes, strict=True):
        hand.extend(next(quick) for _ in range(size - len(hand)))
    return [test for hand in hands for test in hand]


def _together(tests: Sequence[pytest.Item]) -> list[list[pytest.Item]]:
    slow = [test for test in tests if test.nodeid.startswith(_SLOW)]
    return [list(one) for _, one in groupby(slow, lambda test: test.nodeid if _is_apart(test) else _file(test))]


def _turn(together: Sequence[pytest.Item]) -> tuple[bool, bool]:
    return _file(together[0]) not in _LONGEST, not _is_apart(together[0])


def _file(test: pytest.Item) -> str:
    return test.nodeid.partition("::")[0]


def _is_apart(test: pytest.Item) -> bool:
    return _file(test) == _APART
