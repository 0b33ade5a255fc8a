# SPDX-License-Identifier: GPL-3.0-or-later
"""Exchanging an account's key (RFC 8555 §7.3.5), and finding out whether that has happened."""

from enum import Enum

from acme_milter.acme import account
from acme_milter.acme.jws import Signer, key_change, public_jwk
from acme_milter.acme.network import Network
from acme_milter.acme.problem import BadAnswer


class Holder(Enum):
    """Whose key the authority takes a key for."""

    NOBODY = "nobody"
    THIS_ACCOUNT = "this account"
    ANOTHER_ACCOUNT = "another account"


def holder_of(network: Network, key: Signer, account_url: str) -> Holder:
    """Whether an earlier exchange has taken effect though its answer was lost (RFC 8555 §7.3.1)."""
    found = account.find(network, key)
    if found is None:
        return Holder.NOBODY
    return Holder.THIS_ACCOUNT if found.url == account_url else Holder.ANOTHER_ACCOUNT


def roll_over(network: Network, signer: Signer, account_url: str, new_signer: Signer) -> None:
    """Exchange the account key for `new_signer`'s (RFC 8555 §7.3.5).

    The new key must be stored before; after a ServerBusy, `holder_of` tells whether it took effect. No challenge
    may be open: the thumbprint, and so every response digest, changes.
    Raises BadAnswer where the directory names no keyChange, and ServerRefused, with status 409 and `location` when
    the new key belongs to another account.
    """
    url = network.directory().key_change
    if url is None:
        raise BadAnswer("directory: the authority offers no keyChange")
    inner = key_change(new_signer, url=url, account_url=account_url, old_jwk=public_jwk(signer))
    network.post(url, inner, signer, account_url)
