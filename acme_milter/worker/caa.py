# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks up, before an order, whether a domain's CAA records let the authority issue: once for all its mailboxes."""

import enum
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import dns.exception
import dns.message
import dns.name
import dns.rdatatype
import dns.resolver

from acme_milter.clock import Clock
from acme_milter.eventlog import Event, log_event, log_exception
from acme_milter.protocol.caa import CaaRecord, names_to_ask, objection, record_to_add
from acme_milter.worker.key_lookup import make_resolver

LONGEST = 8 * 3600.0
"""Seconds that an answer is kept at most: so long may an authority rely on its own (S/MIME BR §4.2.2.1)."""

SHORTEST = 60.0
REFUSED_FOR = 300.0
"""Seconds that a refusal is kept at most: somebody may be adding the record right now."""

UNCLEAR_FOR = 30.0
NO_RECORD = 300.0
"""Seconds that an absence is kept whose zone does not say for how long (RFC 2308 §5)."""

MOST_DOMAINS = 20_000
PATIENCE = 0.5
"""Seconds that a step waits for an answer before it makes room for another mailbox."""

THREADS = 4


class CaaUnclear(Exception):
    """No certain answer: for an authority a reason to refuse (RFC 8659 §3, DNSSEC failures included)."""

    safe_text = True


@dataclass(frozen=True, slots=True)
class Relevant:
    """The records that decide about a domain, the name that has them, and for how many seconds that holds."""

    name: str
    records: tuple[CaaRecord, ...]
    seconds: float


class CaaLookup:
    """Asks the DNS; safe for many threads. `nameservers` and `timeout` as for the keys of signatures."""

    def __init__(self, nameservers: Sequence[tuple[str, int]] = (), timeout: float = 5.0) -> None:
        self._resolver = make_resolver(nameservers)
        self._timeout = timeout

    def fetch(self, domain: str) -> Relevant:
        """RFC 8659 §3: climb from the domain to the first name with CAA records. Raises CaaUnclear."""
        seconds = LONGEST
        for name in names_to_ask(domain):
            records, kept = self._ask(name)
            seconds = min(seconds, kept)
            if records:
                return Relevant(name, records, seconds)
        return Relevant(domain, (), seconds)

    def _ask(self, name: str) -> tuple[tuple[CaaRecord, ...], float]:
        if self._resolver is None:
            raise CaaUnclear("there is no name server: neither configured nor in resolv.conf")
        try:
            absolute = dns.name.from_text(name, dns.name.root)
            answer = self._resolver.resolve(absolute, dns.rdatatype.CAA, lifetime=self._timeout, search=False)
        except dns.resolver.NXDOMAIN as absent:
            return (), min(map(_absent_for, absent.kwargs["responses"].values()), default=NO_RECORD)
        except dns.resolver.NoAnswer as absent:
            return (), _absent_for(absent.kwargs["response"])
        except dns.exception.Timeout:
            raise CaaUnclear(f"the DNS did not answer in time for {name}") from None
        except dns.resolver.NoNameservers:
            raise CaaUnclear(f"the DNS refuses to answer for {name} (SERVFAIL, or DNSSEC does not hold)") from None
        except (dns.exception.DNSException, OSError):
            raise CaaUnclear(f"the DNS gave no usable answer for {name}") from None
        records = tuple(
            CaaRecord(one.flags, one.tag.decode("ascii", "replace"), one.value.decode("latin-1")) for one in answer
        )
        return records, float(answer.rrset.ttl if answer.rrset is not None else NO_RECORD)


def _absent_for(response: dns.message.Message) -> float:
    """RFC 2308 §5: the SOA record's TTL or its MINIMUM, the smaller one."""
    for rrset in response.authority:
        if rrset.rdtype == dns.rdatatype.SOA:
            return float(min(rrset.ttl, *(soa.minimum for soa in rrset)))
    return NO_RECORD


class Permission(enum.Enum):
    """What is known."""

    GIVEN = enum.auto()
    REFUSED = enum.auto()
    UNCLEAR = enum.auto()
    PENDING = enum.auto()


@dataclass(frozen=True, slots=True)
class Answer:
    """``text`` is for people: why not, and which record would change that."""

    permission: Permission
    text: str = ""


MayIssue = Callable[[str, Sequence[str], str], Answer]
"""Whether an authority (its name here, and its names in CAA records) may issue for a domain in A-labels."""


def nobody_asked(_authority: str, _identities: Sequence[str], _domain: str) -> Answer:
    """For a worker that is to order whatever it is told to."""
    return Answer(Permission.GIVEN)


def judge(authority: str, identities: Sequence[str], domain: str, found: Relevant) -> Answer:
    """What the records mean for one authority."""
    why = objection(found.records, identities)
    if why is None:
        return Answer(Permission.GIVEN)
    add = record_to_add(found.name, identities[0])
    text = f"CAA of {found.name} does not let {authority} issue for {domain}: {why}; the record to add: {add}"
    return Answer(Permission.REFUSED, text)


class CaaCheck:
    """Call it as MayIssue says. Any number of threads may; a name server that hangs holds up no other domain's step."""

    def __init__(self, lookup: CaaLookup, clock: Clock) -> None:
        self._lookup = lookup
        self._clock = clock
        self._known: dict[str, tuple[float, Relevant | str]] = {}
        self._asking: dict[str, tuple[threading.Event, float]] = {}
        self._told: set[str] = set()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="caa")

    def __call__(self, authority: str, identities: Sequence[str], domain: str) -> Answer:
        if not identities:
            self._tell_once(authority)
            return Answer(Permission.GIVEN)
        found = self._found(domain)
        if found is None:
            return Answer(Permission.PENDING)
        if isinstance(found, str):
            return Answer(Permission.UNCLEAR, f"CAA of {domain}: {found}, and no authority may issue then")
        answer = judge(authority, identities, domain, found)
        if answer.permission is Permission.REFUSED:
            self._shorten(domain)
        return answer

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _found(self, domain: str) -> Relevant | str | None:
        with self._lock:
            found = self._fresh(domain)
            if found is not None:
                return found
            if domain not in self._asking:
                self._asking[domain] = threading.Event(), time.monotonic() + PATIENCE
                self._threads.submit(self._ask, domain)
            done, patience = self._asking[domain]
        if patience > time.monotonic():
            done.wait(patience - time.monotonic())
        with self._lock:
            return self._fresh(domain)

    def _fresh(self, domain: str) -> Relevant | str | None:
        until, found = self._known.get(domain, (0.0, None))
        return found if self._clock.monotonic() < until else None

    def _ask(self, domain: str) -> None:
        found: Relevant | str
        try:
            found = self._lookup.fetch(domain)
            seconds = min(max(found.seconds, SHORTEST), LONGEST)
        except CaaUnclear as unclear:
            found, seconds = str(unclear), UNCLEAR_FOR
        except Exception as error:  # noqa: BLE001 the edge of the thread: whoever waits must learn that it went wrong
            log_exception(Event.INTERNAL_ERROR, error)
            found, seconds = f"internal error ({type(error).__name__}); the worker's log has the place", UNCLEAR_FOR
        with self._lock:
            if len(self._known) >= MOST_DOMAINS:
                self._known.pop(next(iter(self._known)))
            self._known[domain] = self._clock.monotonic() + seconds, found
            done, _ = self._asking.pop(domain)
        done.set()

    def _shorten(self, domain: str) -> None:
        with self._lock:
            until, found = self._known.get(domain, (0.0, None))
            if found is not None:
                self._known[domain] = min(until, self._clock.monotonic() + REFUSED_FOR), found

    def _tell_once(self, authority: str) -> None:
        with self._lock:
            told = authority in self._told
            self._told.add(authority)
        if not told:
            why = f"its directory names no caaIdentities, and authorities.{authority}.caa_domains none either"
            log_event(Event.CAA_UNCHECKED, authority=authority, error=why)
