# SPDX-License-Identifier: GPL-3.0-or-later
"""Every view by its name: documents that the command line asks a running worker for, or makes itself without one.

A view is a function of a connection that reads, the configuration with its mailboxes, the time, and arguments that
JSON can carry. Its document names its schema and holds nothing secret.
"""

from collections.abc import Callable

from acme_milter.report.authorities import authorities
from acme_milter.report.authority_show import authority_show
from acme_milter.report.bulk_progress import bulk_list, bulk_status
from acme_milter.report.certificate_list import certificate_list, certificate_show
from acme_milter.report.coverage import coverage
from acme_milter.report.delivery_list import delivery_list, delivery_missing, delivery_unused
from acme_milter.report.expiring import expiring
from acme_milter.report.mailbox_list import mailbox_list
from acme_milter.report.mailbox_timeline import mailbox_timeline
from acme_milter.report.member_view import member
from acme_milter.report.simulation import bulk_simulate
from acme_milter.report.status import status
from acme_milter.report.why import why

View = Callable[..., dict[str, object]]
"""``f(connection, config, now, **args)``; raises Unanswerable, and TypeError when the arguments are not its own."""

VIEWS: dict[str, View] = {
    "status": status,
    "mailbox": mailbox_timeline,
    "mailbox-list": mailbox_list,
    "member": member,
    "why": why,
    "certificate": certificate_show,
    "certificate-list": certificate_list,
    "authorities": authorities,
    "authority-show": authority_show,
    "coverage": coverage,
    "expiring": expiring,
    "delivery-list": delivery_list,
    "delivery-missing": delivery_missing,
    "delivery-unused": delivery_unused,
    "bulk-status": bulk_status,
    "bulk-list": bulk_list,
    "bulk-simulate": bulk_simulate,
}

WHOLE = frozenset({"status", "mailbox-list", "coverage", "expiring", "delivery-missing", "delivery-unused"})
"""Views of everybody: without a worker the mailboxes of the sources have to be read from the store for them."""
