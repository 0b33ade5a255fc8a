# SPDX-License-Identifier: GPL-3.0-or-later
"""The ways in which authorities differ, as the test CA's knobs, and the settings that meet each of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

ANSWERED = ("valid",)
"""What the authority finds of each reply that it gets to one challenge: never two (RFC 8823 §3 step 6)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """`does` says what the authority does; `knobs` have the test CA do it. `settings` are the authority's keys that
    meet it, none where the defaults do. `state` is how an enrollment ends, `replies` what the authority makes of those
    that it gets from each address: the mailbox and so many `aliases`, which are in its certificate.
    """

    name: str
    does: str
    knobs: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    state: str = "active"
    replies: tuple[str, ...] = ANSWERED
    aliases: int = 0


_TIMES = (
    Behaviour(name="mail-at-authorization", does="mails when the authorization is fetched"),
    Behaviour(
        name="mail-inside-new-order",
        does="mails inside newOrder, before it has answered",
        knobs={"MAIL_AT": "neworder", "MAIL_BEFORE_HTTP": "on"},
    ),
    Behaviour(
        name="mail-after-post",
        does="mails only after the challenge was POSTed",
        knobs={"MAIL_AT": "post"},
        settings={"challenge_trigger": "post-first"},
    ),
    Behaviour(
        name="mail-after-post-unknown",
        does="mails only after the POST, and nobody knew",
        knobs={"MAIL_AT": "post"},
        settings={"challenge_trigger": "auto", "auto_post_after": "3s"},
    ),
    Behaviour(
        name="early-post-invalid",
        does="ends a challenge that is POSTed before its reply is there",
        knobs={"EARLY_POST_INVALID": "on"},
    ),
    Behaviour(
        name="decides-at-post",
        does="looks for the reply only when the challenge is POSTed",
        knobs={"VALIDATE_AT": "post"},
    ),
    Behaviour(
        name="waits-seconds",
        does="gives the reply two seconds after the POST",
        knobs={"VALIDATE_AT": "post", "REPLY_PATIENCE": 2},
    ),
    Behaviour(name="reads-late", does="reads its mailbox only now and then", knobs={"REPLY_READ_DELAY": 3}),
    Behaviour(
        name="several-addresses-at-once",
        does="mails the challenges of all addresses of an order at once, inside newOrder",
        knobs={"MAIL_AT": "neworder"},
        aliases=3,
    ),
    Behaviour(
        name="several-addresses-one-sender",
        does="does so from one address, and takes each reply only when its challenge is POSTed",
        knobs={"MAIL_AT": "neworder", "MAIL_FROM": "fixed", "VALIDATE_AT": "post"},
        aliases=3,
    ),
    Behaviour(
        name="no-challenge-needed",
        does="hands out authorizations that are valid already",
        knobs={"AUTHZ_PREVALIDATED": 100},
        replies=(),
    ),
)

_TOKENS = tuple(
    Behaviour(
        name=f"token-{join}-{size}",
        does=f"joins the token as {meaning}, with {size} octets by mail",
        knobs={"TOKEN_JOIN": join, "TOKEN_PART1_BYTES": size},
        settings={} if join == "string" else {"token_join": join},
    )
    for join, meaning in (("string", "text"), ("bytes", "octets"), ("string-padded", "text with its padding"))
    for size in (16, 20, 24, 32)
)

_MAILS = (
    Behaviour(
        name="from-unique", does="sends each challenge from an address of its own", knobs={"MAIL_FROM": "unique"}
    ),
    Behaviour(name="from-fixed", does="sends all challenges from one address", knobs={"MAIL_FROM": "fixed"}),
    Behaviour(name="reply-to", does="wants replies at another address of its domain", knobs={"MAIL_REPLY_TO": "same"}),
    Behaviour(
        name="reply-to-elsewhere",
        does="wants replies in another domain",
        knobs={"MAIL_REPLY_TO": "elsewhere"},
        settings={"reply_to_domains": ["elsewhere.example"]},
    ),
    Behaviour(
        name="no-auto-submitted",
        does="does not say that its mail is automatic",
        knobs={"AUTO_SUBMITTED": "no"},
        settings={"require_auto_submitted": False},
    ),
    Behaviour(
        name="auto-submitted-comment",
        does="says it with comments and parameters",
        knobs={"AUTO_SUBMITTED": "comment"},
    ),
    Behaviour(name="no-date", does="sends no Date", knobs={"MAIL_DATE": "absent"}),
    Behaviour(
        name="partial-h",
        does="signs only the headers that are there",
        knobs={"DKIM_NAMES": "present"},
        settings={"dkim_headers": "present"},
    ),
    Behaviour(name="dkim-ed25519", does="signs with Ed25519", knobs={"DKIM_KEYS": "ed25519"}),
    Behaviour(name="dkim-both", does="signs with RSA and Ed25519", knobs={"DKIM_KEYS": "both"}),
    Behaviour(name="dkim-simple", does="signs the exact octets", knobs={"DKIM": "simple"}),
    Behaviour(
        name="dkim-first-bad",
        does="has a broken signature above the good one",
        knobs={"DKIM": "two-signatures-first-bad"},
    ),
    Behaviour(name="subject-folded", does="folds the Subject", knobs={"MAIL_SUBJECT": "folded"}),
    Behaviour(name="subject-q", does="writes the Subject in Q-encoded words", knobs={"MAIL_SUBJECT": "q"}),
    Behaviour(name="subject-b", does="writes the Subject in B-encoded words", knobs={"MAIL_SUBJECT": "b"}),
    Behaviour(name="subject-split", does="splits the token over two words", knobs={"MAIL_SUBJECT": "split"}),
    Behaviour(name="null-return-path", does="sends from <>", knobs={"MAIL_RETURN_PATH": "null"}),
    Behaviour(name="mail-twice", does="sends each challenge twice", knobs={"MAIL_DUP": 100}),
    Behaviour(
        name="threading-required", does="wants In-Reply-To and References", knobs={"REPLY_THREADING": "required"}
    ),
    Behaviour(name="greylisting", does="takes a reply only at its second coming", knobs={"REPLY_GREYLIST": 50}),
)

_SMIME = tuple(
    Behaviour(
        name=f"smime-{form}",
        does=f"signs by S/MIME instead of DKIM, {meaning}",
        knobs={"SMIME": form, "DKIM": "unsigned"},
        settings={"accept_smime_signed": True, "smime_trust": "testca/trust-roots.pem"},
    )
    for form, meaning in (
        ("clear", "its headers in the signed part (RFC 9788)"),
        ("wrapped", "its headers in a wrapped mail (RFC 8551)"),
        ("attribute", "its headers in an attribute (RFC 7508)"),
        ("enclosing", "the mail inside the signature"),
        ("sparse", "From, To and Subject in an attribute, and no time (platynum's kind)"),
    )
)

_ANSWERS = (
    Behaviour(name="bad-nonces", does="rejects every second nonce", knobs={"NONCEREJECT": 50}),
    Behaviour(name="finalize-slow", does="takes its time to finalize", knobs={"FINALIZE_ASYNC": 100}),
    Behaviour(
        name="retry-after-date",
        does="says when to look again as a date",
        knobs={"FINALIZE_ASYNC": 100, "RETRY_AFTER": "date"},
    ),
    Behaviour(
        name="retry-after-nonsense",
        does="says it in nonsense",
        knobs={"FINALIZE_ASYNC": 100, "RETRY_AFTER": "garbage"},
    ),
    Behaviour(name="finalize-500", does="answers finalize with 500 and does nothing", knobs={"FINALIZE_500": 50}),
    Behaviour(
        name="finalize-500-valid",
        does="answers finalize with 500, and the order becomes valid",
        knobs={"FINALIZE_500_LATE": 100},
    ),
    Behaviour(
        name="alternate-chain",
        does="offers a second chain, below another root",
        settings={"preferred_chain": "acme-milter test S/MIME other root"},
    ),
    Behaviour(
        name="error-while-processing", does="shows an error on what is not over", knobs={"PROCESSING_WITH_ERROR": "on"}
    ),
    Behaviour(
        name="no-error-object",
        does="refuses a reply and does not say why",
        knobs={"NO_ERROR_OBJECTS": "on", "TOKEN_JOIN": "bytes"},
        state="failed",
        replies=("invalid",),
    ),
    Behaviour(
        name="order-handed-back",
        does="hands back the open order of a lost answer",
        knobs={"ORDERREUSE": 100, "HTTP_RESET_AFTER_COMMIT": 30},
    ),
)

BEHAVIOURS = (*_TIMES, *_TOKENS, *_MAILS, *_SMIME, *_ANSWERS)


def domain_of(behaviour: Behaviour) -> str:
    """The domain in a laboratory whose mailboxes are ordered with these settings."""
    return f"{behaviour.name}.example"


def policy_of(behaviour: Behaviour) -> dict[str, object]:
    """What differs for its domain, whose mailbox is `user`."""
    policy: dict[str, object] = {"authorities": [behaviour.name]}
    if behaviour.aliases:
        mailbox, *aliases = addresses_of(behaviour)
        policy["certificate"] = {"aliases": "same_certificate"}
        policy["mailboxes"] = {"list": [mailbox], "aliases": {mailbox: aliases}}
    return policy


def addresses_of(behaviour: Behaviour) -> list[str]:
    """The mailbox, and its aliases."""
    names = ["user", *(f"alias{number}" for number in range(behaviour.aliases))]
    return [f"{name}@{domain_of(behaviour)}" for name in names]


def table(behaviours: tuple[Behaviour, ...] = BEHAVIOURS) -> str:
    """What docs/authorities.md shows, in Markdown."""
    lines = ["| | The authority… | is met by | ends |", "| --- | --- | --- | --- |"]
    for one in behaviours:
        keys = ", ".join(f"`{key}: {_shown(value)}`" for key, value in one.settings.items()) or "the defaults"
        lines.append(f"| {one.name} | {one.does} | {keys} | {one.state} |")
    return "\n".join(lines) + "\n"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)
