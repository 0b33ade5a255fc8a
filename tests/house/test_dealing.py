# SPDX-License-Identifier: GPL-3.0-or-later
"""The tests are dealt to several processes so that each begins with slow ones, and every one is run once."""

from types import SimpleNamespace
from typing import cast

import pytest

from tests.dealing import dealt

SLOW = [f"tests/whole_way/test_{name}.py::{number}" for name in ("crashes", "people", "years") for number in range(4)]
QUICK = [f"tests/acme/test_order.py::{number}" for number in range(63)]


def order(names: list[str], processes: int) -> list[str]:
    tests = cast("list[pytest.Item]", [SimpleNamespace(nodeid=name) for name in names])
    return [test.nodeid for test in dealt(tests, processes)]


def test_each_process_begins_with_its_share_of_the_slow_ones_and_none_is_lost() -> None:
    found = order(SLOW + QUICK, 4)
    assert sorted(found) == sorted(SLOW + QUICK)
    runs = [found[:18], found[18:37], found[37:56], found[56:]]  # 75 by four, as xdist counts
    assert [sum(name in SLOW for name in run) for run in runs] == [5, 5, 1, 1]
    assert all(run[: sum(name in SLOW for name in run)] == [name for name in run if name in SLOW] for run in runs)
    assert [name for name in found if "years" in name] == found[:4], "a file stays with one process"


def test_a_few_chosen_ones_keep_their_order() -> None:
    assert order(SLOW[3:6], 2) == SLOW[3:6]
