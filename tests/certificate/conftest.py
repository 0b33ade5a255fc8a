# SPDX-License-Identifier: GPL-3.0-or-later
"""One small PKI for all tests of this room."""

import pytest

from tests.certificate.small_pki import Pki


@pytest.fixture(scope="session")
def pki() -> Pki:
    return Pki()
