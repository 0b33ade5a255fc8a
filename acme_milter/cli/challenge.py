# SPDX-License-Identifier: GPL-3.0-or-later
"""`challenge verify`: the gate's judgement of a saved mail. Changes nothing and sends nothing."""

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import click

from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.exit_codes import ExitCode
from acme_milter.cli.store import STORE_FAULTS
from acme_milter.clock import Clock
from acme_milter.config.schema import Config
from acme_milter.enrollment.gate import Expectation
from acme_milter.protocol.challenge_mail import parse_challenge_mail
from acme_milter.protocol.faults import MailRefused
from acme_milter.protocol.headers import split_message
from acme_milter.protocol.mailbox import InvalidMailbox, parse_single_address_header
from acme_milter.store.database import Database
from acme_milter.worker.dkim_verifier import ArithmeticPool, DkimVerifier
from acme_milter.worker.examination import Examination, Finding, Result
from acme_milter.worker.expectations import expectations_of
from acme_milter.worker.key_lookup import KeyLookup
from acme_milter.worker.smime_verifier import SmimeVerifier
from acme_milter.worker.terms import terms_of


@click.group()
def challenge() -> None:
    """Look at a challenge mail as the gate does."""


@challenge.command(short_help="Judge a saved mail, condition by condition.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--recipient", help="The envelope recipient; default: the address in To.")
@click.option("--authority", help="Judge by this authority's terms where no order of ours says which one sent it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def verify(context: click.Context, file: Path, recipient: str | None, authority: str | None, as_json: bool) -> None:
    """Judge the mail in FILE (RFC 5322, as delivered), condition by condition. Exit 0 if nothing fails.

    A mail that was delivered through other programs may have lost what its signature covers.
    """
    config = load_config_or_exit(context)
    raw = as_received(file.read_bytes())
    wanted = recipient or _recipient_of(raw)
    name = authority or _first_authority(config, wanted)
    if name not in config.authorities:
        known = ", ".join(config.authorities) or "none"
        raise click.BadParameter(f"no such authority; configured: {known}", param_hint="--authority")
    lookup = KeyLookup(config.dns.nameservers, timeout=config.dns.timeout.total_seconds())
    with ArithmeticPool(1) as pool, SmimeVerifier() as smime:
        examination = Examination(
            config=config,
            verifier=DkimVerifier(pool, lookup),
            smime=smime,
            expectations=_orders(config, wanted, raw),
            terms=terms_of(config.authorities[name]),
            now=Clock().now(),
        )
        findings = examination.judge(raw, wanted)
    if as_json:
        click.echo(json.dumps(_document(findings, wanted, name)))
    else:
        _print(findings, wanted, name)
    failed = any(finding.result in {Result.FAILS, Result.DOUBT} for finding in findings)
    context.exit(ExitCode.FAILED if failed else ExitCode.OK)


def as_received(content: bytes) -> bytes:
    """A mail from a file as it was on the wire: CRLF, without mbox's From line and the delivery agent's headers."""
    lines = content.replace(b"\r\n", b"\n").split(b"\n")
    if lines and lines[0].startswith(b"From "):
        del lines[0]
    while lines and lines[0].split(b":", 1)[0].lower() in {b"return-path", b"delivered-to", b"x-original-to"}:
        del lines[0]
        while lines and lines[0][:1] in {b" ", b"\t"}:
            del lines[0]
    return b"\r\n".join(lines)


def _recipient_of(raw: bytes) -> str:
    try:
        headers, _ = split_message(raw)
        value = headers.exactly_one(b"To").value
        return str(parse_single_address_header(value, "To", allow_utf8=True))
    except (MailRefused, InvalidMailbox) as fault:
        raise click.UsageError(f"the recipient cannot be read from the mail ({fault}); use --recipient") from None


def _first_authority(config: Config, recipient: str) -> str:
    policy = config.policy_for(recipient)
    return policy.authorities[0] if policy is not None else next(iter(config.authorities), "")


def _orders(config: Config, recipient: str, raw: bytes) -> list[Expectation] | None:
    try:
        digest = parse_challenge_mail(raw, require_auto_submitted=False).token_part1.digest()
    except MailRefused:  # so it is nobody's, whatever orders there are
        return []
    try:
        with closing(Database(config.store.url)) as database:
            database.require_schema()
            mailbox = config.canonical(recipient) or recipient
            return expectations_of(database, config, mailbox, Clock().now(), digest)
    except (*STORE_FAULTS, PermissionError, ModuleNotFoundError):
        return None


def _document(findings: Sequence[Finding], recipient: str, authority: str) -> dict[str, object]:
    return {
        "schema": "acme-milter/challenge-verify/1",
        "recipient": recipient,
        "authority": authority,
        "conditions": [
            {"condition": f.condition, "text": f.text, "result": f.result.value, "detail": f.detail} for f in findings
        ],
    }


def _print(findings: Sequence[Finding], recipient: str, authority: str) -> None:
    click.echo(f"for {recipient}, by the terms of {authority}")
    for finding in findings:
        line = f"  {finding.condition:<4}{finding.result.value:<12}{finding.text}"
        click.echo(line + (f"\n      {'':<12}{finding.detail}" if finding.detail else ""))
