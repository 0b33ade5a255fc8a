# SPDX-License-Identifier: GPL-3.0-or-later
"""Terms of service that change (RFC 8555 §7.3.3): knob TERMS_VERSION says which are in force."""

from acme_milter.testca.ledger import Account
from acme_milter.testca.office import Office
from acme_milter.testca.problem import ProblemError


def version_in_force(office: Office) -> int:
    """Return the number of the terms that accounts must have agreed to."""
    return office.chaos.number("TERMS_VERSION")


def terms_url(office: Office) -> str:
    """Return where the terms in force can be read."""
    version = version_in_force(office)
    return f"{office.base_url}/terms" + (f"/{version}" if version > 1 else "")


def demand_agreement(office: Office, account: Account) -> None:
    """Refuse a request of an account that has agreed to older terms only."""
    if account.terms_version < version_in_force(office):
        raise ProblemError(
            "userActionRequired",
            "the terms of service have changed",
            members={"instance": f"{terms_url(office)}/agree"},
            headers={"Link": f'<{terms_url(office)}>;rel="terms-of-service"'},
        )
