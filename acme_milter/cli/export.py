# SPDX-License-Identifier: GPL-3.0-or-later
"""`export`: a mailbox's certificate and key as files, encrypted under a passphrase made for this one export."""

import os
import secrets
from pathlib import Path
from typing import cast

import click

from acme_milter.certificate.pkcs12 import P12Format
from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.exit_codes import ExitCode
from acme_milter.cli.keyd import asking_keyd
from acme_milter.cli.store import reading_store
from acme_milter.cli.view import print_document
from acme_milter.clock import Clock
from acme_milter.eventlog import Event
from acme_milter.keys.client import KeydClient
from acme_milter.store import audit, certificates, mailbox_keys, mailboxes, timeline
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.database import Database
from acme_milter.store.mailbox_keys import StoredMailboxKey


class _OutUnusable(Exception):
    """The files cannot be written; the text says where and why."""


FORMATS = ("pem", P12Format.MODERN.value, P12Format.LEGACY.value)


@click.command()
@click.argument("address")
@click.option("--format", "form", type=click.Choice(FORMATS), default=P12Format.MODERN.value, show_default=True)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Directory for the files, made 0700."
)
@click.option("--history", is_flag=True, help="Also the person's older keys, each in a PKCS#12 file of its own.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def export(context: click.Context, address: str, form: str, out: Path, history: bool, as_json: bool) -> None:
    """Write ADDRESS's certificate and private key. The passphrase goes to standard output, never into a file.

    With --history all that the mailbox's present person had before as well, under whatever address: what is needed to
    read old mail. What somebody else had at this address before is not among it.
    """
    config = load_config_or_exit(context)
    try:
        with reading_store(config) as database, asking_keyd(context, config) as keyd:
            mailbox, principal = _holder(database, config.canonical(address) or address)
            current, older = _choose(database, mailbox, principal, history=history)
            exporter = _Exporter(database, keyd, out)
            present = None if current is None else exporter.export(current, form, mailbox)
            older_form = P12Format.LEGACY.value if form == P12Format.LEGACY else P12Format.MODERN.value
            past = [exporter.export(one, older_form, f"{one.address}.{one.serial}") for one in older]
    except _OutUnusable as error:
        click.echo(str(error), err=True)
        context.exit(ExitCode.PERMISSION if isinstance(error.__cause__, PermissionError) else ExitCode.FAILED)
    if as_json:
        document: dict[str, object] = {"schema": "acme-milter/export/1", "address": mailbox, "files": []}
        print_document(document | (present or {}) | ({"history": past} if history else {}))
        return
    for exported in [*([present] if present else []), *past]:
        for file in cast("list[str]", exported["files"]):
            click.echo(f"wrote {file}")
        click.echo(f"passphrase: {exported['passphrase']}")
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


def _choose(
    database: Database, mailbox: str, principal: str, *, history: bool
) -> tuple[StoredCertificate | None, list[StoredCertificate]]:
    """The present certificate and, with ``history``, all others of the person."""
    with database.read() as connection:
        current = certificates.current(connection, mailbox, principal)
        lines = timeline.history_of(connection, principal) if history else []
        older = [certificates.get(connection, line.id) for line in lines if current is None or line.id != current.id]
    if current is None and not older:
        click.echo(f"{mailbox} has no active certificate; order one with: acme-milter enroll {mailbox}", err=True)
        raise click.exceptions.Exit(ExitCode.FAILED)
    return current, older


class _Exporter:
    """Writes one certificate after the other, each noted in the audit trail before its file is there."""

    def __init__(self, database: Database, keyd: KeydClient, out: Path) -> None:
        self._database = database
        self._keyd = keyd
        self._out = out

    def export(self, certificate: StoredCertificate, form: str, name: str) -> dict[str, object]:
        with self._database.read() as connection:
            key = mailbox_keys.get(connection, certificate.key_id)
        contents, passphrase = _contents(self._keyd, certificate, key, form)
        with self._database.write() as connection:
            audit.record(
                connection,
                Event.CERTIFICATE_EXPORTED,
                at=Clock().now(),
                enrollment_id=certificate.enrollment_id,
                address=certificate.address,
                details={"format": form, "serial": certificate.serial, "uid": os.getuid()},
            )
        files = []
        try:
            self._out.mkdir(mode=0o700, parents=True, exist_ok=True)
            for suffix, content in contents.items():
                # The address has passed the strict grammar of the configuration: no "/" and no ".." is in its domain.
                file = self._out / f"{name.replace('/', '_')}{suffix}"
                _write_private(file, content)
                files.append(str(file))
        except OSError as error:
            raise _OutUnusable(f"{self._out}: cannot be written: {error.strerror}; choose another --out") from error
        return {"serial": certificate.serial, "files": files, "passphrase": passphrase}


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
