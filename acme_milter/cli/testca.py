# SPDX-License-Identifier: GPL-3.0-or-later
"""`acme-milter testca`: the test CA as a command of ours. Needs the extra `testca`."""

from acme_milter.testca.command import testca

__all__ = ["testca"]
