# SPDX-License-Identifier: GPL-3.0-or-later
"""What must hold between the parts of a configuration: names that exist, mailboxes that are one thing each.

The checks read what was written, not the finished models, so they also speak when another fault spoils a part.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from acme_milter.config.document import Complain, Node, locate
from acme_milter.config.patterns import names_another_domain
from acme_milter.config.policy import Domain, Policy
from acme_milter.config.schema import KeysSection, MilterSection, WorkerSection
from acme_milter.config.values import shown
from acme_milter.config.wording import suggestion
from acme_milter.protocol.mailbox import InvalidMailbox, Mailbox, canonical_domain

AUTHORITY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
NO_AUTHORITY = "imported"
"""What the store has for an authority where a certificate was not ordered here."""


def domain_names(top: Node, complain: Complain) -> dict[str, str]:
    """From each domain as written to its A-label form; complains of what is none, and of one written twice."""
    names: dict[str, str] = {}
    first: dict[str, str] = {}
    for written in top.at("domains").mapping():
        place = locate(top, ["domains", written])
        try:
            name = canonical_domain(written)
        except InvalidMailbox as problem:
            complain(place, f"is not a mail domain: {problem}")
            continue
        if name in first:
            complain(place, same_domain(top, first[name], place.file))
        first.setdefault(name, written)
        names[written] = name
    return names


def same_domain(top: Node, written: str, here: Path | None) -> str:
    """What to say in file `here` of a domain that is written elsewhere too, as `written`."""
    place = locate(top, ["domains", written])
    where = f"line {place.line}" if place.file == here else f"{place.file}:{place.line}"
    return f"is the same domain as {shown(written)} in {where}"


def mailboxes(top: Node, names: Mapping[str, str], complain: Complain) -> dict[str, str]:
    """From the lower-case form of every listed mailbox to its spelling; complains of each that cannot be one."""
    found: dict[str, str] = {}
    first: dict[str, int] = {}
    for written, domain in names.items():
        listed = top.at("domains", written, "mailboxes", "list").value
        for position, node in enumerate(listed if isinstance(listed, list) else []):
            if not isinstance(node.value, str):
                continue  # the schema complains of it
            message = None
            try:
                address = _mailbox(node.value, domain)
                folded = address.lower()
                if folded in found:
                    message = _twice(address, found[folded], first[folded])
                found.setdefault(folded, address)
                first.setdefault(folded, node.line)
            except InvalidMailbox as problem:
                message = str(problem)
            if message:
                complain(locate(top, ["domains", written, "mailboxes", "list", position]), message)
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
    if mailbox.domain != domain:
        raise InvalidMailbox(f"is not in this domain: {shown(text)}")
    return str(mailbox)


def _twice(address: str, first: str, line: int) -> str:
    if address == first:
        return f"is listed twice: {address} (first in line {line})"
    return f"differs only by case from {first} in line {line}: {address}"


def aliases(
    top: Node, names: Mapping[str, str], listed: Mapping[str, str], complain: Complain
) -> dict[str, tuple[str, ...]]:
    """From the lower-case form of a listed mailbox to its aliases; complains of each that cannot be one.

    `listed` is what `mailboxes` found. An alias may be in any of the configured domains.
    """
    found: dict[str, tuple[str, ...]] = {}
    first: dict[str, str] = {}
    configured = set(names.values())
    for written, domain in names.items():
        place = ["domains", written, "mailboxes", "aliases"]
        for owner, node in top.at(*place).mapping().items():
            try:
                folded = _mailbox(owner, domain).lower()
            except InvalidMailbox as problem:
                complain(locate(top, [*place, owner]), str(problem))
                continue
            if folded not in listed:
                complain(locate(top, [*place, owner]), f"is not in this domain's mailboxes.list: {shown(owner)}")
            for position, item in enumerate(node.value if isinstance(node.value, list) else []):
                if not isinstance(item.value, str):
                    continue  # the schema complains of it
                try:
                    alias = _alias(item.value, owner, configured, listed, first)
                except InvalidMailbox as problem:
                    complain(locate(top, [*place, owner, position]), str(problem))
                    continue
                first[alias.lower()] = owner
                found[folded] = (*found.get(folded, ()), alias)
    return found


def _alias(text: str, owner: str, domains: set[str], listed: Mapping[str, str], first: Mapping[str, str]) -> str:
    """The canonical spelling; raises InvalidMailbox with the text of the fault."""
    try:
        domain = canonical_domain((text if "@" in text else owner).rpartition("@")[2])
    except InvalidMailbox:
        domain = ""  # what follows says what is wrong with it
    address = _mailbox(text, domain)
    if domain not in domains:
        raise InvalidMailbox(f"is in no configured domain: {shown(text)}")
    if address.lower() in listed:
        raise InvalidMailbox(f"is a mailbox that is listed itself: {listed[address.lower()]}")
    if address.lower() in first:
        raise InvalidMailbox(f"is an alias of {first[address.lower()]} already: {address}")
    return address


def single_mailboxes(top: Node, names: Mapping[str, str], complain: Complain) -> None:
    """What `overrides`, `groups` and `include` name lies in its own domain, and each override is one mailbox."""
    for written, domain in names.items():
        place = ["domains", written, "mailboxes"]
        seen: dict[str, str] = {}
        for address in top.at(*place, "overrides").mapping():
            try:
                folded = _mailbox(address, domain).lower()
                if folded in seen:
                    complain(locate(top, [*place, "overrides", address]), f"is the same mailbox as {seen[folded]}")
                seen.setdefault(folded, address)
            except InvalidMailbox as problem:
                complain(locate(top, [*place, "overrides", address]), str(problem))
        groups = top.at(*place, "groups").value
        _patterns(top, [*place, "include"], domain, complain)
        for position in range(len(groups) if isinstance(groups, list) else 0):
            _patterns(top, [*place, "groups", position, "match", "address"], domain, complain)


def _patterns(top: Node, place: Sequence[str | int], domain: str, complain: Complain) -> None:
    node = top.at(*place)
    items = node.value if isinstance(node.value, list) else [node]
    for position, item in enumerate(items):
        if isinstance(item.value, str) and names_another_domain(item.value, domain):
            at = locate(top, [*place, position] if items is node.value else place)
            complain(at, f"can match nothing in {domain}: {shown(item.value)}")


def sources(top: Node, complain: Complain) -> None:
    """Every domain has mailboxes from somewhere, and every source that it names exists, once."""
    known = list(top.at("sources").mapping())
    for written in top.at("domains").mapping():
        place = ["domains", written]
        domain = top.at(*place)
        if isinstance(domain.value, dict | None) and not _has_mailboxes(domain):
            example = "is missing, for example: mailboxes: {list: [alice@example.org]}, or source: NAME"
            complain(locate(top, [*place, "mailboxes"]), example)
        _named(top, [*place, "source"], known, "source", complain)


def _has_mailboxes(domain: Node) -> bool:
    return "source" in domain.mapping() or "list" in domain.at("mailboxes").mapping()


def authorities(top: Node, raw: Mapping[str, Mapping[str, Any]], complain: Complain) -> None:
    """Every authority that is named exists and can be used; `raw` has them with their presets laid under.

    RFC 8555 §7.3.3: terms are agreed to by whoever is bound by them, so only the administrator sets agree_tos; an
    authority that no domain uses needs no agreement yet.
    """
    known = list(top.at("authorities").mapping())
    defaults = _named(top, ["defaults", "authorities"], known, "authority", complain)
    used: set[str] = set()
    for domain in top.at("domains").mapping():
        place = ["domains", domain]
        named = _named(top, [*place, "authorities"], known, "authority", complain)
        chosen = named if named is not None else defaults if defaults is not None else known
        if not chosen:
            complain(locate(top, place), "has no authority; describe one under authorities")
        used.update(chosen)
        for inner in _inner_policies(top, place):
            used.update(_named(top, [*inner, "authorities"], known, "authority", complain) or ())
    for name, plain in raw.items():
        if name in used and plain.get("agree_tos") in (None, False):
            complain(locate(top, ["authorities", name, "agree_tos"]), _AGREE)
        if plain.get("accept_smime_signed") is True and plain.get("smime_trust") is None:
            complain(locate(top, ["authorities", name, "accept_smime_signed"]), _SMIME_TRUST)


def _inner_policies(top: Node, domain: list[str]) -> Iterator[list[str | int]]:
    """The places of a domain's groups and overrides."""
    groups = top.at(*domain, "mailboxes", "groups").value
    for position in range(len(groups) if isinstance(groups, list) else 0):
        yield [*domain, "mailboxes", "groups", position]
    for address in top.at(*domain, "mailboxes", "overrides").mapping():
        yield [*domain, "mailboxes", "overrides", address]


_SMIME_TRUST = (
    "needs smime_trust: a file of the certificates (PEM) that such a signature has to rest on; without one, anybody's"
    " would do"
)

_AGREE = (
    "the authority's terms of service must be agreed to by you before it is used; read them (its directory names"
    " them as termsOfService), then set agree_tos: true"
)


def _named(top: Node, place: Sequence[str | int], known: list[str], what: str, complain: Complain) -> list[str] | None:
    """The names of `what` that stand at `place`, without those that do not exist; None when there are none at all."""
    node = top.at(*place)
    single = isinstance(node.value, str) and what == "source"
    listed = [node] if single else node.value
    if not isinstance(listed, list) or not listed:
        return None
    seen: set[str] = set()
    for position, item in enumerate(listed):
        if not isinstance(item.value, str):
            continue  # the schema complains of it
        at = locate(top, place if single else [*place, position])
        if item.value in seen:
            complain(at, f"names {shown(item.value)} twice")
        elif item.value not in known:
            hint = suggestion(item.value, known) or f" (there are: {', '.join(known) or 'none'})"
            complain(at, f"no {what} is called {shown(item.value)}{hint}")
        seen.add(item.value)
    return [name for name in known if name in seen] or list(seen)


def custody(top: Node, defaults: Policy, domains: Mapping[str, Domain], complain: Complain) -> None:
    """A key that is destroyed once it is delivered cannot be kept for the next certificate."""
    if defaults.custody == "deliver_once" and defaults.renewal.key == "reuse":
        complain(locate(top, ["defaults", "renewal", "key"]), _DESTROYED)
        return
    for written, domain in domains.items():
        place: list[str | int] = ["domains", written]
        base = defaults.overridden_by(domain)
        layers: list[tuple[list[str | int], Policy, Policy]] = [(place, domain, base)]
        inside = [*place, "mailboxes"]
        for position, group in enumerate(domain.mailboxes.groups):
            layers.append(([*inside, "groups", position], group, base.overridden_by(group)))
        for address, own in domain.mailboxes.overrides.items():
            layers.append(([*inside, "overrides", address], own, base.overridden_by(own)))
        for at, layer, policy in layers:
            mentions = "custody" in layer.model_fields_set or "key" in layer.renewal.model_fields_set
            if mentions and policy.custody == "deliver_once" and policy.renewal.key == "reuse":
                here = ["renewal", "key"] if "key" in layer.renewal.model_fields_set else ["custody"]
                complain(locate(top, [*at, *here]), _DESTROYED)


_DESTROYED = (
    "renewal.key: reuse cannot go with custody: deliver_once, where no key is left to be used again; choose rotate"
)


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
            complain(locate(top, place), f"is the same socket as {first[path]}")
        first.setdefault(path, ".".join(place))
