# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `acme-milter`: its commands by name, each imported only when it is asked for.

`acme-milter --help` imports nothing but click, and a role imports nothing of the other roles.
"""

import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import click

from acme_milter import __version__
from acme_milter.cli.configured import DEFAULT_CONFIG
from acme_milter.cli.exit_codes import ExitCode
from acme_milter.cli.lazy import LazyGroup

TRACEBACK_VARIABLE = "ACME_MILTER_TRACEBACK"

# Command: where it is, and its line in --help.
COMMANDS = {
    "check": ("acme_milter.cli.check:check", "Report every fault of the configuration."),
    "run": ("acme_milter.cli.run:run", "Start all three roles and watch them."),
    "milter": ("acme_milter.cli.roles:milter", "The role beside Postfix."),
    "worker": ("acme_milter.cli.roles:worker", "The role that answers challenges and drives orders."),
    "keyd": ("acme_milter.cli.roles:keyd", "The role that holds the keys."),
    "status": ("acme_milter.cli.status:status", "Show how everything is, and what needs a person."),
    "mailbox": ("acme_milter.cli.mailbox:mailbox", "Look at mailboxes and where they come from."),
    "cert": ("acme_milter.cli.cert:cert", "Issue, renew, revoke, show and move certificates."),
    "bulk": ("acme_milter.cli.bulk:bulk", "Plan and run orders for many mailboxes."),
    "deliver": ("acme_milter.cli.deliver:deliver", "Bring certificates to where they are used."),
    "authority": ("acme_milter.cli.authority:authority", "Look at authorities and our accounts there; pause, resume."),
    "hold": ("acme_milter.cli.hold:hold", "See and release what a guard has stopped."),
    "config": ("acme_milter.cli.config:config", "Explain and show the configuration."),
    "report": ("acme_milter.cli.report:report", "Report coverage and what expires."),
    "enroll": ("acme_milter.cli.enroll:enroll", "Get certificates for mailboxes."),
    "export": ("acme_milter.cli.export:export", "Write a mailbox's certificate and key to files."),
    "challenge": ("acme_milter.cli.challenge:challenge", "Look at a challenge mail as the gate does."),
    "demo": ("acme_milter.cli.demo:demo", "Show the whole way on the loopback, with a CA of its own."),
    "testca": ("acme_milter.cli.testca:testca", "Run the RFC 8823 test CA."),
    "completion": ("acme_milter.cli.completion:completion", "Print the script that completes commands in a shell."),
    "manual": ("acme_milter.cli.manual:manual", "Print or install the man pages."),
    "version": ("acme_milter.cli.version:version", "Show the version."),
}
# What only the extra `testca` installs; `demo` and `testca` need it.
_TESTCA_MODULES = frozenset({"aiosmtpd", "dnslib", "starlette", "uvicorn"})


@click.group(
    cls=LazyGroup,
    places=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--config",
    "-c",
    type=click.Path(path_type=Path, readable=False),  # whether it can be read is said where it is
    default=DEFAULT_CONFIG,
    envvar="ACME_MILTER_CONFIG",
    show_default=True,
    show_envvar=True,
    metavar="FILE",
    help="The configuration.",
)
@click.version_option(__version__, "--version", prog_name="acme-milter", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, config: Path) -> None:
    """S/MIME certificates for every mailbox, by RFC 8823, beside Postfix."""
    ctx.obj = config


def main() -> NoReturn:
    """The program. Ends with an exit status of `exit_codes`; an exception nobody expected is one line."""
    try:
        cli(prog_name="acme-milter")
    except ModuleNotFoundError as missing:
        if missing.name not in _TESTCA_MODULES:
            _unexpected(missing)
        _end(f"this needs the test CA's libraries ({missing.name}); run: pip install 'acme-milter[testca]'")
    except PermissionError as denied:
        _show_traceback(denied)
        _end(f"{denied.strerror}: {denied.filename}", ExitCode.PERMISSION)
    except Exception as error:  # noqa: BLE001 -- the edge of the process
        _unexpected(error)
    sys.exit(ExitCode.OK)


def _unexpected(error: Exception) -> NoReturn:
    """Name an exception by type and place; its text is shown only when its class vouches for it."""
    from acme_milter.eventlog import place_of

    _show_traceback(error)
    if getattr(type(error), "safe_text", False) is True:
        _end(str(error) or type(error).__name__)
    _end(
        f"internal error: {type(error).__name__} at {place_of(error.__traceback__)}"
        f" (set {TRACEBACK_VARIABLE}=1 for more)"
    )


def _show_traceback(error: BaseException) -> None:
    if os.environ.get(TRACEBACK_VARIABLE) == "1":
        traceback.print_exception(error)


def _end(message: str, code: ExitCode = ExitCode.FAILED) -> NoReturn:
    line = "".join(c if c.isprintable() else " " for c in message)
    click.echo(f"acme-milter: {line}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
