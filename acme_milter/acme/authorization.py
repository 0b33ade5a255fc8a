# SPDX-License-Identifier: GPL-3.0-or-later
"""Authorizations and their email-reply-00 challenge (RFC 8555 §7.1.4, §7.5; RFC 8823 §3)."""

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from acme_milter.acme.answer import Answer
from acme_milter.acme.fields import Fields
from acme_milter.acme.jws import Signer
from acme_milter.acme.network import Network
from acme_milter.acme.order import Identifier
from acme_milter.acme.problem import Problem

CHALLENGE_TYPE = "email-reply-00"
# RFC 8555 §8.1 forbids padding in a token; RFC 8823's own examples have it.
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,1024}={0,2}", re.ASCII)
_SENDER = re.compile(r"[^\s\x00-\x1f\x7f-\x9f]{3,320}")


class AuthorizationStatus(StrEnum):
    """RFC 8555 §7.1.6."""

    PENDING = "pending"
    VALID = "valid"
    INVALID = "invalid"
    DEACTIVATED = "deactivated"
    EXPIRED = "expired"
    REVOKED = "revoked"


class ChallengeStatus(StrEnum):
    """RFC 8555 §7.1.6."""

    PENDING = "pending"
    PROCESSING = "processing"
    VALID = "valid"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class EmailChallenge:
    """RFC 8823 §3 step 3. token_part2: the half of the token that comes over HTTPS, as sent. sender: the
    address the ChallengeMail comes from (JSON `from`). Both are "" only when the challenge is over.

    An `error` while the status is `processing` or `pending` is not the end (errata 5732): the server goes on trying.
    """

    url: str
    status: ChallengeStatus
    token_part2: str = field(repr=False)
    sender: str
    error: Problem | None = None


@dataclass(frozen=True, slots=True)
class Authorization:
    """RFC 8555 §7.1.4, times in UTC. Already `valid` when first read: no ChallengeMail will come.

    challenge: None when the server offers no email-reply-00 (or no longer lists it).
    retry_after: how long the server asked to wait before the next look, None when it did not say.
    """

    url: str
    status: AuthorizationStatus
    expires: datetime | None
    identifier: Identifier
    challenge: EmailChallenge | None
    retry_after: timedelta | None = None


def fetch_authorization(network: Network, signer: Signer, account_url: str, url: str) -> Authorization:
    """Read an authorization (RFC 8555 §7.5, POST-as-GET). Some CAs send the ChallengeMail inside this call."""
    return _parse(network.post(url, None, signer, account_url), url)


def respond(network: Network, signer: Signer, account_url: str, challenge_url: str) -> EmailChallenge:
    """Tell the server that the reply is on its way (RFC 8555 §7.5.1); then poll the authorization.

    Also asks for another try of a challenge that is still processing (§8.2).
    """
    # §7.5.1, errata 5729: the response object of this challenge type has no fields; it is {}, not "".
    answer = network.post(challenge_url, {}, signer, account_url)
    fields = answer.fields("challenge")
    # What counts is that the server took it: the authorization tells the rest.
    return _parse_challenge(fields, ChallengeStatus.PENDING, url=challenge_url, open_=False)


def deactivate_authorization(network: Network, signer: Signer, account_url: str, url: str) -> Authorization:
    """Give an authorization up (RFC 8555 §7.5.2), so that the server cannot hand it out again."""
    return _parse(network.post(url, {"status": "deactivated"}, signer, account_url), url)


def _parse(answer: Answer, url: str) -> Authorization:
    fields = answer.fields("authorization")
    status = fields.state(AuthorizationStatus)
    identifier = fields.nested(fields.values.get("identifier"), "identifier")
    return Authorization(
        url=url,
        status=status,
        expires=fields.time("expires"),
        identifier=Identifier.parse(identifier),
        challenge=_email_challenge(fields, status),
        retry_after=answer.retry_after,
    )


def _email_challenge(fields: Fields, status: AuthorizationStatus) -> EmailChallenge | None:
    for item in fields.items("challenges"):
        challenge = fields.nested(item, "challenges")
        if challenge.values.get("type") == CHALLENGE_TYPE:
            return _parse_challenge(challenge, _implied(status), open_=status is AuthorizationStatus.PENDING)
    return None


def _implied(status: AuthorizationStatus) -> ChallengeStatus:
    """RFC 8555 §8 requires a challenge's status; RFC 8823's example has none. Then the authorization's says enough."""
    match status:
        case AuthorizationStatus.PENDING:
            return ChallengeStatus.PENDING
        case AuthorizationStatus.VALID:
            return ChallengeStatus.VALID
        case _:
            return ChallengeStatus.INVALID


def _parse_challenge(
    fields: Fields, implied: ChallengeStatus, *, open_: bool, url: str | None = None
) -> EmailChallenge:
    token = (fields.text if open_ else fields.optional_text)("token") or ""
    sender = (fields.text if open_ else fields.optional_text)("from") or ""
    if (open_ or token) and not _TOKEN.fullmatch(token):
        raise fields.fault("token", "not base64url")
    if (open_ or sender) and ("@" not in sender or not _SENDER.fullmatch(sender)):
        raise fields.fault("from", "not a mail address")
    return EmailChallenge(
        url=fields.url("url") if url is None else url,
        status=implied if fields.values.get("status") is None else fields.state(ChallengeStatus),
        token_part2=token,
        sender=sender,
        error=fields.problem(),
    )
