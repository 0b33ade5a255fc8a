# SPDX-License-Identifier: GPL-3.0-or-later
"""The target `to: hook`: a program of the administrator's own, which gets files, and the passphrase on its input."""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from acme_milter.certificate.pem_chain import parse_pem_chain, write_pem_chain
from acme_milter.config.delivery import HookTarget, placeholders
from acme_milter.delivery.files import bundle_files
from acme_milter.delivery.target import Delivered, DeliveryFailed, Gone, Parcel
from acme_milter.program import Outcome, ProgramAbsent, ProgramFault, run_program
from acme_milter.quoting import quoted

MAX_OUTPUT = 1024 * 1024
TRY_LATER = 75
PERMANENT = frozenset(range(64, 79)) - {TRY_LATER}
"""Exit statuses of sysexits(3), EX_USAGE to EX_CONFIG: nothing changes before a person changes something."""

# Format: the placeholder of its file in argv, and the name of that file.
_SECRETS = {
    "pem": ("pem", "key.pem"),
    "p12-modern": ("p12", "identity.p12"),
    "p12-legacy": ("p12_legacy", "identity-legacy.p12"),
    "mobileconfig": ("mobileconfig", "identity.mobileconfig"),
}


class HookDelivery:
    """Runs `argv` without a shell. The files are gone when it has ended; what it wants to keep, it copies."""

    def __init__(self, section: HookTarget) -> None:
        self._section = section

    def deliver(self, parcel: Parcel) -> Delivered:
        """Its last line on standard output becomes the outcome, its last one on standard error the fault."""
        section = self._section
        local, _, domain = parcel.address.rpartition("@")
        about = {"address": parcel.address, "local": local, "domain": domain, "serial": parcel.serial}
        with _own_directory() as place:
            files, passphrases = _make_files(section, parcel, Path(place))
            argv = [_filled(argument, about | files) for argument in section.argv]
            # One a line, in the order of `formats`: with one format, `openssl … -passin stdin` takes it as it is.
            given = "".join(f"{passphrase}\n" for passphrase in passphrases).encode("ascii")
            parcel.be_ours()
            try:
                outcome = run_program(
                    argv,
                    timeout=section.timeout.total_seconds(),
                    given=given,
                    max_output=MAX_OUTPUT,
                    environment=_environment(section, parcel, about | files),
                )
            except ProgramAbsent as absent:
                raise DeliveryFailed(f"{absent}; install it, or change argv", permanent=True) from None
            except ProgramFault as fault:
                raise DeliveryFailed(str(fault)) from None
        return Delivered(outcome=_said(argv[0], outcome, passphrases))

    def withdraw(self, gone: Gone) -> str:
        """Raises DeliveryFailed."""
        text = f"certificate {gone.serial} of {gone.address} is still there; remove it by hand"
        raise DeliveryFailed(text, permanent=True)


@contextmanager
def _own_directory() -> Iterator[str]:
    try:
        with tempfile.TemporaryDirectory(prefix="acme-milter-hook-") as place:
            yield place
    except OSError as error:
        raise DeliveryFailed(f"{tempfile.gettempdir()}: no files can be made for it: {error.strerror}") from None


def _make_files(section: HookTarget, parcel: Parcel, place: Path) -> tuple[dict[str, str], list[str]]:
    """Each placeholder of a file with its path, and the passphrases in the order of `formats`."""
    chain = parse_pem_chain(parcel.chain_pem)
    include_chain = section.chain == "include"
    files = {"certificate": str(place / "certificate.pem"), "chain": str(place / "chain.pem")}
    _write_private(place / "certificate.pem", write_pem_chain(chain[:1]))
    _write_private(place / "chain.pem", write_pem_chain(chain if include_chain else chain[:1]))
    passphrases = []
    for form in dict.fromkeys(section.formats):
        bundle = bundle_files(parcel, form, include_chain=include_chain)
        placeholder, name = _SECRETS[form]
        _write_private(place / name, bundle.files[bundle.secret])
        files[placeholder] = str(place / name)
        passphrases.append(bundle.passphrase)
    return files, passphrases


def _write_private(file: Path, content: bytes) -> None:
    """Open to nobody else from the first octet on, whatever the umask is."""
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(content)


def _filled(argument: str, values: Mapping[str, str]) -> str:
    """Whatever the mailbox is called, it stays one argument, and is never taken for an option."""
    for name in placeholders(argument):
        if argument.startswith(f"{{{name}}}") and values[name].startswith("-"):
            text = f"{values[name]} would be an option to the program; have it read ACME_MILTER_{name.upper()} instead"
            raise DeliveryFailed(text, permanent=True)
    # All at once: what stands in a value is no placeholder.
    return argument.format_map(values)


def _environment(section: HookTarget, parcel: Parcel, values: Mapping[str, str]) -> dict[str, str]:
    names = {f"ACME_MILTER_{name.upper()}": value for name, value in values.items()}
    return names | {
        "ACME_MILTER_TARGET": section.title,
        "ACME_MILTER_USAGE": parcel.usage.value,
        "ACME_MILTER_PERSON": "".join(c if c.isprintable() else " " for c in parcel.person_name or ""),
        "ACME_MILTER_NOT_BEFORE": parcel.not_before.isoformat(),
        "ACME_MILTER_NOT_AFTER": parcel.not_after.isoformat(),
        "ACME_MILTER_FORMATS": " ".join(dict.fromkeys(section.formats)),
    }


def _said(program: str, outcome: Outcome, passphrases: Sequence[str]) -> str:
    """What people are told. A program that repeats its input must not make a passphrase part of that."""

    def plain(line: str) -> str:
        for passphrase in passphrases:
            line = line.replace(passphrase, "…")
        return quoted(line)

    if outcome.status == 0:
        lines = [line for line in outcome.output.decode("utf-8", "replace").splitlines() if line.strip()]
        return plain(lines[-1]) if lines else f"taken by {program}"
    errors = outcome.error_lines()
    words = f": {plain(errors[-1])}" if errors else ""
    raise DeliveryFailed(f"{program}: {outcome.ending}{words}", permanent=outcome.status in PERMANENT)
