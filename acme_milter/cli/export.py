# SPDX-License-Identifier: GPL-3.0-or-later
"""`export`: a mailbox's certificate and key as files, encrypted under a passphrase made for this one export."""

import json
import os
import secrets
from pathlib import Path

import click

from acme_milter.certificate.pkcs12 import P12Format
from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.exit_codes import ExitCode
from acme_milter.cli.store import as_owner, reading_store
from acme_milter.clock import Clock
from acme_milter.config.schema import Config
from acme_milter.eventlog import Event
from acme_milter.keys.client import KeydClient, KeydUnavailable
from acme_milter.keys.refusal import KeydRefused
from acme_milter.store import audit, certificates, mailbox_keys, mailboxes
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.database import Database
from acme_milter.store.mailbox_keys import StoredMailboxKey

_REFUSALS = {
    "seal broken": " (keyd runs with another wrapping key than the one that sealed this mailbox's key, or the store is"
    " damaged; put the right one where keys.wrapping_key says, and restart keyd)",
}


class _OutUnusable(Exception):
    """The files cannot be written; the text says where and why."""


FORMATS = ("pem", P12Format.MODERN.value, P12Format.LEGACY.value)


@click.command()
@click.argument("address")
@click.option("--format", "form", type=click.Choice(FORMATS), default=P12Format.MODERN.value, show_default=True)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Directory for the files, made 0700."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def export(context: click.Context, address: str, form: str, out: Path, as_json: bool) -> None:
    """Write ADDRESS's certificate and private key. The passphrase goes to standard output, never into a file."""
    config = load_config_or_exit(context)
    mailbox = config.canonical(address) or address
    try:
        with reading_store(config) as database:
            mailbox, principal = _holder(database, mailbox)
            files, passphrase = _export(config, database, mailbox, principal, form, out)
    except KeydUnavailable as error:
        if config.keys.socket.exists() and not os.access(config.keys.socket, os.W_OK):
            click.echo(f"{config.keys.socket}: permission denied; {as_owner(config.keys.socket)}", err=True)
            context.exit(ExitCode.PERMISSION)
        click.echo(f"keyd is not running: {error}; start it with: acme-milter --config {config.path} run", err=True)
        context.exit(ExitCode.TRY_LATER)
    except KeydRefused as error:
        click.echo(f"keyd refused: {error}{_REFUSALS.get(error.reason, '')}", err=True)
        context.exit(ExitCode.FAILED)
    except _OutUnusable as error:
        click.echo(str(error), err=True)
        context.exit(ExitCode.PERMISSION if isinstance(error.__cause__, PermissionError) else ExitCode.FAILED)
    if as_json:
        document = {
            "schema": "acme-milter/export/1",
            "address": mailbox,
            "files": [str(file) for file in files],
            "passphrase": passphrase,
        }
        click.echo(json.dumps(document))
        return
    for file in files:
        click.echo(f"wrote {file}")
    click.echo(f"passphrase: {passphrase}")
    click.echo("It is shown only here, this once. Send it by another way than the file.", err=True)


def _holder(database: Database, mailbox: str) -> tuple[str, str]:
    """The mailbox as the store spells it, and whose keys its keys are now; nobody else's leave here (T30, N9)."""
    with database.read() as connection:
        known = mailboxes.find(connection, mailbox)
    if known is None:
        return mailbox, mailbox
    if known.left_at is not None:
        click.echo(f"{known.address} has left on {known.left_at:%Y-%m-%d}; its keys stay in the store", err=True)
        raise click.exceptions.Exit(ExitCode.FAILED)
    return known.address, known.principal


def _export(
    config: Config, database: Database, mailbox: str, principal: str, form: str, out: Path
) -> tuple[list[Path], str]:
    with database.read() as connection:
        certificate = certificates.current(connection, mailbox, principal)
        if certificate is None:
            click.echo(f"{mailbox} has no active certificate; order one with: acme-milter enroll {mailbox}", err=True)
            raise click.exceptions.Exit(ExitCode.FAILED)
        key = mailbox_keys.get(connection, certificate.key_id)
    with KeydClient(config.keys.socket, timeout=60.0) as keyd:
        contents, passphrase = _contents(keyd, certificate, key, form)
    with database.write() as connection:
        audit.record(
            connection,
            Event.CERTIFICATE_EXPORTED,
            at=Clock().now(),
            enrollment_id=certificate.enrollment_id,
            address=mailbox,
            details={"format": form, "serial": certificate.serial, "uid": os.getuid()},
        )
    files = []
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        for suffix, content in contents.items():
            # The address has passed the strict grammar of the configuration: no "/" and no ".." can be in its domain.
            file = out / f"{mailbox.replace('/', '_')}{suffix}"
            _write_private(file, content)
            files.append(file)
    except OSError as error:
        raise _OutUnusable(f"{out}: cannot be written: {error.strerror}; choose another --out") from error
    return files, passphrase


def _contents(
    keyd: KeydClient, certificate: StoredCertificate, key: StoredMailboxKey, form: str
) -> tuple[dict[str, bytes], str]:
    """File suffixes with their contents, and the passphrase that opens them."""
    if form == "pem":
        key_pem, passphrase = keyd.export_pem(key.id, key.principal, key.sealed_key)
        return {".chain.pem": certificate.chain_pem, ".key.pem": key_pem}, passphrase
    p12, passphrase = keyd.export_pkcs12(
        key.id, key.principal, key.sealed_key, certificate.chain_pem, P12Format(form), certificate.address
    )
    return {".p12": p12}, passphrase


def _write_private(file: Path, content: bytes) -> None:
    """0600 from the first byte on, and whole or not at all."""
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(file)
