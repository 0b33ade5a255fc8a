# SPDX-License-Identifier: GPL-3.0-or-later
"""What `check --online` asks others: each authority for its name, and the DNS for each domain's CAA records."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from acme_milter.config.schema import Authority, Config


@dataclass(frozen=True, slots=True)
class Found:
    """Whether an authority may issue for a domain: `given`, or why it is `refused`, `unclear` or `unchecked`."""

    domain: str
    authority: str
    permission: str
    text: str = ""
    is_fault: bool = False
    """The authority does not answer, so that nothing can be ordered there; `text` is not about the domain then."""

    def as_row(self) -> dict[str, str]:
        return {
            "domain": self.domain,
            "authority": self.authority,
            "permission": self.permission,
            "text": self.text,
        }


def permissions(config: "Config") -> Iterator[Found]:
    """One for each domain and each authority that its policy names, one lookup for each domain."""
    from acme_milter.worker.caa import CaaLookup, CaaUnclear, judge

    lookup = CaaLookup(config.dns.nameservers, timeout=config.dns.timeout.total_seconds())
    names: dict[str, tuple[str, ...] | Found] = {}
    for domain, layers in config.layers.items():
        wanted = dict.fromkeys(name for policy in layers.every_policy() for name in policy.authorities)
        names |= {name: _names(name, config.authorities[name]) for name in wanted if name not in names}
        checked = [name for name in wanted if not isinstance(names[name], Found)]
        try:
            records = lookup.fetch(domain) if checked else None
            why = ""
        except CaaUnclear as unclear:
            records, why = None, str(unclear)
        for name in wanted:
            known = names[name]
            if isinstance(known, Found):
                yield dataclasses.replace(known, domain=domain)
            elif records is None:
                yield Found(domain, name, "unclear", f"CAA of {domain}: {why}, and no authority may issue then")
            else:
                answer = judge(name, known, domain, records)
                yield Found(domain, name, answer.permission.name.lower(), answer.text)


def _names(name: str, authority: "Authority") -> tuple[str, ...] | Found:
    """What the authority is called in CAA records; a Found for all domains where that is not known or not asked.

    It is asked also where the answer does not matter: whether it can be reached does.
    """
    from acme_milter.acme.network import Network
    from acme_milter.acme.problem import AcmeError

    try:
        network = Network(authority.directory, ca_bundle=authority.ca_bundle, connections=1)
        try:
            found = network.directory().meta.caa_identities
        finally:
            network.close()
    except AcmeError as error:
        return Found("", name, "unchecked", f"authorities.{name}: {error}", is_fault=True)
    except OSError as error:
        text = f"authorities.{name}.ca_bundle: {authority.ca_bundle}: {error.strerror or 'no certificates in it'}"
        return Found("", name, "unchecked", text, is_fault=True)
    if authority.caa == "ignore":
        return Found("", name, "unchecked")
    if authority.caa_domains:
        return tuple(authority.caa_domains)
    if not found:
        text = f"its directory names no caaIdentities, and authorities.{name}.caa_domains none either"
        return Found("", name, "unchecked", f"authorities.{name}: {text}; CAA records are not looked at")
    return found
