# SPDX-License-Identifier: GPL-3.0-or-later
"""Which URLs of an answer we are ready to follow: https, on the directory's own origin, sent unaltered."""

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from acme_milter.acme.problem import BadAnswer, printable

_LONGEST = 2048
_LEGAL = re.compile(r"[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=%]+", re.ASCII)  # RFC 3986 §2, no "#": no fragments


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme https, a host and a port: everything the server names must be there (no SSRF, no downgrade)."""

    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> "Origin":
        """Take the origin of a configured URL. Raises ValueError saying what is wrong with it."""
        return cls(*_host_and_port(url))

    def check(self, value: object, field: str) -> str:
        """Return `value` unchanged when it is a URL on this origin, else raise BadAnswer naming `field`."""
        if not isinstance(value, str):
            raise BadAnswer(f"{field}: not a URL")
        try:
            found = _host_and_port(value)
        except ValueError as error:
            raise BadAnswer(f"{field}: {error}: {printable(value, 120)}") from None
        if found != (self.host, self.port):
            raise BadAnswer(f"{field}: points away from {self}: {printable(value, 120)}")
        return value

    def __str__(self) -> str:
        return f"https://{self.host}:{self.port}"


def _host_and_port(url: str) -> tuple[str, int]:
    # RFC 8555 §6.1: "ACME clients MUST … use HTTPS"; the rest keeps §6.4 true: the signed "url" must be
    # byte for byte what goes over the wire, so a URL our HTTP library would rewrite is refused up front.
    if len(url) > _LONGEST:
        raise ValueError("URL too long")
    if not _LEGAL.fullmatch(url):
        raise ValueError("illegal character in URL")
    parts = urlsplit(url)
    if parts.scheme != "https":
        raise ValueError("not an https URL")
    if "@" in parts.netloc:
        raise ValueError("user name in URL")
    if not parts.hostname:
        raise ValueError("URL without a host")
    if _rewritten(url, parts):
        raise ValueError("URL cannot be sent unaltered")
    return parts.hostname, 443 if parts.port is None else parts.port


def _rewritten(url: str, parts: SplitResult) -> bool:
    """Whether urllib3 would normalize the path or query (dot segments, percent signs)."""
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        return parse_url(url).request_uri != target
    except LocationParseError as error:
        raise ValueError("not a URL") from error
