# SPDX-License-Identifier: GPL-3.0-or-later
"""`cert`: the commands that deal with certificates, each imported when it is asked for."""

import click

from acme_milter.cli.lazy import LazyGroup

COMMANDS = {
    "list": ("acme_milter.cli.cert_list:list_certificates", "List certificates that are in use."),
    "show": ("acme_milter.cli.cert_show:show", "Show one certificate."),
    "issue": ("acme_milter.cli.cert_order:issue", "Order certificates for mailboxes."),
    "renew": ("acme_milter.cli.cert_order:renew", "Order successors of certificates now."),
    "revoke": ("acme_milter.cli.cert_revoke:revoke", "Have certificates revoked."),
    "request": ("acme_milter.cli.cert_request:request", "Bring a request whose key is elsewhere."),
    "export": ("acme_milter.cli.export:export", "Write a mailbox's certificates and keys to files."),
    "import": ("acme_milter.cli.cert_import:import_certificate", "Take in a certificate and key from elsewhere."),
}


@click.group(cls=LazyGroup, places=COMMANDS)
def cert() -> None:
    """Issue, renew, revoke, show and move certificates."""
