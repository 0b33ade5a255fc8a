# SPDX-License-Identifier: GPL-3.0-or-later
"""A store for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fresh_store import open_store
from tests.report.story import Story


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    database = open_store(f"sqlite:///{tmp_path}/store.db")
    yield Story(database)
    database.close()
