# SPDX-License-Identifier: GPL-3.0-or-later
"""A managed mailbox as the configuration and the sources know it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Member:
    """``address`` in its canonical spelling. ``principal`` is whose keys its keys are: the source's id for the person,
    ``SOURCE:ID``, or the address itself where nobody is known. ``source`` is its name below ``sources``, or ``list``.
    ``aliases`` are further addresses of the same person, as the source has them; one that is managed as a mailbox of
    its own has the main address as ``alias_of``.
    """

    address: str
    principal: str
    source: str = "list"
    groups: frozenset[str] = frozenset()
    person_name: str | None = None
    aliases: tuple[str, ...] = ()
    alias_of: str | None = None

    @property
    def domain(self) -> str:
        return self.address.rpartition("@")[2]
