# SPDX-License-Identifier: GPL-3.0-or-later
"""One HTTP answer: what its status means (RFC 8555 §6.6, §6.7), its links, its JSON."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus
from http.client import responses
from typing import NoReturn
from urllib.parse import urljoin

from acme_milter.acme.fields import Fields, parse_json_object
from acme_milter.acme.problem import (
    AcmeError,
    BadAnswer,
    ErrorType,
    Link,
    Problem,
    RateLimited,
    ServerBusy,
    ServerRefused,
    printable,
)
from acme_milter.acme.retry_after import parse_http_date, parse_retry_after
from acme_milter.acme.urls import Origin

_LINK = re.compile(r"<([^<>]*)>([^<]*)")
_RELATION = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^\s;,"]+))', re.IGNORECASE)
_MOST_LINKS = 50
_RATE_LIMIT = re.compile(r"(?:x-)?rate-?limit(?:-[a-z]+)*\Z", re.IGNORECASE)
_MOST_LIMITS = 10
_LONGEST_LIMIT = 200
_BUSY = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY})


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `url` is what was asked; header names are case-insensitive; `now` is when it came (UTC)."""

    status: int
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    origin: Origin
    now: datetime

    @property
    def date(self) -> datetime | None:
        """The server's clock (Date field), UTC."""
        return parse_http_date(self.headers.get("Date", ""))

    @property
    def retry_after(self) -> timedelta | None:
        """How long the server asks to wait, 1 s .. 24 h (RFC 8555 §6.6, §7.5.1).

        A date is counted from the server's own Date, so that a wrong clock on this side does not matter.
        """
        return parse_retry_after(self.headers.get("Retry-After"), self.date or self.now)

    @property
    def rate_limits(self) -> dict[str, str]:
        """What the header fields say of the server's limits, whichever way they are spelled: RateLimit and
        RateLimit-Policy of the HTTPAPI working group's draft, RateLimit-Limit of older ones, X-RateLimit-*. For people.
        """
        found = [(name, value) for name, value in self.headers.items() if _RATE_LIMIT.match(name)]
        return {name: printable(value, _LONGEST_LIMIT) for name, value in found[:_MOST_LIMITS]}

    @property
    def links(self) -> tuple[Link, ...]:
        """Link fields with a relation; relative references resolved against the request's URL."""
        found = []
        for target, parameters in _LINK.findall(self.headers.get("Link", ""))[:_MOST_LINKS]:
            relation = _RELATION.search(parameters)
            if relation:
                words = (relation[1] or relation[2] or "").lower().split()
                found += [Link(word, self._absolute(target)) for word in words]
        return tuple(link for link in found if link.url)

    def _absolute(self, target: str) -> str:
        try:
            return urljoin(self.url, target.strip())
        except ValueError:
            return ""

    def location(self, where: str) -> str:
        """The required Location field, on the directory's origin. Raises BadAnswer."""
        value = self.headers.get("Location")
        if value is None:
            raise BadAnswer(f"{where}: the answer has no Location")
        return self.origin.check(value, f"{where}: Location")

    def fields(self, where: str) -> Fields:
        """The body as a JSON object. Raises BadAnswer when it is of another type or is broken."""
        media_type = self._media_type()
        # A missing Content-Type says nothing against the body; text/html does.
        if media_type and media_type != "application/json" and not media_type.endswith("+json"):
            raise BadAnswer(f"{where}: expected JSON, got {printable(media_type, 60)}")
        return Fields(where, parse_json_object(self.body, where), self.origin)

    def problem(self) -> Problem:
        """The error's problem document (§6.7); an HTTP page of a proxy becomes one of type about:blank."""
        document: object = None
        if self._media_type() in {"application/problem+json", "application/json", ""}:
            try:
                document = parse_json_object(self.body, "problem")
            except BadAnswer:
                document = None
        problem = Problem.parse(document, status=self.status)
        if document is not None:
            return problem
        return Problem("about:blank", title=responses.get(self.status, ""), status=self.status)

    def is_bad_nonce(self) -> bool:
        """RFC 8555 §6.5: a nonce the server does not accept; the request had no effect."""
        return self.status >= 400 and self.problem().kind is ErrorType.BAD_NONCE

    def checked(self) -> "Answer":
        """Return self when the status is 2xx, else raise the matching AcmeError."""
        return self if 200 <= self.status <= 299 else self._raise()

    def _raise(self) -> NoReturn:
        if self.status < 400:
            # Redirects are never followed: the signed "url" would be wrong (§6.4), and the target unchecked.
            raise BadAnswer(f"unexpected HTTP status {self.status}")
        problem = self.problem()
        kind: type[AcmeError] = ServerRefused
        if self.status == HTTPStatus.TOO_MANY_REQUESTS or problem.kind is ErrorType.RATE_LIMITED:
            kind = RateLimited
        elif self.status >= 500 or self.status in _BUSY:
            kind = ServerBusy
        raise kind(
            str(problem),
            problem=problem,
            retry_after=self.retry_after,
            links=self.links,
            location=self.headers.get("Location"),
            # A 5xx may come after the work was done (seen at finalize); a 429 comes before it.
            outcome_unknown=kind is ServerBusy,
        )

    def _media_type(self) -> str:
        return self.headers.get("Content-Type", "").split(";")[0].strip().lower()
