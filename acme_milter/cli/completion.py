# SPDX-License-Identifier: GPL-3.0-or-later
"""`completion`: the script by which a shell completes commands and options; click's own."""

import click
from click.shell_completion import get_completion_class

VARIABLE = "_ACME_MILTER_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands in SHELL.

    \b
    bash: acme-milter completion bash > /usr/share/bash-completion/completions/acme-milter
    zsh:  acme-milter completion zsh > /usr/local/share/zsh/site-functions/_acme-milter
    fish: acme-milter completion fish > /usr/share/fish/vendor_completions.d/acme-milter.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    root = context.find_root()
    click.echo(found(root.command, {}, "acme-milter", VARIABLE).source())
