# SPDX-License-Identifier: GPL-3.0-or-later
"""A signing milter's directory and table: certificate and key in clear, for a gateway that signs everybody's mail.

File names and table are those of signing-milter(8): NAME-cert+key.pem, beside it NAME-chain.pem with what leads on from
the certificate, and a table of lines `address path`, compiled by cdb, in which addresses are looked up in lower case.
"""

import threading
from collections.abc import Sequence
from pathlib import Path

from acme_milter.certificate.pem_chain import parse_pem_chain, write_pem_chain
from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.config.delivery import SigningMilterTarget
from acme_milter.delivery.directories import Rights
from acme_milter.delivery.placing import Place, encoded, placing, rights, rights_kept
from acme_milter.delivery.target import Delivered, DeliveryFailed, Gone, Parcel
from acme_milter.keys.clear_file import write_all
from acme_milter.program import ProgramAbsent, ProgramFault, run_program
from acme_milter.quoting import quoted

_MAX_TABLE = 64 * 1024 * 1024
_MAX_OUTPUT = 64 * 1024

_locks: dict[str, threading.Lock] = {}
_locks_lock = threading.Lock()


class SigningMilterDelivery:
    """The target `to: signing-milter`."""

    def __init__(self, section: SigningMilterTarget) -> None:
        self._section = section

    def deliver(self, parcel: Parcel) -> Delivered:
        """The key is written by keyd itself; here it is never seen. Then the table, then the reload, one at a time."""
        if parcel.usage is KeyUsageKind.ENCRYPT:
            return Delivered(outcome="nothing placed: this certificate is not for signing")
        section = self._section
        given = rights(section.mode, None, section.group)
        directory = str(section.directory)
        name = encoded(parcel.address)
        file = f"{directory}/{name}-cert+key.pem"
        if any(character.isspace() for character in file):
            text = f"{file}: the table cannot hold a path with blanks; choose another directory"
            raise DeliveryFailed(text, permanent=True)
        with placing(section.directory, (), given) as place:
            _place_pair(place, name, parcel, given)
        if section.table is None and not section.reload:
            return Delivered(outcome=file)
        with _lock_of(directory):
            if section.table is not None:
                _enter_in_table(section.table, parcel.address, file, given, section.timeout.total_seconds())
            if section.reload:
                _reload(section.reload, section.timeout.total_seconds())
        table = f", in {section.table}" if section.table is not None else ""
        return Delivered(outcome=f"{file}{table}{', reloaded' if section.reload else ''}")

    def withdraw(self, gone: Gone) -> str:
        """Raises DeliveryFailed."""
        text = f"certificate {gone.serial} of {gone.address} is still there; remove it by hand"
        raise DeliveryFailed(text, permanent=True)


def _place_pair(place: Place, name: str, parcel: Parcel, given: Rights) -> None:
    leaf, *issuers = parse_pem_chain(parcel.chain_pem)

    def write(file: int) -> None:
        write_all(file, write_pem_chain([leaf]))
        parcel.key.write_clear_pem(file)

    place.stage(f"{name}-cert+key.pem", given, write)
    if issuers:
        place.stage(f"{name}-chain.pem", given, write_pem_chain(issuers))
    parcel.be_ours()
    place.commit()
    if not issuers:
        place.remove(f"{name}-chain.pem")


def _lock_of(directory: str) -> threading.Lock:
    """Table and reload are for all mailboxes, deliveries go on in several threads."""
    with _locks_lock:
        return _locks.setdefault(directory, threading.Lock())


def _enter_in_table(table: Path, address: str, file: str, given: Rights, seconds: float) -> None:
    """Replace the address's line, or append one. Other lines stay as they are, and so do the rights of the file."""
    key = address.lower()
    with placing(table.parent, (), given) as place:
        place.lock(table.name, seconds)
        found = place.read(table.name, _MAX_TABLE)
        lines = [] if found is None else found[0].decode("utf-8", "surrogateescape").splitlines()
        kept = [line for line in lines if not _is_for(line, key)]
        wanted = f"{key}  {file}"
        if found is not None and wanted in lines and len(kept) == len(lines) - 1:
            return
        if found is not None:
            given = rights_kept(found[1])
        text = "".join(f"{line}\n" for line in [*kept, wanted])
        place.stage(table.name, given, text.encode("utf-8", "surrogateescape"))
        place.commit()


def _is_for(line: str, key: str) -> bool:
    words = line.split(maxsplit=1)
    return bool(words) and words[0].lower() == key


def _reload(argv: Sequence[str], seconds: float) -> None:
    try:
        done = run_program(argv, timeout=seconds, max_output=_MAX_OUTPUT)
    except ProgramAbsent as fault:
        raise DeliveryFailed(f"reload: {fault}", permanent=True) from None
    except ProgramFault as fault:
        raise DeliveryFailed(f"reload: {fault}") from None
    if done.status != 0:
        words = quoted(b" ".join((done.errors, done.output)))
        raise DeliveryFailed(f"reload: {argv[0]} ended with {done.ending}{': ' if words else ''}{words}")
