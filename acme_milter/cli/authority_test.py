# SPDX-License-Identifier: GPL-3.0-or-later
"""`authority test`: one order at an authority's staging service, what it showed, and the settings that follow."""

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from acme_milter.cli.ask_worker import ask_worker
from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.exit_codes import ExitCode
from acme_milter.cli.view import print_document

if TYPE_CHECKING:
    from acme_milter.cli.progress import View

PARTS = (
    ("order_placed", "the order was placed in"),
    ("challenge_known", "its challenge was there after"),
    ("mail_came", "the mail came after"),
    ("reply_handed_over", "the reply was handed to Postfix after"),
    ("validated", "it was believed after"),
    ("issued", "the certificate was there after"),
    ("whole", "all of it took"),
)
_PATIENCE = 90.0


@click.command()
@click.argument("name")
@click.option("--mailbox", required=True, metavar="ADDRESS", help="A managed mailbox whose challenge mails come here.")
@click.option(
    "--token-join", type=click.Choice(["string", "bytes", "string-padded"]), help="Try this instead of what is set."
)
@click.option(
    "--post-after",
    type=click.FloatRange(min=1),
    metavar="SECONDS",
    help="Without a mail for so long, tell the authority that the reply is there: some mail only then. Default: 600.",
)
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Give up waiting after this.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def test(
    context: click.Context,
    name: str,
    mailbox: str,
    token_join: str | None,
    post_after: float | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Try the authority NAME at its staging service, and propose settings for it.

    Nothing that ADDRESS has changes. Exit status 0 when a certificate was issued, 1 when not, 75 after --timeout.
    """
    from acme_milter.cli.ordering import follow
    from acme_milter.cli.progress import Ending, LiveView, PlainView

    config = load_config_or_exit(context)
    begun = ask_worker(
        config, "authority-test", authority=name, mailbox=mailbox, token_join=token_join, post_after=post_after
    )
    view: View = LiveView() if sys.stdout.isatty() and not as_json else PlainView(quiet=as_json)
    try:
        with view:
            _, ending = follow(config, [str(begun["id"])], view, timeout=timeout)
    except KeyboardInterrupt:
        click.echo("not waiting any longer; it goes on without me, see: acme-milter status", err=True)
        context.exit(ExitCode.TRY_LATER)
    document = ask_worker(config, "authority-test-findings", patience=_PATIENCE, id=begun["id"])
    if as_json:
        print_document(document)
    else:
        for line in lines_of(document):
            click.echo(line)
    if ending is Ending.TIMED_OUT:
        context.exit(ExitCode.TRY_LATER)
    context.exit(ExitCode.OK if document["state"] == "rehearsed" else ExitCode.FAILED)


def lines_of(document: dict[str, Any]) -> Iterator[str]:
    """The findings for people: what was seen as comments, below it YAML to paste."""
    error = f": {document['last_error']}" if document["last_error"] else ""
    yield f"# {document['staging']} with {document['mailbox']}: {document['state']}{error}"
    for key, words in PARTS:
        if document["seconds"][key] is not None:
            yield f"# {words} {document['seconds'][key]:g} s"
    if document["mail"] is not None:
        yield from _mail(document["mail"])
    if document["directory"] is not None:
        yield from _directory(document["directory"])
    for name, value in document["rate_limits"].items():
        yield f"# of its limits it says {name}: {value}"
    if document["certificate"] is not None:
        yield f"# the certificate lasts {document['certificate']['days']} days, by {document['certificate']['issuer']}"
    for note in document["notes"]:
        yield f"# {note}"
    if document["settings"]:
        yield "authorities:"
        yield f"  {document['authority']}:"
        for key, value in document["settings"].items():
            yield f"    {key}: {_yaml(value)}  # {document['reasons'][key]}"


def _mail(mail: dict[str, Any]) -> Iterator[str]:
    answers = f", answers go to {mail['reply_to']}" if mail["reply_to"] else ""
    yield f"# from {mail['from']}{answers}; Auto-Submitted: {mail['auto_submitted'] or 'absent'}"
    absent = [name for name, there in (("Date", mail["date"]), ("Message-ID", mail["message_id"])) if not there]
    if absent:
        yield f"# without {' and '.join(absent)}"
    yield f"# token-part1 has {mail['token_part1_octets']} octets"
    for one in mail["dkim"]:
        by = f"{one['domain']}, selector {one['selector']}"
        yield f"# signed with {one['algorithm']} by {by}: {':'.join(one['signed'])}"


def _directory(directory: dict[str, Any]) -> Iterator[str]:
    offers = [
        words
        for key, words in (
            ("renewal_info", "renewal information"),
            ("key_change", "key exchange"),
            ("revoke_cert", "revocation"),
        )
        if directory[key]
    ]
    yield f"# it offers {', '.join(offers) or 'nothing more'}; profiles: {', '.join(directory['profiles']) or 'none'}"
    if directory["caa_identities"]:
        yield f"# in CAA records it is {', '.join(directory['caa_identities'])}"


def _yaml(value: object) -> str:
    """JSON is YAML; plain words need no quotes."""
    return value if isinstance(value, str) else json.dumps(value)
