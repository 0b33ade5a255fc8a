# SPDX-License-Identifier: GPL-3.0-or-later
"""What all tests share."""

from hypothesis import settings

# A busy machine is no fault of the code: time is judged where a test is about time, by processor time.
settings.register_profile("acme-milter", deadline=None)
settings.load_profile("acme-milter")
