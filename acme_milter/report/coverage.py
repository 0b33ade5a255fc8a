# SPDX-License-Identifier: GPL-3.0-or-later
"""Who has a certificate and who has not: for each domain in numbers, and for each mailbox in a word."""

import enum
from collections import Counter
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from acme_milter.config.schema import Config
from acme_milter.store import tallies

SCHEMA = "acme-milter/coverage/1"


class Standing(enum.StrEnum):
    """How a managed mailbox stands; the first that fits."""

    CERTIFICATE = "certificate"  # it has a valid one
    OPEN = "open"  # one is under way
    FAILED = "failed"  # the last order failed, and nothing follows by itself
    WITHOUT = "without"  # nothing was tried, or what there was is over


@dataclass(frozen=True, slots=True)
class Standings:
    """Which addresses stand where. ``gone``: their source does not list them any more, whatever else they are."""

    holders: set[str]
    open: set[str]
    failed: set[str]
    gone: set[str]

    def of(self, address: str) -> Standing:
        if address in self.holders:
            return Standing.CERTIFICATE
        if address in self.open:
            return Standing.OPEN
        return Standing.FAILED if address in self.failed else Standing.WITHOUT


def standings(connection: sa.Connection, config: Config, now: datetime) -> Standings:
    """As the store has it at this moment."""
    return Standings(
        tallies.with_certificate(connection, now),
        tallies.with_open_enrollment(connection),
        tallies.with_failure(connection, list(config.named_authorities)),
        tallies.missing(connection),
    )


def coverage(connection: sa.Connection, config: Config, now: datetime) -> dict[str, object]:
    """The view: numbers for each domain, and those of all together."""
    rows = by_domain(config, standings(connection, config, now))
    return {"schema": SCHEMA, "at": now.isoformat(), "domains": rows, "total": total_of(rows)}


def by_domain(config: Config, found: Standings) -> list[dict[str, object]]:
    """A row for each configured domain; ``gone`` counts mailboxes that are in another column as well."""
    gone = Counter(address.rpartition("@")[2] for address in found.gone)
    rows: list[dict[str, object]] = []
    for domain, members in _by_domain(config).items():
        # Sets, so that 100 000 mailboxes are a matter of milliseconds; one by one only who has no certificate.
        others = members - found.holders
        counts = Counter(found.of(address) for address in others)
        rows.append(
            {
                "domain": domain,
                "managed": len(members),
                "with_certificate": len(members) - len(others),
                "open": counts[Standing.OPEN],
                "failed": counts[Standing.FAILED],
                "without": counts[Standing.WITHOUT],
                "gone": gone[domain],
            }
        )
    return rows


COUNTS = ("managed", "with_certificate", "open", "failed", "without", "gone")


def total_of(rows: list[dict[str, object]]) -> dict[str, int]:
    """The columns added up."""
    return {name: sum(int(str(row[name])) for row in rows) for name in COUNTS}


_known: tuple[Config, dict[str, frozenset[str]]] | None = None


def _by_domain(config: Config) -> dict[str, frozenset[str]]:
    """Managed addresses by domain; kept for as long as the configuration is the same one."""
    global _known  # noqa: PLW0603 -- one configuration is in force at a time, and 100 000 strings are worth keeping
    if _known is None or _known[0] is not config:
        found: dict[str, list[str]] = {domain: [] for domain in config.domains}
        for member in config.members.values():
            found[member.domain].append(member.address)
        _known = (config, {domain: frozenset(addresses) for domain, addresses in found.items()})
    return _known[1]
