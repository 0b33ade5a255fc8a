# SPDX-License-Identifier: GPL-3.0-or-later
"""What must hold between the parts of a configuration: names that exist, mailboxes that are one thing each.

The checks read what was written, not the finished models, so they also speak when another fault spoils a part.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from acme_milter.config.document import Complain, Node, locate
from acme_milter.config.schema import Authority, DkimKey, KeysSection, MilterSection, Policy, WorkerSection
from acme_milter.config.secret import loose_mode
from acme_milter.config.values import shown
from acme_milter.config.wording import suggestion
from acme_milter.protocol.mailbox import InvalidMailbox, Mailbox, canonical_domain

AUTHORITY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


def domain_names(top: Node, complain: Complain) -> dict[str, str]:
    """From each domain as written to its A-label form; complains of what is none, and of one written twice."""
    names: dict[str, str] = {}
    first: dict[str, str] = {}
    for written in _child(top, "domains").mapping():
        place = locate(top, ["domains", written])
        try:
            name = canonical_domain(written)
        except InvalidMailbox as problem:
            complain(*place, f"is not a mail domain: {problem}")
            continue
        if name in first:
            complain(*place, f"is the same domain as {shown(first[name])}")
        first.setdefault(name, written)
        names[written] = name
    return names


def mailboxes(top: Node, names: Mapping[str, str], complain: Complain) -> dict[str, str]:
    """From the lower-case form of every listed mailbox to its spelling; complains of each that cannot be one."""
    found: dict[str, str] = {}
    lines: dict[str, int] = {}
    for written, domain in names.items():
        listed = _child(top, "domains", written, "mailboxes", "list").value
        for position, node in enumerate(listed if isinstance(listed, list) else []):
            if not isinstance(node.value, str):
                continue  # the schema complains of it
            message = None
            try:
                address = _mailbox(node.value, domain)
                folded = address.lower()
                if folded in found:
                    message = _twice(address, found[folded], lines[folded])
                found.setdefault(folded, address)
                lines.setdefault(folded, node.line)
            except InvalidMailbox as problem:
                message = str(problem)
            if message:
                complain(*locate(top, ["domains", written, "mailboxes", "list", position]), message)
    return found


def _mailbox(text: str, domain: str) -> str:
    """The canonical spelling; raises InvalidMailbox with the text of the fault."""
    local, at, _ = text.partition("@")
    if not at:
        hint = f" (did you mean {text}@{domain}?)" if text.isidentifier() else ""
        raise InvalidMailbox(f"is no mail address: {shown(text)}{hint}")
    if "*" in local:
        # RFC 8823 §3: a `*` must not be in an email identifier, and a list of names is what is asked for here.
        raise InvalidMailbox(f"has a *, but mailboxes are listed one by one: {shown(text)}")
    try:
        mailbox = Mailbox.parse(text, allow_utf8=True)
    except InvalidMailbox as problem:
        raise InvalidMailbox(f"is no mail address: {shown(text)}: {problem}") from None
    if not mailbox.is_ascii:
        raise InvalidMailbox(f"has characters outside ASCII before the @, which is not supported yet: {shown(text)}")
    if mailbox.domain != domain:
        raise InvalidMailbox(f"is not in this domain: {shown(text)}")
    return str(mailbox)


def _twice(address: str, first: str, line: int) -> str:
    if address == first:
        return f"is listed twice: {address} (first in line {line})"
    return f"differs only by case from {first} in line {line}: {address}"


def sources(top: Node, names: Mapping[str, str], complain: Complain) -> None:
    """Every domain has mailboxes from somewhere, and every source that it names exists, once."""
    known = list(_child(top, "sources").mapping())
    for written in names:
        place = ["domains", written]
        domain = _child(top, *place)
        if not domain.mapping().keys() & {"source"} and "list" not in _child(domain, "mailboxes").mapping():
            example = "is missing, for example: mailboxes: {list: [alice@example.org]}, or source: NAME"
            complain(*locate(top, [*place, "mailboxes"]), example)
        node = _child(domain, "source")
        single = isinstance(node.value, str)
        seen: set[str] = set()
        for position, named in enumerate([node] if single else node.value if isinstance(node.value, list) else []):
            at = locate(top, [*place, "source"] if single else [*place, "source", position])
            if not isinstance(named.value, str):
                continue  # the schema complains of it
            if named.value in seen:
                complain(*at, f"names {shown(named.value)} twice")
            elif named.value not in known:
                hint = suggestion(named.value, known) or f" (there are: {', '.join(known) or 'none'})"
                complain(*at, f"no source is called {shown(named.value)}{hint}")
            seen.add(named.value)


def authorities(top: Node, raw: Mapping[str, Mapping[str, Any]], complain: Complain) -> None:
    """Every authority that is named exists and can be used; `raw` has them with their presets laid under.

    RFC 8555 §7.3.3: terms are agreed to by whoever is bound by them, so only the administrator sets agree_tos; an
    authority that no domain uses needs no agreement yet.
    """
    known = list(_child(top, "authorities").mapping())
    defaults = _named(top, ["defaults"], known, complain)
    used: set[str] = set()
    for domain in _child(top, "domains").mapping():
        place = ["domains", domain]
        named = _named(top, place, known, complain)
        chosen = named if named is not None else defaults if defaults is not None else known
        if not chosen:
            complain(*locate(top, place), "has no authority; describe one under authorities")
        used.update(chosen)
    for name, plain in raw.items():
        account = plain.get("account")
        if account in ("per_domain", "per_mailbox"):
            complain(*locate(top, ["authorities", name, "account"]), f"{account} is not supported yet; use shared")
        if name in used and plain.get("agree_tos") in (None, False):
            complain(*locate(top, ["authorities", name, "agree_tos"]), _AGREE)


_AGREE = (
    "the authority's terms of service must be agreed to by you before it is used; read them (its directory names"
    " them as termsOfService), then set agree_tos: true"
)


def _named(top: Node, place: list[str], known: list[str], complain: Complain) -> list[str] | None:
    """The authorities a policy names, without those that do not exist; None when it names none at all."""
    listed = _child(top, *place, "authorities").value
    if not isinstance(listed, list) or not listed:
        return None
    seen: set[str] = set()
    for position, node in enumerate(listed):
        if not isinstance(node.value, str):
            continue
        at = locate(top, [*place, "authorities", position])
        if node.value in seen:
            complain(*at, f"names {shown(node.value)} twice")
        elif node.value not in known:
            hint = suggestion(node.value, known) or f" (there are: {', '.join(known) or 'none'})"
            complain(*at, f"no authority is called {shown(node.value)}{hint}")
        seen.add(node.value)
    return [name for name in known if name in seen] or list(seen)


def sockets(top: Node, milter: MilterSection, worker: WorkerSection, keys: KeysSection, complain: Complain) -> None:
    """No two roles listen at the same path."""
    found = {
        ("milter", "socket"): milter.socket_path,
        ("worker", "intake_socket"): worker.intake_socket,
        ("worker", "control_socket"): worker.control_socket,
        ("keys", "socket"): keys.socket,
    }
    first: dict[Path, str] = {}
    for place, path in found.items():
        if path is None:
            continue
        if path in first:
            complain(*locate(top, place), f"is the same socket as {first[path]}")
        first.setdefault(path, ".".join(place))


def files(
    top: Node,
    authorities: Mapping[str, Authority],
    defaults: Policy,
    domains: Mapping[str, Policy],
    complain: Complain,
) -> None:
    """Look at the files that are named: each must be there, a secret one for its owner only.

    The wrapping key is keyd's business and may not even be visible from here. What the caller may not look at is
    passed over: the roles run as different users.
    """
    policies: dict[tuple[str, ...], Policy] = {("defaults",): defaults}
    policies |= {("domains", name): policy for name, policy in domains.items()}
    for place, path, private in (*_authority_files(authorities), *_policy_files(policies)):
        try:
            mode = path.stat().st_mode
        except PermissionError:
            continue
        except OSError as error:
            complain(*locate(top, place), f"names {path}: {os.strerror(error.errno or 0)}")
            continue
        fault = loose_mode(mode) if private else None
        if not stat.S_ISREG(mode):
            complain(*locate(top, place), f"names {path}, which is not a file")
        elif fault:
            complain(*locate(top, place), f"the secret {path} {fault}; run: chmod 0600 {path}")
        elif not private and not _holds_certificates(path):
            complain(*locate(top, place), f"{path} holds no certificates (PEM)")


def _holds_certificates(path: Path) -> bool:
    """True as well when that cannot be seen from here."""
    try:
        return b"-----BEGIN CERTIFICATE-----" in path.read_bytes()
    except OSError:
        return True


def _authority_files(found: Mapping[str, Authority]) -> Iterator[tuple[list[str], Path, bool]]:
    for name, authority in found.items():
        place = ["authorities", name]
        for key in ("ca_bundle", "trust_roots"):
            path = getattr(authority, key)
            if path is not None:
                yield [*place, key], path, False
        for half in ("kid", "hmac") if authority.eab is not None else ():
            path = getattr(authority.eab, half).file
            if path is not None:
                yield [*place, "eab", half, "file"], path, True


def _policy_files(
    policies: Mapping[tuple[str, ...], Policy],
) -> Iterator[tuple[list[str], Path, bool]]:
    for place, policy in policies.items():
        if isinstance(policy.reply.dkim, DkimKey):
            yield [*place, "reply", "dkim", "key_file"], policy.reply.dkim.key_file, True


def _child(node: Node, *steps: str) -> Node:
    for step in steps:
        node = node.mapping().get(step, Node(0, None))
    return node
