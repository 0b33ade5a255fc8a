# SPDX-License-Identifier: GPL-3.0-or-later
"""One named mail of the corpus, with what must be said about it, and the bench that says it with real parts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from acme_milter.protocol.challenge_mail import parse_challenge_mail
from acme_milter.protocol.dkim_policy import HeaderCoverage
from acme_milter.protocol.faults import MailFault, MailRefused
from acme_milter.worker.arithmetic_pool import ArithmeticPool
from acme_milter.worker.dkim_verifier import DkimVerifier
from acme_milter.worker.key_lookup import KeyLookup
from tests.protocol.key_server import KeyServer, Misbehaviour
from tests.protocol.sample_mail import NOW, ORDER_CREATED, good_zone

Records = Sequence[bytes] | Misbehaviour


@dataclass(frozen=True)
class MailCase:
    """`fault` is what must be reported, None for a mail that must pass. `zone` changes the CA's zone.

    `dkimpy_accepts` marks mails a bare dkimpy calls good. `arrives` shifts the time of judgement.
    """

    name: str
    make: Callable[[], bytes]
    fault: MailFault | None = None
    zone: Callable[[], Mapping[str, Records]] = dict
    coverage: HeaderCoverage = HeaderCoverage.STRICT
    require_auto_submitted: bool = True
    minimum_rsa_bits: int = 1024
    dkimpy_accepts: bool = False
    arrives: timedelta = timedelta(0)

    def full_zone(self) -> dict[str, Records]:
        return {**good_zone(), **self.zone()}


@dataclass(frozen=True)
class Judge:
    """The whole way of a mail: parsing, policy, DNS over UDP, arithmetic in children."""

    server: KeyServer
    verifier: DkimVerifier

    def fault(self, case: MailCase) -> MailFault | None:
        """The first fault of the mail, or None when it is proven."""
        self.server.zone = case.full_zone()
        try:
            mail = parse_challenge_mail(case.make(), require_auto_submitted=case.require_auto_submitted)
        except MailRefused as refusal:
            return refusal.fault
        verdict = self.verifier.verify(
            mail,
            coverage=case.coverage,
            now=NOW + case.arrives,
            not_before=ORDER_CREATED,
            minimum_rsa_bits=case.minimum_rsa_bits,
        )
        assert verdict.passed == (verdict.fault is None)
        return verdict.fault


@contextmanager
def judge(children: int = 1, dns_seconds: float = 0.5) -> Iterator[Judge]:
    """A judge with a name server and children of its own."""
    with KeyServer() as server, ArithmeticPool(children) as pool:
        yield Judge(server, DkimVerifier(pool, KeyLookup([server.address], timeout=dns_seconds)))
