# SPDX-License-Identifier: GPL-3.0-or-later
"""`export`: certificates and keys as files, encrypted under passphrases made for this one export."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click
from click.core import ParameterSource

from acme_milter.certificate.pkcs12 import P12Format
from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.cli.addresses import addresses_of
from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.confirm import confirm_count
from acme_milter.cli.exit_codes import ExitCode
from acme_milter.cli.export_csv import CSV_FORMATS, check_apart, exit_status, export_csv, tell
from acme_milter.cli.exporting import CHAIN, Contents, Exporter, NotExportable, OutUnusable, holder_of
from acme_milter.cli.keyd import asking_keyd
from acme_milter.cli.store import reading_store
from acme_milter.cli.view import print_document
from acme_milter.report.member import look_up
from acme_milter.report.unanswerable import Unanswerable
from acme_milter.store import certificates, timeline

if TYPE_CHECKING:
    from acme_milter.config.schema import Config
    from acme_milter.keys.client import KeydClient
    from acme_milter.store.certificates import StoredCertificate
    from acme_milter.store.database import Database
    from acme_milter.store.mailbox_keys import StoredMailboxKey

_DIRECTORY = click.Path(file_okay=False, path_type=Path)
FORMATS = ("pem", P12Format.MODERN.value, P12Format.LEGACY.value, CHAIN)
_P12_FORMATS = (P12Format.MODERN.value, P12Format.LEGACY.value)


@click.command()
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS…")
@click.option(
    "--format",
    "form",
    type=click.Choice([*FORMATS, *CSV_FORMATS]),
    default=P12Format.MODERN.value,
    show_default=True,
)
@click.option("--out", type=_DIRECTORY, required=True, help="Directory for the files, made 0700.")
@click.option(
    "--passphrases", type=_DIRECTORY, help="Directory for the list with the passphrases; gmail-csv, intune-csv."
)
@click.option(
    "--p12-format",
    type=click.Choice(_P12_FORMATS),
    default=P12Format.MODERN.value,
    show_default=True,
    help="Which files the list is about; gmail-csv, intune-csv.",
)
@click.option("--history", is_flag=True, help="Also the person's older keys, each in a PKCS#12 file of its own.")
@click.option("--yes", is_flag=True, help="Do it for more than one without asking.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def export(
    context: click.Context,
    addresses: Sequence[str],
    form: str,
    out: Path,
    passphrases: Path | None,
    p12_format: str,
    history: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Write ADDRESS's certificate and private key. The passphrase goes to standard output, never into a file.

    With --history all that the mailbox's present person had before as well, under whatever address: what is needed to
    read old mail. What somebody else had at this address before is not among it. chain writes the certificate alone.

    gmail-csv and intune-csv take any number of addresses ("-" reads them from standard input) and write a PKCS#12 file
    for each into --out, and into --passphrases, which must be elsewhere, the list that upload scripts go by.
    """
    named = addresses_of(addresses)
    _check_usage(form, named, passphrases, history=history)
    config = load_config_or_exit(context)
    try:
        if passphrases is not None:
            check_apart(out, passphrases)
            confirm_count(len(named), "export the keys of", yes=yes)
            with reading_store(config) as database, asking_keyd(context, config) as keyd:
                document = export_csv(config, database, keyd, named, form, P12Format(p12_format), out, passphrases)
            _end_list(context, document, as_json=as_json)
            return
        with reading_store(config) as database, asking_keyd(context, config) as keyd:
            form = _form(context, config, database, named[0], form)
            exporter = Exporter(config, database, keyd, out)
            document = _export_one(config, database, exporter, named[0], form, history=history)
            if as_json:
                print_document(document)
            else:
                _tell(document)
            exporter.settle()
    except NotExportable as reason:
        click.echo(str(reason), err=True)
        context.exit(ExitCode.FAILED)
    except OutUnusable as error:
        click.echo(str(error), err=True)
        context.exit(ExitCode.PERMISSION if isinstance(error.__cause__, PermissionError) else ExitCode.FAILED)


def _check_usage(form: str, named: Sequence[str], passphrases: Path | None, *, history: bool) -> None:
    if form in CSV_FORMATS:
        if passphrases is None:
            raise click.UsageError(f"--format {form} needs --passphrases, a directory apart from --out")
        if history:
            raise click.UsageError(f"--history is not for {form}")
    elif passphrases is not None:
        raise click.UsageError(f"--passphrases is for {' and '.join(CSV_FORMATS)}; {form} prints the passphrase")
    elif len(named) > 1:
        raise click.UsageError(f"--format {form} is for one mailbox at a time")


def _export_one(
    config: "Config", database: "Database", exporter: Exporter, address: str, form: str, *, history: bool
) -> dict[str, object]:
    mailbox, principal = holder_of(database, config.canonical(address) or address)
    current, older = _choose(database, mailbox, principal, history=history)
    older_form = form if form in {P12Format.LEGACY, CHAIN} else P12Format.MODERN.value
    present = [_export(exporter, one, form, _stem(mailbox, one)) for one in current]
    past = []
    for one in older:
        try:
            past.append(_export(exporter, one, older_form, f"{one.address}.{one.serial}"))
        except NotExportable as reason:  # one key that is here no more keeps the others from nobody
            click.echo(str(reason), err=True)
    document: dict[str, object] = {"schema": "acme-milter/export/1", "address": mailbox, "files": []}
    if present:
        document |= present[0]
    if len(present) > 1:
        document["further"] = present[1:]
    return document | ({"history": past} if history else {})


def _form(context: click.Context, config: "Config", database: "Database", address: str, form: str) -> str:
    """Where the key was never here, the chain is what there is, unless somebody insists."""
    if context.get_parameter_source("form") is not ParameterSource.DEFAULT:
        return form
    try:
        with database.read() as connection:
            policy = look_up(connection, config, address).policy
    except Unanswerable:
        return form
    return CHAIN if policy is not None and policy.custody == "csr" else form


def _stem(mailbox: str, certificate: "StoredCertificate") -> str:
    return mailbox if certificate.usage is KeyUsageKind.DUAL else f"{mailbox}.{certificate.usage.value}"


def _choose(
    database: "Database", mailbox: str, principal: str, *, history: bool
) -> tuple[list["StoredCertificate"], list["StoredCertificate"]]:
    """The present certificates, one of each kind, and, with ``history``, all others of the person."""
    with database.read() as connection:
        current = certificates.in_use(connection, mailbox, principal)
        lines = timeline.history_of(connection, principal) if history else []
        present = {one.id for one in current}
        older = [certificates.get(connection, line.id) for line in lines if line.id not in present]
    if not current and not older:
        raise NotExportable(f"{mailbox} has no active certificate; order one with: acme-milter enroll {mailbox}")
    return current, older


def _export(exporter: Exporter, certificate: "StoredCertificate", form: str, name: str) -> dict[str, object]:
    # The address has passed the strict grammar of the configuration: no "/" and no ".." is in its domain.
    stem = name.replace("/", "_")

    def make(keyd: "KeydClient", certificate: "StoredCertificate", key: "StoredMailboxKey") -> Contents:
        if form == CHAIN:
            return {f"{stem}.chain.pem": certificate.chain_pem}, ""
        if form == "pem":
            key_pem, passphrase = keyd.export_pem(key.id, key.principal, key.sealed_key)
            return {f"{stem}.chain.pem": certificate.chain_pem, f"{stem}.key.pem": key_pem}, passphrase
        p12, passphrase = keyd.export_pkcs12(
            key.id, key.principal, key.sealed_key, certificate.chain_pem, P12Format(form), certificate.address
        )
        return {f"{stem}.p12": p12}, passphrase

    files, passphrase = exporter.export(certificate, form, make)
    return {
        "serial": certificate.serial,
        "usage": certificate.usage.value,
        "files": [str(file) for file in files],
        "passphrase": passphrase or None,
    }


def _tell(document: dict[str, object]) -> None:
    secret = False
    first = [document] if "passphrase" in document else []
    more = [cast("list[dict[str, object]]", document.get(name, [])) for name in ("further", "history")]
    for exported in [*first, *more[0], *more[1]]:
        for file in cast("list[str]", exported["files"]):
            click.echo(f"wrote {file}")
        if exported["passphrase"] is not None:
            click.echo(f"passphrase: {exported['passphrase']}")
            secret = True
    if secret:
        click.echo("It is shown only here, this once. Send it by another way than the file.", err=True)


def _end_list(context: click.Context, document: dict[str, object], *, as_json: bool) -> None:
    files = cast("list[dict[str, str]]", document["files"])
    failures = cast("list[dict[str, str]]", document["failures"])
    if as_json:
        print_document(document)
    else:
        tell(document, files, failures)
    context.exit(exit_status(len(files), len(failures)))
