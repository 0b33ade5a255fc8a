# SPDX-License-Identifier: GPL-3.0-or-later
"""What every part of the CA works with: books, history, knobs, keys and the way out for mail."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from acme_milter.testca.chaos import Chaos
from acme_milter.testca.clock import Clock
from acme_milter.testca.dkim_keys import DkimKeys
from acme_milter.testca.encoding import to_base64url
from acme_milter.testca.history import History
from acme_milter.testca.knobs import KnobValue
from acme_milter.testca.ledger import Ledger
from acme_milter.testca.pki import Pki

Endpoint = tuple[str, int]
ReplyDkim = Literal["strict", "lenient", "off"]


@dataclass(frozen=True, slots=True)
class Options:
    """How the CA was started. `eab` maps key identifiers to MAC keys; `resolver` may only miss when DKIM is off."""

    listen: Endpoint
    smtp_target: Endpoint
    mx_listen: Endpoint
    dns_listen: Endpoint
    resolver: Endpoint | None
    domain: str
    dkim_algorithm: str
    directory_out: Path | None
    state_dir: Path
    reply_dkim: ReplyDkim
    eab: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    chaos: Mapping[str, KnobValue] = field(default_factory=dict)
    seed: int | None = None
    senders: int = 4
    first_pause: float = 1.0
    events: int | None = None


class Nonces:
    """Nonces given out and not yet used (RFC 8555 §6.5), the oldest forgotten beyond a bound."""

    def __init__(self, random: Callable[[int], bytes], bound: int = 100_000) -> None:
        self._random = random
        self._bound = bound
        self._fresh: OrderedDict[str, None] = OrderedDict()

    def new(self) -> str:
        """Return a fresh nonce."""
        nonce = to_base64url(self._random(16))
        self._fresh[nonce] = None
        if len(self._fresh) > self._bound:
            self._fresh.popitem(last=False)
        return nonce

    def use(self, nonce: object) -> bool:
        """Spend a nonce; False when it was never given out or is spent."""
        if not isinstance(nonce, str) or nonce not in self._fresh:
            return False
        del self._fresh[nonce]
        return True


@dataclass(frozen=True, slots=True)
class Office:
    """The CA's parts that all rooms share. Used on the event loop's thread alone."""

    options: Options
    base_url: str
    clock: Clock
    chaos: Chaos
    history: History
    ledger: Ledger
    nonces: Nonces
    pki: Pki
    dkim_keys: DkimKeys
