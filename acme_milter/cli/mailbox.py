# SPDX-License-Identifier: GPL-3.0-or-later
"""`mailbox`: the commands that look at mailboxes, each imported when it is asked for."""

import click

from acme_milter.cli.lazy import LazyGroup

COMMANDS = {
    "list": ("acme_milter.cli.mailbox_list:list_mailboxes", "List mailboxes and how each stands."),
    "show": ("acme_milter.cli.mailbox_show:show", "Show all that happened to one mailbox."),
    "why": ("acme_milter.cli.mailbox_show:why", "Say why a mailbox has a certificate or has none."),
    "sync": ("acme_milter.cli.mailbox_sync:sync", "Read the sources, or show what reading them would change."),
}


@click.group(cls=LazyGroup, places=COMMANDS)
def mailbox() -> None:
    """Look at mailboxes and where they come from."""
