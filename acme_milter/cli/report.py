# SPDX-License-Identifier: GPL-3.0-or-later
"""`report`: what an organization wants to see at a glance, or once a month in a spreadsheet."""

import click

from acme_milter.cli.lazy import LazyGroup

COMMANDS = {
    "coverage": ("acme_milter.cli.report_tables:coverage", "Count who has a certificate, by domain."),
    "expiring": ("acme_milter.cli.report_tables:expiring", "List what expires soon."),
}


@click.group(cls=LazyGroup, places=COMMANDS)
def report() -> None:
    """Report coverage and what expires."""
