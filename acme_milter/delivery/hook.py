# SPDX-License-Identifier: GPL-3.0-or-later
"""The target `to: hook`: a program of the administrator's own, which gets files, and the passphrase on its input."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from acme_milter.certificate.pem_chain import parse_pem_chain, write_pem_chain
from acme_milter.config.delivery import HookTarget, placeholders
from acme_milter.delivery.files import bundle_files
from acme_milter.delivery.hook_directory import hook_directory
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
    """Runs a program without a shell. The files are gone when it has ended; what it wants to keep, it copies."""

    def __init__(self, section: HookTarget) -> None:
        self._section = section

    def deliver(self, parcel: Parcel) -> Delivered:
        """Its last line on standard output becomes the outcome, its last one on standard error the fault."""
        section = self._section
        about = _about(parcel)
        with hook_directory() as place:
            files, passphrases = _make_files(section, parcel, place)
            argv = [_filled(argument, about | files) for argument in section.argv]
            # One a line, in the order of `formats`: with one format, `openssl … -passin stdin` takes it as it is.
            given = "".join(f"{passphrase}\n" for passphrase in passphrases).encode("ascii")
            environment = _names(about | files) | _environment(section, parcel)
            parcel.be_ours()
            outcome = self._run(argv, "argv", environment, given)
        return Delivered(outcome=_said(argv[0], outcome, passphrases) or f"taken by {argv[0]}")

    def withdraw(self, gone: Gone) -> str:
        """Run `withdraw_argv` with the certificate alone; its last line on standard output says what it has done."""
        section = self._section
        if not section.withdraw_argv:
            text = (
                f"nobody but {section.argv[0]} knows where it is; set withdraw_argv of {section.title} to what takes it"
                " back, or do so by hand"
            )
            raise DeliveryFailed(text, permanent=True)
        leaf = parse_pem_chain(gone.chain_pem)[0]
        with hook_directory() as place:
            file = place / "certificate.pem"
            _write_private(file, write_pem_chain([leaf]))
            about = _about(gone) | {"certificate": str(file)}
            argv = [_filled(argument, about) for argument in section.withdraw_argv]
            environment = _names(about) | {
                "ACME_MILTER_TARGET": section.title,
                "ACME_MILTER_USAGE": gone.usage.value,
                "ACME_MILTER_NOT_BEFORE": leaf.not_valid_before_utc.isoformat(),
                "ACME_MILTER_NOT_AFTER": leaf.not_valid_after_utc.isoformat(),
                "ACME_MILTER_WHY": _printable(gone.why),
                "ACME_MILTER_REPLACED": "yes" if gone.replaced else "no",
            }
            gone.be_ours()
            outcome = self._run(argv, "withdraw_argv", environment)
        return _said(argv[0], outcome) or f"taken back by {argv[0]}"

    def _run(self, argv: Sequence[str], key: str, environment: Mapping[str, str], given: bytes = b"") -> Outcome:
        """`key` is what the program is called in the configuration."""
        timeout = self._section.timeout.total_seconds()
        try:
            return run_program(argv, timeout=timeout, given=given, max_output=MAX_OUTPUT, environment=environment)
        except ProgramAbsent as absent:
            raise DeliveryFailed(f"{absent}; install it, or change {key}", permanent=True) from None
        except ProgramFault as fault:
            raise DeliveryFailed(str(fault)) from None


def _about(one: Parcel | Gone) -> dict[str, str]:
    local, _, domain = one.address.rpartition("@")
    return {"address": one.address, "local": local, "domain": domain, "serial": one.serial}


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


def _names(values: Mapping[str, str]) -> dict[str, str]:
    """What stands for placeholders, as the environment has it."""
    return {f"ACME_MILTER_{name.upper()}": value for name, value in values.items()}


def _environment(section: HookTarget, parcel: Parcel) -> dict[str, str]:
    return {
        "ACME_MILTER_TARGET": section.title,
        "ACME_MILTER_USAGE": parcel.usage.value,
        "ACME_MILTER_PERSON": _printable(parcel.person_name or ""),
        "ACME_MILTER_NOT_BEFORE": parcel.not_before.isoformat(),
        "ACME_MILTER_NOT_AFTER": parcel.not_after.isoformat(),
        "ACME_MILTER_FORMATS": " ".join(dict.fromkeys(section.formats)),
    }


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _said(program: str, outcome: Outcome, passphrases: Sequence[str] = ()) -> str | None:
    """What people are told; None where it has said nothing. A program that repeats its input must not make a
    passphrase part of that. Raises DeliveryFailed.
    """

    def plain(line: str) -> str:
        for passphrase in passphrases:
            line = line.replace(passphrase, "…")
        return quoted(line)

    if outcome.status == 0:
        lines = [line for line in outcome.output.decode("utf-8", "replace").splitlines() if line.strip()]
        return plain(lines[-1]) if lines else None
    errors = outcome.error_lines()
    words = f": {plain(errors[-1])}" if errors else ""
    raise DeliveryFailed(f"{program}: {outcome.ending}{words}", permanent=outcome.status in PERMANENT)
