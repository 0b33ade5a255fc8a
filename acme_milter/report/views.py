# SPDX-License-Identifier: GPL-3.0-or-later
"""Every view by its name: documents that the command line asks a running worker for, or makes itself without one.

A view is a function of a connection that reads, the configuration with its mailboxes, the time, and arguments that
JSON can carry. Its document names its schema and holds nothing secret.
"""

from collections.abc import Callable

from acme_milter.report.coverage import coverage
from acme_milter.report.status import status

View = Callable[..., dict[str, object]]
"""``f(connection, config, now, **args)``; raises Unanswerable, and TypeError when the arguments are not its own."""

VIEWS: dict[str, View] = {
    "status": status,
    "coverage": coverage,
}

WHOLE = frozenset({"status", "coverage"})
"""Views of everybody: without a worker the mailboxes of the sources have to be read from the store for them."""
