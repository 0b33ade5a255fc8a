# SPDX-License-Identifier: GPL-3.0-or-later
"""DKIM keys from the DNS: an answer, a certain absence, or "ask again later" (RFC 6376 §6.1.2)."""

import threading
import time
from collections.abc import Sequence

import dns.exception
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver

TRY_SECONDS = 2.0
MAX_CACHE_SECONDS = 300.0
_MAX_CACHED = 256
_EDNS_PAYLOAD = 1232


class KeyAbsent(Exception):
    """The name does not exist or has no TXT record: there is no key, and asking again will not help."""

    safe_text = True


class LookupDeferred(Exception):
    """No certain answer: SERVFAIL, a timeout, nonsense, or no resolver to ask. Trying again later may help."""

    safe_text = True


class KeyLookup:
    """Looks up TXT records; safe for many threads.

    `nameservers` are (address, port) pairs; without any, the system's resolv.conf is used. At most 2 s are spent on
    one try and `timeout` seconds on one name, TCP after a truncated answer included. Found keys are kept for their
    time to live, at most five minutes; absences are not, for a CA may be mending one.
    """

    def __init__(self, nameservers: Sequence[tuple[str, int]] = (), timeout: float = 5.0) -> None:
        self._timeout = timeout
        self._lock = threading.Lock()
        self._cache: dict[dns.name.Name, tuple[float, tuple[bytes, ...]]] = {}
        self._resolver = make_resolver(nameservers)

    def fetch(self, name: str, *, within: float | None = None) -> tuple[bytes, ...]:
        """Each TXT record of `name` (absolute, without the final dot), its strings joined with nothing between.

        `within` shortens the time allowed, in seconds. Raises KeyAbsent or LookupDeferred.
        """
        try:
            absolute = dns.name.from_text(name, dns.name.root)
        except dns.exception.DNSException:
            raise KeyAbsent("the key's name is no DNS name") from None
        cached = self._cached(absolute)
        if cached is not None:
            return cached
        answer = self._ask(absolute, self._timeout if within is None else min(within, self._timeout))
        records = tuple(b"".join(record.strings) for record in answer)
        if answer.rrset is not None:
            self._keep(absolute, records, answer.rrset.ttl)
        return records

    def _ask(self, name: dns.name.Name, seconds: float) -> dns.resolver.Answer:
        if self._resolver is None:
            raise LookupDeferred("there is no name server: neither configured nor in resolv.conf")
        if seconds <= 0:
            raise LookupDeferred("no time is left to ask the DNS")
        try:
            return self._resolver.resolve(name, dns.rdatatype.TXT, lifetime=seconds, search=False)
        except dns.resolver.NXDOMAIN:
            raise KeyAbsent("the key's name does not exist") from None
        except dns.resolver.NoAnswer:
            raise KeyAbsent("the key's name has no TXT record") from None
        except dns.exception.Timeout:
            raise LookupDeferred("the DNS did not answer in time") from None
        except (dns.exception.DNSException, OSError):
            raise LookupDeferred("the DNS gave no usable answer") from None

    def _cached(self, name: dns.name.Name) -> tuple[bytes, ...] | None:
        with self._lock:
            until, records = self._cache.get(name, (0.0, ()))
            return records if time.monotonic() < until else None

    def _keep(self, name: dns.name.Name, records: tuple[bytes, ...], ttl: int) -> None:
        with self._lock:
            if len(self._cache) >= _MAX_CACHED:
                self._cache.pop(next(iter(self._cache)))
            self._cache[name] = (time.monotonic() + min(float(ttl), MAX_CACHE_SECONDS), records)


def make_resolver(nameservers: Sequence[tuple[str, int]]) -> dns.resolver.Resolver | None:
    """One that asks these, or the system's when there are none; None when the system has none either."""
    try:
        resolver = dns.resolver.Resolver(configure=not nameservers)
    except dns.resolver.NoResolverConfiguration:
        return None
    if nameservers:
        resolver.nameservers = [dns.nameserver.Do53Nameserver(address, port) for address, port in nameservers]
    resolver.timeout = TRY_SECONDS
    resolver.use_edns(0, 0, _EDNS_PAYLOAD)
    return resolver
