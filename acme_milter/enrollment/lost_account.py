# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said where an authority does not know our account any more, as one does that was set up anew."""

_MARK = "does not know our account any more; run: "
_ENDS = " ("


def in_words(authority: str, scope: str, said: str) -> str:
    """The commands, and what the authority has ``said``. ``scope`` is whose account it is, nothing for everybody's."""
    whose = f" --account {scope}" if scope else ""
    command = f"acme-milter authority deactivate {authority}{whose} --yes"
    return (
        f"{authority} {_MARK}{command}; then: acme-milter authority register {authority}{whose} --again{_ENDS}{said})"
    )


def remedy_in(error: str | None) -> str | None:
    """The commands of such a text, for whoever shows it; None: it is about something else."""
    _, found, rest = (error or "").partition(_MARK)
    return rest.partition(_ENDS)[0] if found else None
