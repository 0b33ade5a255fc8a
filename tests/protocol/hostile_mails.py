# SPDX-License-Identifier: GPL-3.0-or-later
"""The corpus of hostile mails: name, how it is made, and the fault it must be refused with. Made anew at each run."""

from tests.protocol.hostile_coverage import HOSTILE_COVERAGE
from tests.protocol.hostile_dkim import HOSTILE_SIGNATURES
from tests.protocol.hostile_fields import HOSTILE_FIELDS
from tests.protocol.hostile_headers import HOSTILE_HEADERS
from tests.protocol.hostile_keys import HOSTILE_KEYS

HOSTILE_MAILS = [*HOSTILE_HEADERS, *HOSTILE_FIELDS, *HOSTILE_SIGNATURES, *HOSTILE_COVERAGE, *HOSTILE_KEYS]
