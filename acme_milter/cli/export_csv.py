# SPDX-License-Identifier: GPL-3.0-or-later
"""`export --format gmail-csv | intune-csv`: PKCS#12 files of many mailboxes, and apart from them the list that scripts
for Google Workspace and Intune go by, with the passphrases in it.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from acme_milter.certificate.pkcs12 import P12Format
from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.cli.exit_codes import ExitCode
from acme_milter.cli.exporting import Contents, Exporter, NotExportable, holder_of, write_private
from acme_milter.config.schema import Config
from acme_milter.delivery.files import file_stem
from acme_milter.keys.client import KeydClient
from acme_milter.keys.refusal import KeydRefused
from acme_milter.store import certificates
from acme_milter.store.certificates import StoredCertificate
from acme_milter.store.database import Database
from acme_milter.store.mailbox_keys import StoredMailboxKey

SCHEMA = "acme-milter/export-csv/1"

_PURPOSES = {
    KeyUsageKind.DUAL: ("smimeEncryption", "smimeSigning"),
    KeyUsageKind.SIGN: ("smimeSigning",),
    KeyUsageKind.ENCRYPT: ("smimeEncryption",),
}
"""Intune takes a certificate once for each purpose (userPfxIntendedPurpose of Microsoft Graph)."""


@dataclass(frozen=True, slots=True)
class _Row:
    certificate: StoredCertificate = field(repr=False)
    file: str
    passphrase: str = field(repr=False)


def _gmail(rows: Sequence[_Row]) -> list[list[str]]:
    """What Google's sample for many users reads: user, path, password, after a line that it skips."""
    return [["user", "path", "password"], *([row.certificate.address, row.file, row.passphrase] for row in rows)]


def _intune(rows: Sequence[_Row]) -> list[list[str]]:
    """The properties of Graph's userPFXCertificate that are ours to know, by their names there, before encryption."""
    lines = [
        [
            "userPrincipalName",
            "file",
            "password",
            "intendedPurpose",
            "thumbprint",
            "startDateTime",
            "expirationDateTime",
        ]
    ]
    for row in rows:
        leaf = x509.load_pem_x509_certificates(row.certificate.chain_pem)[0]
        thumbprint = leaf.fingerprint(hashes.SHA1()).hex().upper()  # noqa: S303 Windows names certificates so
        dates = [f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in (leaf.not_valid_before_utc, leaf.not_valid_after_utc)]
        about = (row.certificate.address, row.file, row.passphrase)
        lines += [[*about, purpose, thumbprint, *dates] for purpose in _PURPOSES[row.certificate.usage]]
    return lines


CSV_FORMATS: dict[str, tuple[str, Callable[[Sequence[_Row]], list[list[str]]]]] = {
    "gmail-csv": ("gmail.csv", _gmail),
    "intune-csv": ("intune.csv", _intune),
}


def check_apart(out: Path, passphrases: Path) -> None:
    """Raises click.UsageError where one directory is in the other: who is given the one would get both."""
    files, lists = out.resolve(), passphrases.resolve()
    if files == lists or files in lists.parents or lists in files.parents:
        text = f"--passphrases {passphrases} and --out {out} must not be in one another: a file and its passphrase"
        raise click.UsageError(f"{text} never travel the same way")


def export_csv(
    config: Config,
    database: Database,
    keyd: KeydClient,
    addresses: Sequence[str],
    form: str,
    p12_format: P12Format,
    out: Path,
    passphrases: Path,
) -> dict[str, object]:
    """Write the files and the list; the document of what was written and what was not. What fails for one mailbox
    keeps none of the others back; one that is named twice is exported once, for its second file would take the first
    one's place. Raises OutUnusable and what keyd raises.
    """
    exporter = Exporter(config, database, keyd, out)
    rows: list[_Row] = []
    failures: list[dict[str, str]] = []
    holders: dict[str, str] = {}
    for address in dict.fromkeys(config.canonical(one) or one for one in addresses):
        try:
            mailbox, principal = holder_of(database, address)
        except NotExportable as reason:
            failures.append({"address": address, "error": str(reason)})
        else:
            holders[mailbox] = principal
    for address, principal in holders.items():
        try:
            rows += _export_one(database, exporter, address, principal, form, p12_format)
        except NotExportable as reason:
            failures.append({"address": address, "error": str(reason)})
        except KeydRefused as refused:
            failures.append({"address": address, "error": f"{address}: keyd refused: {refused.reason}"})
    document: dict[str, object] = {"schema": SCHEMA, "list": None, "files": [], "failures": failures}
    if not rows:
        return document
    name, lines_of = CSV_FORMATS[form]
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(lines_of(rows))  # RFC 4180 §2
    written = write_private(passphrases, name, text.getvalue().encode("utf-8"))
    exporter.settle()
    files = [
        {"address": row.certificate.address, "serial": row.certificate.serial, "file": str(out / row.file)}
        for row in rows
    ]
    return document | {"list": str(written), "files": files}


def tell(document: dict[str, object], files: Sequence[dict[str, str]], failures: Sequence[dict[str, str]]) -> None:
    """The document in words."""
    for file in files:
        click.echo(f"wrote {file['file']}")
    if document["list"] is not None:
        click.echo(f"wrote {document['list']}, with their passphrases")
        click.echo("Keep the list apart from the files until both are where they are used.", err=True)
    for failure in failures:
        click.echo(failure["error"], err=True)


def exit_status(exported: int, failed: int) -> ExitCode:
    """0, 3 when some could not be exported, 1 when none could."""
    if not failed:
        return ExitCode.OK
    return ExitCode.PARTLY if exported else ExitCode.FAILED


def _export_one(
    database: Database, exporter: Exporter, address: str, principal: str, form: str, p12_format: P12Format
) -> list[_Row]:
    with database.read() as connection:
        current = certificates.in_use(connection, address, principal)
    if not current:
        raise NotExportable(f"{address} has no active certificate; order one with: acme-milter enroll {address}")

    def make(keyd: KeydClient, certificate: StoredCertificate, key: StoredMailboxKey) -> Contents:
        # With its chain: Google wants it, and Windows finds no issuer by itself.
        p12, passphrase = keyd.export_pkcs12(
            key.id, key.principal, key.sealed_key, certificate.chain_pem, p12_format, certificate.address
        )
        return {f"{file_stem(certificate.address, certificate.usage)}.p12": p12}, passphrase

    rows = []
    for certificate in current:
        (file,), passphrase = exporter.export(certificate, form, make)
        rows.append(_Row(certificate, file.name, passphrase))
    return rows
