# SPDX-License-Identifier: GPL-3.0-or-later
"""The name of an authority's staging service: what is ordered there is a rehearsal and counts for nothing."""

SUFFIX = ":staging"  # no configured name has a colon


def staging_of(authority: str) -> str:
    """The name under which the authority's staging service is kept."""
    return authority + SUFFIX


def is_staging(authority: str) -> bool:
    """Whether this is the name of a staging service."""
    return authority.endswith(SUFFIX)


def rehearsed_for(authority: str) -> str:
    """The authority that this staging service belongs to; any other name as it is."""
    return authority.removesuffix(SUFFIX)
