# SPDX-License-Identifier: GPL-3.0-or-later
"""Where each value that holds for a mailbox comes from: a line of a file, an authority's preset, or this program."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from acme_milter.config.document import Node, Place, locate
from acme_milter.config.layering import folded_address
from acme_milter.config.member import Member
from acme_milter.config.policy import DkimKey, Policy
from acme_milter.config.preset import read_preset
from acme_milter.config.schema import Config
from acme_milter.config.secret import SecretSource
from acme_milter.config.section import Section
from acme_milter.config.written_form import written_form
from acme_milter.protocol.mailbox import InvalidMailbox, canonical_domain

Steps = list[str | int]


@dataclass(frozen=True, slots=True)
class Explained:
    """One effective value, as an administrator would write it. ``place`` is where somebody wrote it; without one it
    comes from the authority's ``preset``, and without that it is built in.
    """

    key: str
    value: object
    place: Place | None = None
    preset: str | None = None


def group_place(config: Config, top: Node, member: Member) -> Place | None:
    """Where the group stands that matches this mailbox, None when none does."""
    position = config.layers[member.domain].group_of(member)
    if position is None:
        return None
    return locate(top, ["domains", domain_as_written(top, member.domain), "mailboxes", "groups", position])


def explained(config: Config, top: Node, member: Member) -> Iterator[Explained]:
    """Every value of the policy of a mailbox in a configured domain, and of the authorities that it names.

    ``top`` is what ``config`` was read from (`loader.load_with_document`).
    """
    policy = config.layers[member.domain].policy_of(member)
    yield from _values(policy, Policy, [], top, _layers(config, top, member), {}, None)
    for name in policy.authorities:
        authority = config.authorities[name]
        layers: list[Steps] = [["authorities", name]]
        preset = read_preset(authority.preset)
        yield from _values(
            authority, type(authority), [], top, layers, preset, authority.preset, f"authorities.{name}."
        )


def _layers(config: Config, top: Node, member: Member) -> list[Steps]:
    """The places where this mailbox's policy may be written, the strongest first."""
    domain: Steps = ["domains", domain_as_written(top, member.domain)]
    inner: Steps = [*domain, "mailboxes"]
    overrides = top.at(*inner, "overrides").mapping()
    found = [[*inner, "overrides", each] for each in overrides if folded_address(each) == member.address.lower()]
    position = config.layers[member.domain].group_of(member)
    if position is not None:
        found.append([*inner, "groups", position])
    return [*found, domain, ["defaults"]]


def domain_as_written(top: Node, domain: str) -> str:
    """The key below `domains` that a domain in A-label form has; raises LookupError."""
    for written in top.at("domains").mapping():
        try:
            if canonical_domain(written) == domain:
                return written
        except InvalidMailbox:  # a configuration with such a domain was not accepted
            continue
    raise LookupError(domain)


def _values(
    section: Section,
    model: type[Section],
    path: list[str],
    top: Node,
    layers: Sequence[Steps],
    preset: dict[str, Any],
    preset_name: str | None,
    prefix: str = "",
) -> Iterator[Explained]:
    for name in model.model_fields:
        value, here = getattr(section, name), [*path, name]
        if isinstance(value, Section) and not isinstance(value, DkimKey | SecretSource):
            yield from _values(value, type(value), here, top, layers, preset.get(name, {}), preset_name, prefix)
            continue
        place = _written_at(top, layers, here)
        key = prefix + ".".join(here)
        given = place is None and name in preset
        yield Explained(key, written_form(value, name), place, preset_name if given else None)


def _written_at(top: Node, layers: Sequence[Steps], path: list[str]) -> Place | None:
    for layer in layers:
        if path[-1] in top.at(*layer, *path[:-1]).mapping():
            return locate(top, [*layer, *path])
    return None
