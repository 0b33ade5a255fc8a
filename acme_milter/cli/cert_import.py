# SPDX-License-Identifier: GPL-3.0-or-later
"""`cert import`: a certificate and key from elsewhere, so that they are renewed here, or kept for old mail."""

import sys
import uuid
from pathlib import Path
from typing import NoReturn

import click
from cryptography import x509

from acme_milter.certificate.issued import usage_of
from acme_milter.cli.configured import load_config_or_exit
from acme_milter.cli.exit_codes import ExitCode
from acme_milter.cli.keyd import asking_keyd
from acme_milter.cli.store import reading_store
from acme_milter.cli.view import print_document
from acme_milter.clock import Clock
from acme_milter.config.schema import Config
from acme_milter.keys.client import ImportedKey
from acme_milter.report.member import Known, look_up
from acme_milter.report.unanswerable import Unanswerable
from acme_milter.store import imports
from acme_milter.store.database import Database
from acme_milter.store.mailbox_keys import StoredMailboxKey

SCHEMA = "acme-milter/cert-import/1"
LARGEST = 256 * 1024
"""Octets of a PKCS#12 file; one with a long chain has some ten thousand."""


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--address", required=True, help="The mailbox whose certificate it is.")
@click.option(
    "--passphrase-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Where the file's passphrase stands in the first line; otherwise it is asked for, or read from stdin.",
)
@click.option("--history", is_flag=True, help="Keep it for old mail only; the certificate may have expired.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def import_certificate(
    context: click.Context, file: Path, address: str, passphrase_file: Path | None, history: bool, as_json: bool
) -> None:
    """Take in the key and certificate of the PKCS#12 FILE for a managed mailbox.

    keyd seals the key as it seals those it makes. The certificate then counts as the mailbox's, and its successor is
    ordered from the policy's authority in time; with --history it is only kept, and exported with the others.
    """
    config = load_config_or_exit(context)
    content = file.read_bytes()
    if len(content) > LARGEST:
        _end(f"{file}: is larger than {LARGEST // 1024} KiB, so no PKCS#12 file of a mailbox")
    passphrase = _passphrase(passphrase_file)
    with reading_store(config) as database, asking_keyd(context, config, "the file was not taken in") as keyd:
        known = _known(config, database, address)
        assert known.member is not None
        key_id = uuid.uuid4().hex
        taken = keyd.import_pkcs12(key_id, known.member.principal, known.address, content, passphrase)
        document = _store(database, known, key_id, taken, in_use=not history)
    if as_json:
        print_document({"schema": SCHEMA, **document})
    else:
        use = "kept for old mail" if history else "its successor is ordered in time"
        click.echo(f"{known.address}: took in {document['serial']}, valid until {document['not_after']}; {use}")


def _passphrase(file: Path | None) -> str:
    """Never from the command line, where every user could read it."""
    if file is not None:
        lines = file.read_text(encoding="utf-8").splitlines()
    elif sys.stdin.isatty():
        lines = [click.prompt("Passphrase of the file", hide_input=True, err=True)]
    else:
        lines = [sys.stdin.readline().rstrip("\r\n")]
    if not lines or not lines[0]:
        _end("no passphrase was given; put it into a file and name that with --passphrase-file", ExitCode.USAGE)
    return str(lines[0])


def _known(config: Config, database: Database, address: str) -> Known:
    try:
        with database.read() as connection:
            known = look_up(connection, config, address)
    except Unanswerable as error:
        _end(str(error))
    if known.member is None:
        _end(f"{known.address} is not a managed mailbox; see why with: acme-milter mailbox why {known.address}")
    return known


def _store(database: Database, known: Known, key_id: str, taken: ImportedKey, *, in_use: bool) -> dict[str, object]:
    leaf = x509.load_pem_x509_certificates(taken.chain_pem)[0]
    serial, issuer, now = f"{leaf.serial_number:x}", leaf.issuer.rfc4514_string(), Clock().now()
    if in_use and leaf.not_valid_after_utc <= now:
        _end(f"the certificate expired on {leaf.not_valid_after_utc:%Y-%m-%d}; to keep it for old mail, add --history")
    assert known.member is not None
    key = StoredMailboxKey(
        id=key_id,
        principal=known.member.principal,
        algorithm=taken.algorithm,
        sealed_key=taken.sealed,
        spki=taken.spki,
        csr=taken.csr,
        created_at=min(now, leaf.not_valid_before_utc),
    )
    with database.write() as connection:
        if imports.is_known(connection, serial, issuer):
            _end(f"{serial} is known already; see: acme-milter cert show {serial}")
        imports.insert(
            connection,
            key,
            address=known.address,
            serial=serial,
            issuer=issuer,
            not_before=leaf.not_valid_before_utc,
            not_after=leaf.not_valid_after_utc,
            chain_pem=taken.chain_pem,
            in_use=in_use,
            now=now,
            usage=usage_of(leaf),
        )
    not_after = leaf.not_valid_after_utc.isoformat()
    return {"address": known.address, "serial": serial, "not_after": not_after, "in_use": in_use}


def _end(message: str, code: ExitCode = ExitCode.FAILED) -> NoReturn:
    click.echo(message, err=True)
    raise click.exceptions.Exit(code)
