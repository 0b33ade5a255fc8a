# SPDX-License-Identifier: GPL-3.0-or-later
"""`deliver`: the commands about bringing certificates to where they are used, each imported when it is asked for."""

import click

from acme_milter.cli.lazy import LazyGroup

COMMANDS = {
    "list": ("acme_milter.cli.deliver_list:list_deliveries", "List deliveries and what has become of them."),
    "run": ("acme_milter.cli.deliver_run:run", "Deliver what the policy names and is missing."),
    "retry": ("acme_milter.cli.deliver_run:retry", "Try failed deliveries again now."),
    "withdraw": ("acme_milter.cli.deliver_withdraw:withdraw", "Take back what was delivered."),
    "passphrase": ("acme_milter.cli.deliver_passphrase:passphrase", "Show what opens the delivered files."),
}


@click.group(cls=LazyGroup, places=COMMANDS)
def deliver() -> None:
    """Bring certificates and keys to where they are used, and see how it goes."""
