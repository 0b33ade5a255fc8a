# SPDX-License-Identifier: GPL-3.0-or-later
"""One authority over HTTPS: directory, nonces and signed requests (RFC 8555 §6), used by many threads at once."""

import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import requests

from acme_milter import __version__
from acme_milter.acme.answer import Answer
from acme_milter.acme.directory import Directory
from acme_milter.acme.jws import Signer, encode_json, request_body
from acme_milter.acme.nonces import NoncePool, valid_nonce
from acme_milter.acme.problem import BadAnswer, ServerBusy
from acme_milter.acme.transport import Transport
from acme_milter.acme.urls import Origin

__all__ = ["Answer", "Network", "Signer"]

_DIRECTORY_AGE = 24 * 3600.0  # seconds
_LONGEST_PAUSE = 0.5  # seconds between two tries with a new nonce
_JSON = "application/json, application/problem+json"


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Network:
    """Talks to the authority whose directory is at `directory_url`. Thread-safe; close() when done.

    Everything the server names must be https on the directory's own origin. Redirects, cookies and
    proxies are off; a proxy of the environment (https_proxy, no_proxy) is used only with system_proxies.
    """

    def __init__(
        self,
        directory_url: str,
        *,
        ca_bundle: Path | None = None,
        user_agent: str = f"acme-milter/{__version__}",
        language: str = "en",
        timeout: float = 30.0,
        connections: int = 64,
        system_proxies: bool = False,
        nonce_deadline: float = 60.0,
        clock: Callable[[], datetime] = _utc_now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """ca_bundle: PEM file of the only CAs to trust (None: the system's). timeout: seconds for one whole
        HTTP exchange. connections: most at once. nonce_deadline: seconds to keep retrying badNonce.
        clock: aware UTC now.

        Raises ValueError for an unusable directory_url, OSError for an unreadable ca_bundle.
        """
        self.origin = Origin.of(directory_url)
        self._directory_url = directory_url
        self._transport = Transport(
            ca_bundle=ca_bundle, timeout=timeout, connections=connections, system_proxies=system_proxies
        )
        # RFC 8555 §6.1: MUST send User-Agent with the name and version of the client, and SHOULD of the
        # HTTP library; SHOULD send Accept-Language.
        agent = f"{user_agent} python-requests/{requests.__version__}"
        # Identity: so that the size cap counts what is really unpacked.
        self._headers = {"User-Agent": agent, "Accept-Language": language, "Accept-Encoding": "identity"}
        self._nonces = NoncePool(capacity=2 * connections)
        self._nonce_deadline = nonce_deadline
        self._clock = clock
        self._sleep = sleep
        # One tuple, replaced whole: readers need no lock, and two threads fetching it at once do no harm.
        self._directory: tuple[Directory, float] | None = None
        self._clock_skew: timedelta | None = None
        self._rate_limits: Mapping[str, str] = {}

    @property
    def clock_skew(self) -> timedelta | None:
        """Our clock minus the server's, from its latest answer with a Date; None before that."""
        return self._clock_skew

    @property
    def rate_limits(self) -> Mapping[str, str]:
        """By header field what the latest answer that had any said of the server's limits."""
        return self._rate_limits

    def ask_the_time(self) -> timedelta | None:
        """`clock_skew` by an answer of this moment. Raises an AcmeError when there is none."""
        self.get(self._directory_url)
        return self._clock_skew

    def directory(self) -> Directory:
        """The directory, fetched at first use, daily, and after one of its URLs turned out gone (404)."""
        cached = self._directory
        if cached is not None and time.monotonic() - cached[1] < _DIRECTORY_AGE:
            return cached[0]
        directory = Directory.parse(self.get(self._directory_url).fields("directory"))
        self._directory = (directory, time.monotonic())
        return directory

    def forget_directory(self) -> None:
        """Fetch it anew at its next use: what it says may have changed today."""
        self._directory = None

    def get(self, url: str) -> Answer:
        """Unauthenticated GET: only the directory and renewalInfo (RFC 8555 §6.3, RFC 9773 §4.1).

        Raises an AcmeError for any status but 2xx.
        """
        answer = self._exchange("GET", url, {"Accept": _JSON}, None)
        self._keep_nonce(answer)
        return answer.checked()

    def post(
        self,
        url: str,
        payload: Mapping[str, object] | None,
        signer: Signer,
        kid: str | None,
        *,
        accept: str = _JSON,
    ) -> Answer:
        """Signed POST; payload None is POST-as-GET, kid None signs with the bare key (RFC 8555 §6.2, §6.3).

        badNonce is retried with the nonce of that very answer until the nonce deadline (§6.5).
        Raises RateLimited, ServerBusy, ServerRefused or BadAnswer; what the signer raises passes through.
        """
        # §6.3: POST-as-GET has a zero-length payload, which is neither {} nor null.
        content = b"" if payload is None else encode_json(payload)
        headers = {"Accept": accept, "Content-Type": "application/jose+json"}
        deadline = time.monotonic() + self._nonce_deadline
        nonce = self._take_nonce()
        attempt = 0
        while True:
            body = request_body(signer, url=url, nonce=nonce, kid=kid, payload=content)
            answer = self._exchange("POST", url, headers, body)
            if not answer.is_bad_nonce():
                self._keep_nonce(answer)
                return self._noticing_404(answer).checked()
            if time.monotonic() >= deadline:
                problem = answer.problem()
                raise ServerBusy(str(problem), problem=problem, retry_after=answer.retry_after)
            # The first retry goes at once; later ones spread out, so that many threads do not march in step.
            self._sleep(random.uniform(0, min(_LONGEST_PAUSE, 0.02 * 2**attempt)) if attempt else 0.0)  # noqa: S311  # no secret
            attempt += 1
            # §6.5: the retry uses the nonce of the error answer; it never visits the pool in between.
            nonce = valid_nonce(answer.headers.get("Replay-Nonce")) or self._fresh_nonce()

    def close(self) -> None:
        """Close all idle connections."""
        self._transport.close()

    def _exchange(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        # The one door to the wire: nothing leaves for another origin, whoever supplied the URL.
        self.origin.check(url, "URL")
        status, fields, content = self._transport.exchange(method, url, {**self._headers, **headers}, body)
        answer = Answer(status, url, fields, content, self.origin, self._clock())
        if answer.date is not None:
            self._clock_skew = answer.now - answer.date
        self._rate_limits = answer.rate_limits or self._rate_limits
        return answer

    def _take_nonce(self) -> str:
        return self._nonces.take() or self._fresh_nonce()

    def _fresh_nonce(self) -> str:
        # RFC 8555 §7.2: HEAD newNonce, 200 (or 204); the nonce is in Replay-Nonce.
        answer = self._exchange("HEAD", self.directory().new_nonce, {}, None)
        nonce = valid_nonce(self._noticing_404(answer).checked().headers.get("Replay-Nonce"))
        if nonce is None:
            raise BadAnswer("newNonce: no valid Replay-Nonce in the answer")
        return nonce

    def _keep_nonce(self, answer: Answer) -> None:
        # RFC 8555 §6.5: any answer may bring the next nonce, an error's as well.
        nonce = valid_nonce(answer.headers.get("Replay-Nonce"))
        if nonce is not None:
            self._nonces.put(nonce)

    def _noticing_404(self, answer: Answer) -> Answer:
        cached = self._directory
        if answer.status == 404 and cached is not None and cached[0].holds(answer.url):
            self._directory = None
        return answer
