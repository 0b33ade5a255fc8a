# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that a configuration names: each must be there, a secret one for its owner only."""

import os
import ssl
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from acme_milter.config.delivery import LdapTarget, SmimeaTarget, TargetCommon, TsigKey
from acme_milter.config.document import Complain, Node, locate
from acme_milter.config.policy import Defaults, DkimKey, Domain, Policy
from acme_milter.config.schema import Authority
from acme_milter.config.secret import Secret, loose_mode
from acme_milter.config.sources import CsvSource, DovecotSource, LdapSource, PostfixSource, SourceCommon, SqlSource

Steps = list[str | int]
_Named = tuple[Steps, Path, str]
"""Where it stands, the file, and what it is: "secret", "certificates", "directory" or "anything"."""


class Look(Protocol):
    """What looks at the files that are named; `domains` by their names as written."""

    def __call__(
        self,
        top: Node,
        *,
        authorities: Mapping[str, Authority],
        sources: Mapping[str, SourceCommon],
        defaults: Defaults,
        domains: Mapping[str, Domain],
        complain: Complain,
    ) -> None: ...


def files(
    top: Node,
    *,
    authorities: Mapping[str, Authority],
    sources: Mapping[str, SourceCommon],
    defaults: Defaults,
    domains: Mapping[str, Domain],
    complain: Complain,
) -> None:
    """Look at all of them.

    The wrapping key is keyd's business and may not even be visible from here. What the caller may not look at is
    passed over: the roles run as different users.
    """
    for place, path, kind in (
        *_of_authorities(authorities),
        *_of_sources(sources),
        *_of_policies(defaults, domains),
    ):
        try:
            mode = path.stat().st_mode
        except PermissionError:
            continue
        except OSError as error:
            complain(locate(top, place), f"names {path}: {os.strerror(error.errno or 0)}")
            continue
        fault = loose_mode(mode) if kind == "secret" else None
        if kind == "directory":
            if not stat.S_ISDIR(mode):
                complain(locate(top, place), f"names {path}, which is not a directory")
        elif not stat.S_ISREG(mode):
            complain(locate(top, place), f"names {path}, which is not a file")
        elif fault:
            complain(locate(top, place), f"the secret {path} {fault}; run: chmod 0600 {path}")
        elif kind == "certificates" and (lack := _lack_of_certificates(path)):
            complain(locate(top, place), f"{path} holds {lack} (PEM)")


def certificates(
    top: Node,
    *,
    authorities: Mapping[str, Authority],
    sources: Mapping[str, SourceCommon],
    defaults: Defaults,
    domains: Mapping[str, Domain],
    complain: Complain,
) -> None:
    """Look at those that hold certificates, which the caller needs: that they cannot be read is a fault."""
    for place, path, kind in (*_of_authorities(authorities), *_of_sources(sources), *_of_policies(defaults, domains)):
        if kind != "certificates":
            continue
        try:
            with path.open("rb"):
                lack = _lack_of_certificates(path)
        except OSError as error:
            complain(locate(top, place), f"names {path}: {os.strerror(error.errno or 0)}")
            continue
        if lack is not None:
            complain(locate(top, place), f"{path} holds {lack} (PEM)")


def _lack_of_certificates(path: Path) -> str | None:
    """What is wrong with them; None as well when that cannot be seen from here."""
    try:
        if b"-----BEGIN CERTIFICATE-----" not in path.read_bytes():
            return "no certificates"
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except ssl.SSLError:
        return "a certificate that cannot be read"
    except OSError:
        return None
    return None


def _of_authorities(found: Mapping[str, Authority]) -> Iterator[_Named]:
    for name, authority in found.items():
        place: Steps = ["authorities", name]
        for key in ("ca_bundle", "trust_roots", "smime_trust"):
            path = getattr(authority, key)
            if path is not None:
                yield [*place, key], path, "certificates"
        if authority.eab is not None:
            yield from _of_secret([*place, "eab", "kid"], authority.eab.kid)
            yield from _of_secret([*place, "eab", "hmac"], authority.eab.hmac)


def _of_sources(found: Mapping[str, SourceCommon]) -> Iterator[_Named]:
    for name, source in found.items():
        place: Steps = ["sources", name]
        match source:
            case PostfixSource(config_directory=Path() as path):
                yield [*place, "config_directory"], path, "directory"
            case DovecotSource(config=Path() as path):
                yield [*place, "config"], path, "anything"
            case CsvSource(path=path):
                yield [*place, "path"], path, "anything"
            case LdapSource():
                if source.ca_bundle is not None:
                    yield [*place, "ca_bundle"], source.ca_bundle, "certificates"
                if source.bind is not None:
                    yield from _of_secret([*place, "bind", "password"], source.bind.password)
        if isinstance(source, SqlSource | PostfixSource) and isinstance(source.url, Secret):
            yield from _of_secret([*place, "url"], source.url)


def _of_secret(place: Steps, secret: Secret) -> Iterator[_Named]:
    if secret.file is not None:
        yield [*place, "file"], secret.file, "secret"


def _of_policies(defaults: Defaults, domains: Mapping[str, Domain]) -> Iterator[_Named]:
    for place, policy in written_policies(defaults, domains):
        if isinstance(policy.reply.dkim, DkimKey):
            yield [*place, "reply", "dkim", "key_file"], policy.reply.dkim.key_file, "secret"
        if policy.reply.config_directory is not None:
            yield [*place, "reply", "config_directory"], policy.reply.config_directory, "directory"
        for position, target in enumerate(policy.deliver):
            yield from _of_target([*place, "deliver", position], target)


def _of_target(place: Steps, target: TargetCommon) -> Iterator[_Named]:
    match target:
        case LdapTarget():
            if target.ca_bundle is not None:
                yield [*place, "ca_bundle"], target.ca_bundle, "certificates"
            if target.bind is not None:
                yield from _of_secret([*place, "bind", "password"], target.bind.password)
        case SmimeaTarget(tsig=TsigKey(secret=secret)):
            yield from _of_secret([*place, "tsig", "secret"], secret)


def written_policies(defaults: Defaults, domains: Mapping[str, Domain]) -> Iterator[tuple[Steps, Policy]]:
    """Every place where a policy's keys may stand, and what is written there."""
    yield ["defaults"], defaults
    for name, domain in domains.items():
        yield ["domains", name], domain
        inner: Steps = ["domains", name, "mailboxes"]
        for position, group in enumerate(domain.mailboxes.groups):
            yield [*inner, "groups", position], group
        for address, policy in domain.mailboxes.overrides.items():
            yield [*inner, "overrides", address], policy
