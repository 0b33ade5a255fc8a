# SPDX-License-Identifier: GPL-3.0-or-later
"""What a source lists and nobody manages, counted by domain and reason: kept, so that a plan can show it."""

from collections.abc import Iterable, Mapping

from acme_milter.store.mailboxes import StoredMailbox
from acme_milter.store.source_runs import LeftOut

MOST_REASONS = 50
"""Of one reading: flaws name their lines, so a broken file has as many reasons as lines."""

EXAMPLES = 10
LONGEST = 320
"""Characters of an example; what is no address may be of any length."""

Pairs = Iterable[tuple[str, str]]
"""Addresses, or what stands in their place, each with the reason."""


def left_out(source: str, excluded: Pairs, rejected: Pairs, known: Mapping[str, StoredMailbox]) -> tuple[LeftOut, ...]:
    """The MOST_REASONS that concern most, the most first, and one more for all the others.

    Mailboxes that are ``known`` by their folded address and have not left do not count: those have rows, and whoever
    looks at these finds out what keeps them out.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for text, reason in (*excluded, *((text, f"cannot be used: {flaw}") for text, flaw in rejected)):
        row = known.get(text.strip().lower())
        if row is None or row.left_at is not None:
            found.setdefault((text.rpartition("@")[2].lower() if "@" in text else "", reason), []).append(text)
    each = sorted(
        (LeftOut(domain, reason, len(texts), _examples(texts)) for (domain, reason), texts in found.items()),
        key=lambda one: (-one.number, one.domain, one.reason),
    )
    kept, others = each[:MOST_REASONS], each[MOST_REASONS:]
    if others:
        see = f"other reasons, see: acme-milter mailbox sync --source {source} --dry-run"
        kept.append(
            LeftOut("", see, sum(one.number for one in others), tuple(one.examples[0] for one in others[:EXAMPLES]))
        )
    return tuple(kept)


def _examples(texts: list[str]) -> tuple[str, ...]:
    return tuple(text[:LONGEST] for text in sorted(texts)[:EXAMPLES])
