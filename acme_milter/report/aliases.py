# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of a mailbox's aliases, in sentences."""

from collections.abc import Mapping, Sequence

from acme_milter.config.schema import Config
from acme_milter.mailboxes.verification import Deliverability, Verdict
from acme_milter.report.member import Known


def in_their_certificate(config: Config, known: Known) -> tuple[str, ...]:
    """The aliases that are ordered with the mailbox, by the authority that it prefers."""
    if known.member is None or known.policy is None or known.policy.certificate.aliases != "same_certificate":
        return ()
    return config.aliases_of(known.member).kept[: _most(config, known)]


def on_aliases(config: Config, known: Known) -> str:
    """Which aliases go with a managed mailbox, which do not, and why; nothing where there is nothing to say."""
    if known.member is None or known.policy is None:
        return ""
    if known.member.alias_of is not None:
        return f" It is an alias of {known.member.alias_of}."
    choice, mode = config.aliases_of(known.member), known.policy.certificate.aliases
    most = _most(config, known) if mode == "same_certificate" else len(choice.kept)
    text = ""
    if choice.kept[:most]:
        those = _listed(choice.kept[:most])
        text = f" Its certificate is for {those} as well." if mode == "same_certificate" else f" Its aliases: {those}."
    refused = list(choice.left_out)
    refused += [(alias, f"an order is for {most + 1} (limits.identifiers)") for alias in choice.kept[most:]]
    return text + "".join(f" The alias {alias} is left out: {why}." for alias, why in refused)


def on_delivery_of_aliases(verdicts: Mapping[str, Verdict]) -> str:
    """What Postfix does not know is left out, too."""
    unknown = [(alias, said) for alias, said in verdicts.items() if said.deliverability is Deliverability.UNKNOWN]
    return "".join(
        f" The alias {alias} is left out while Postfix does not know it: {said.why}." for alias, said in unknown
    )


def _most(config: Config, known: Known) -> int:
    """Aliases in one order."""
    names = () if known.policy is None else known.policy.authorities
    authority = config.authorities.get(names[0]) if names else None
    return 0 if authority is None else authority.limits.identifiers - 1


def _listed(addresses: Sequence[str]) -> str:
    *others, last = addresses
    return f"{', '.join(others)} and {last}" if others else last
