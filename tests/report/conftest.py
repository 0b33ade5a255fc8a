# SPDX-License-Identifier: GPL-3.0-or-later
"""A store for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from acme_milter.store.database import Database
from tests.report.story import Story


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    database = Database(f"sqlite:///{tmp_path}/store.db")
    database.upgrade()
    yield Story(database)
    database.close()
