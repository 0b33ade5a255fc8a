# SPDX-License-Identifier: GPL-3.0-or-later
"""Directories that certificates are delivered to."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from acme_milter.lab.slapd import SlapdLab
from tests.delivery.ldap_site import Site, start


@pytest.fixture(scope="module")
def slapd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlapdLab]:
    with start(tmp_path_factory.mktemp("slapd") / "lab") as server:
        yield server


@pytest.fixture(scope="module")
def active_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlapdLab]:
    with start(tmp_path_factory.mktemp("ad") / "lab", active_directory=True) as server:
        yield server


@pytest.fixture
def site(slapd: SlapdLab, tmp_path: Path) -> Site:
    return Site(slapd, tmp_path)


@pytest.fixture
def ad(active_directory: SlapdLab, tmp_path: Path) -> Site:
    return Site(active_directory, tmp_path, kind="ad")
