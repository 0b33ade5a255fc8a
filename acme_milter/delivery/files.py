# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificate and key as files in a directory of the mailbox's own; `bundle_files` makes them for others as well."""

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from acme_milter.certificate.pem_chain import MAX_CHAIN, parse_pem_chain, write_pem_chain
from acme_milter.certificate.pkcs12 import P12Format
from acme_milter.certificate.refusal import CertificateRefused
from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.config.delivery import BundleFormat, FilesTarget
from acme_milter.delivery.directories import Rights, told
from acme_milter.delivery.mobileconfig import build_profile, serial_in
from acme_milter.delivery.placing import Place, directory_of, encoded, filled, placing, rights, standing
from acme_milter.delivery.target import Delivered, DeliveryFailed, Gone, Parcel

_PASSPHRASE_RIGHTS = 0o660  # never for others, whatever the files' own mode
_MAX_PROFILE = 1024 * 1024

_ENDINGS: Mapping[BundleFormat, tuple[str, ...]] = {
    "pem": (".chain.pem", ".key.pem"),
    "p12-modern": (".p12",),
    "p12-legacy": (".legacy.p12",),
    "mobileconfig": (".mobileconfig",),
}
"""How the names of each format's files end; the last one has the key in it."""


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
        return _bundle(form, (certificates, key), passphrase)
    if form == "mobileconfig":
        # Apple's importers read the older dialect everywhere.
        p12, passphrase = parcel.key.pkcs12(P12Format.LEGACY, include_chain=False)
        issuers = chain[1:] if include_chain else []
        profile = build_profile(parcel.address, parcel.serial, p12, issuers)
        return _bundle(form, (profile,), passphrase)
    p12, passphrase = parcel.key.pkcs12(P12Format(form), include_chain=include_chain)
    return _bundle(form, (p12,), passphrase)


def _bundle(form: BundleFormat, contents: Sequence[bytes], passphrase: str) -> Bundle:
    endings = _ENDINGS[form]
    return Bundle(dict(zip(endings, contents, strict=True)), endings[-1], passphrase)


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
        """Remove the files and their passphrases, and the mailbox's own directory if nothing is left in it then.

        Files of formats that the section does not name are left alone: another target may have them there.
        """
        section, where = self._section, filled(self._section.path, gone.address)
        if gone.replaced:
            return f"{where}: nothing removed, the files there are those of a newer certificate"
        stem = file_stem(gone.address, gone.usage)
        endings = [ending for form in dict.fromkeys(section.formats) for ending in _ENDINGS[form]]
        secrets = [f"{stem}{_ENDINGS[form][-1]}.passphrase" for form in dict.fromkeys(section.formats)]
        with ExitStack() as stack:
            place = stack.enter_context(standing(*directory_of(section.path, gone.address)))
            away = None
            if section.passphrase_path is not None:
                away = stack.enter_context(standing(*directory_of(section.passphrase_path, gone.address)))
            if place is not None and (other := _of_another(place, stem, section.formats, gone)) is not None:
                return f"{where}: nothing removed, {other} is another certificate's"
            gone.be_ours()
            removed = _removed(place, [stem + ending for ending in endings]) + _removed(away, secrets)
        self._tidy(gone.address)
        return f"{where}: removed {', '.join(removed)}" if removed else f"{where}: no file of it is there any more"

    def _tidy(self, address: str) -> None:
        """A directory of its own is of no use to a mailbox that has no files. It is made again when it is needed."""
        section, owners = self._section, {os.geteuid()}
        with suppress(DeliveryFailed):  # that user may have left, too
            owners.add(rights(section.mode, section.owner, None).uid)
        for template in (section.path, section.passphrase_path):
            if template is not None:
                fixed, own = directory_of(template, address)
                with standing(fixed, own[:-1]) as above:
                    if above is not None:
                        above.remove_directory(own[-1], owners)


def _removed(place: Place | None, names: Sequence[str]) -> list[str]:
    """Those that were there. What is a directory by now is nobody's file."""
    if place is None:
        return []
    with told(str(place.path)):
        for name in names:
            place.clear_abandoned(name, fresh=True)
    found = [name for name in names if not place.is_directory(name) and place.remove(name)]
    place.sync()
    return found


def _of_another(place: Place, stem: str, formats: Collection[BundleFormat], gone: Gone) -> str | None:
    """The name of a file there that certainly is another certificate's. All files of a delivery get their names at
    once, so one of them speaks for the others: of a PKCS#12 file nobody can tell.
    """
    chain, profile = stem + _ENDINGS["pem"][0], stem + _ENDINGS["mobileconfig"][0]
    if "pem" in formats and place.is_file(chain) and (found := place.read(chain, MAX_CHAIN)) is not None:
        with suppress(CertificateRefused):
            if parse_pem_chain(found[0])[0] != parse_pem_chain(gone.chain_pem)[0]:
                return chain
    if "mobileconfig" in formats and place.is_file(profile) and (found := place.read(profile, _MAX_PROFILE)):
        return profile if serial_in(found[0]) not in (None, gone.serial) else None
    return None


def _names(stem: str, bundles: Collection[Bundle]) -> str:
    return ", ".join(stem + ending for bundle in bundles for ending in bundle.files)
