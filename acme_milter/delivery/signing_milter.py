# SPDX-License-Identifier: GPL-3.0-or-later
"""A signing milter's directory and table: certificate and key in clear, for a gateway that signs everybody's mail.

File names and table are those of signing-milter(8): NAME-cert+key.pem, beside it NAME-chain.pem with what leads on from
the certificate, and a table of lines `address path`, compiled by cdb, in which addresses are looked up in lower case.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from acme_milter.certificate.pem_chain import parse_pem_chain, write_pem_chain
from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.config.delivery import SigningMilterTarget
from acme_milter.delivery.directories import Rights, told
from acme_milter.delivery.placing import Place, encoded, placing, rights, rights_kept
from acme_milter.delivery.target import Claimed, Delivered, DeliveryFailed, Gone, Parcel
from acme_milter.keys.clear_file import write_all
from acme_milter.program import ProgramAbsent, ProgramFault, run_program
from acme_milter.quoting import quoted

_MAX_TABLE = 64 * 1024 * 1024
_MAX_OUTPUT = 64 * 1024
_PAIR, _CHAIN = "-cert+key.pem", "-chain.pem"

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
        name, file = self._pair_of(parcel.address)
        if any(character.isspace() for character in file):
            text = f"{file}: the table cannot hold a path with blanks; choose another directory"
            raise DeliveryFailed(text, permanent=True)
        with placing(section.directory, (), given) as place:
            _place_pair(place, name, parcel, given)
        if section.table is None and not section.reload:
            return Delivered(outcome=file)
        with _lock_of(section.directory):
            if section.table is not None:
                self._rewrite(section.table, lambda lines: _with_line(lines, parcel.address.lower(), file), parcel)
            self._reload()
        table = f", in {section.table}" if section.table is not None else ""
        return Delivered(outcome=f"{file}{table}{', reloaded' if section.reload else ''}")

    def withdraw(self, gone: Gone) -> str:
        """Remove the address's line and reload, then remove the pair: mail that comes meanwhile finds no line without
        its files. Where the pair is another certificate's, all of it stays.
        """
        if gone.usage is KeyUsageKind.ENCRYPT:
            return "nothing was placed: this certificate is not for signing"
        section = self._section
        name, file = self._pair_of(gone.address)
        ours = write_pem_chain(parse_pem_chain(gone.chain_pem)[:1])
        with placing(section.directory, (), Rights(section.mode)) as place:
            there = place.has(name + _PAIR)
            if there and not (place.is_file(name + _PAIR) and place.begins_with(name + _PAIR, ours)):
                return f"{file}: nothing removed, it is another certificate's"
            if gone.replaced and not there:
                return f"{file}: not there any more"
            listed = self._take_from_table(gone, file)
            gone.be_ours()
            removed = _remove_pair(place, name)
        if section.table is None:
            with _lock_of(section.directory):
                self._reload()
        what = f"{file}: {'removed' if removed else 'not there any more'}"
        table = f", its line in {section.table} too" if listed else ""
        return f"{what}{table}{', reloaded' if section.reload else ''}"

    def _pair_of(self, address: str) -> tuple[str, str]:
        """How the files of an address begin, and the path of its pair."""
        name = encoded(address)
        return name, f"{self._section.directory}/{name}{_PAIR}"

    def _take_from_table(self, gone: Gone, file: str) -> bool:
        """Whether it had a line that leads to the file. One of the address that leads elsewhere is somebody's own."""
        section, key = self._section, gone.address.lower()
        if section.table is None:
            return False
        with _lock_of(section.directory):
            taken = self._rewrite(section.table, lambda lines: _without_line(lines, key, file), gone)
            self._reload()
        return taken

    def _rewrite(self, table: Path, change: Callable[[list[str]], list[str]], job: Claimed) -> bool:
        """Have the table's lines changed, and nothing else of it; whether it was."""
        section = self._section
        with placing(table.parent, (), Rights(section.mode)) as place:
            place.lock(table.name, section.timeout.total_seconds())
            found = place.read(table.name, _MAX_TABLE)
            lines = [] if found is None else _lines_of(found[0].decode("utf-8", "surrogateescape"))
            wanted = change(lines)
            if wanted == lines:
                return False
            given = rights(section.mode, None, section.group) if found is None else rights_kept(found[1])
            text = "".join(f"{line}\n" for line in wanted)
            place.stage(table.name, given, text.encode("utf-8", "surrogateescape"))
            job.be_ours()
            place.commit()
        return True

    def _reload(self) -> None:
        if self._section.reload:
            _reload(self._section.reload, self._section.timeout.total_seconds())


def _place_pair(place: Place, name: str, parcel: Parcel, given: Rights) -> None:
    leaf, *issuers = parse_pem_chain(parcel.chain_pem)

    def write(file: int) -> None:
        write_all(file, write_pem_chain([leaf]))
        parcel.key.write_clear_pem(file)

    place.stage(name + _PAIR, given, write)
    if issuers:
        place.stage(name + _CHAIN, given, write_pem_chain(issuers))
    parcel.be_ours()
    place.commit()
    if not issuers:
        place.remove(name + _CHAIN)


def _remove_pair(place: Place, name: str) -> bool:
    """Whether there was one. What a crash has left of it holds a key in clear."""
    with told(str(place.path)):
        for ending in (_PAIR, _CHAIN):
            place.clear_abandoned(name + ending, fresh=True)
    removed = place.remove(name + _PAIR)
    place.remove(name + _CHAIN)
    place.sync()
    return removed


def _lock_of(directory: Path) -> threading.Lock:
    """Table and reload are for all mailboxes, deliveries go on in several threads."""
    with _locks_lock:
        return _locks.setdefault(str(directory), threading.Lock())


def _lines_of(text: str) -> list[str]:
    """Not str.splitlines: half a comment with a form feed in it would become a line of its own."""
    return text.removesuffix("\n").split("\n") if text else []


def _with_line(lines: list[str], key: str, file: str) -> list[str]:
    """The address's one line is that of the file; the others stay as they are."""
    wanted, kept = f"{key}  {file}", [line for line in lines if not _is_for(line, key)]
    return lines if wanted in lines and len(kept) == len(lines) - 1 else [*kept, wanted]


def _without_line(lines: list[str], key: str, file: str) -> list[str]:
    return [line for line in lines if not (_is_for(line, key) and line.split()[1:] == [file])]


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
