# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificate and key as files in a directory of the mailbox's own; `bundle_files` makes them for others as well."""

from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass, field

from acme_milter.certificate.pem_chain import parse_pem_chain, write_pem_chain
from acme_milter.certificate.pkcs12 import P12Format
from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.config.delivery import BundleFormat, FilesTarget
from acme_milter.delivery.directories import Rights
from acme_milter.delivery.mobileconfig import build_profile
from acme_milter.delivery.placing import directory_of, encoded, filled, placing, rights
from acme_milter.delivery.target import Delivered, DeliveryFailed, Gone, Parcel

_PASSPHRASE_RIGHTS = 0o660  # never for others, whatever the files' own mode


@dataclass(frozen=True, slots=True)
class Bundle:
    """The files of one format by their names' endings, and the passphrase that opens those with a key in them;
    `secret` names the one that it opens.
    """

    files: dict[str, bytes] = field(repr=False)
    secret: str
    passphrase: str = field(repr=False)


def bundle_files(parcel: Parcel, form: BundleFormat, *, include_chain: bool) -> Bundle:
    """Have the files of one format made, each time under a new passphrase. Raises DeliveryFailed."""
    chain = parse_pem_chain(parcel.chain_pem)
    if form == "pem":
        key, passphrase = parcel.key.encrypted_pem()
        certificates = write_pem_chain(chain if include_chain else chain[:1])
        return Bundle({".chain.pem": certificates, ".key.pem": key}, ".key.pem", passphrase)
    if form == "mobileconfig":
        # Apple's importers read the older dialect everywhere.
        p12, passphrase = parcel.key.pkcs12(P12Format.LEGACY, include_chain=False)
        issuers = chain[1:] if include_chain else []
        profile = build_profile(parcel.address, parcel.serial, p12, issuers)
        return Bundle({".mobileconfig": profile}, ".mobileconfig", passphrase)
    p12, passphrase = parcel.key.pkcs12(P12Format(form), include_chain=include_chain)
    ending = ".p12" if form == P12Format.MODERN.value else ".legacy.p12"
    return Bundle({ending: p12}, ending, passphrase)


def file_stem(address: str, usage: KeyUsageKind) -> str:
    """How the files of a mailbox's certificate are called: its address, and what the key is for if not for both."""
    return encoded(address) if usage is KeyUsageKind.DUAL else f"{encoded(address)}.{usage.value}"


class FilesDelivery:
    """The target `to: files`."""

    def __init__(self, section: FilesTarget) -> None:
        self._section = section

    def deliver(self, parcel: Parcel) -> Delivered:
        """All files of all formats get their names together, after each has been written and synced."""
        section = self._section
        given = rights(section.mode, section.owner, section.group)
        bundles = {
            form: bundle_files(parcel, form, include_chain=section.chain == "include")
            for form in dict.fromkeys(section.formats)
        }
        stem = file_stem(parcel.address, parcel.usage)
        with ExitStack() as stack:
            place = stack.enter_context(placing(*directory_of(section.path, parcel.address), given))
            places = [place]
            for bundle in bundles.values():
                for ending, content in bundle.files.items():
                    place.stage(stem + ending, given, content)
            if section.passphrase_path is not None:
                secret = Rights(given.mode & _PASSPHRASE_RIGHTS, given.uid, given.gid)
                away = stack.enter_context(placing(*directory_of(section.passphrase_path, parcel.address), secret))
                if away.identity() == place.identity():
                    text = f"{away.path} is the very directory of the files; a passphrase must not lie beside its file"
                    raise DeliveryFailed(text, permanent=True)
                for bundle in bundles.values():
                    line = f"{bundle.passphrase}\n".encode("ascii")
                    away.stage(f"{stem}{bundle.secret}.passphrase", secret, line)
                places.insert(0, away)
            parcel.be_ours()
            for one in places:
                one.commit()
        where = f"{filled(section.path, parcel.address)}: {_names(stem, bundles.values())}"
        if section.passphrase_path is None:
            return Delivered(outcome=where, passphrases={form: bundle.passphrase for form, bundle in bundles.items()})
        return Delivered(outcome=f"{where}; passphrase in {filled(section.passphrase_path, parcel.address)}")

    def withdraw(self, gone: Gone) -> str:
        """Raises DeliveryFailed."""
        text = f"certificate {gone.serial} of {gone.address} is still there; remove it by hand"
        raise DeliveryFailed(text, permanent=True)


def _names(stem: str, bundles: Collection[Bundle]) -> str:
    return ", ".join(stem + ending for bundle in bundles for ending in bundle.files)
