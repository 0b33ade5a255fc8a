# SPDX-License-Identifier: GPL-3.0-or-later
"""One laboratory for all calm tests of a session; each test takes mailboxes nobody has used before."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.forked_commands import Lab
from tests.scratch import scratch

MAILBOXES = 120
AUTO = "auto.example"
OBSERVED = "observed.example"
KEPT = "kept.example"
PAIRS = "pairs.example"
BROUGHT = "brought.example"
SIGNED = "signed.example"
SHARED = "shared.example"
APART = "apart.example"
INTERNATIONALIZED = "xn--mller-kva.example"  # müller.example


def with_aliases(domain: str, mode: str) -> dict[str, object]:
    """user0 has two aliases, of which one is in the other one's domain where the certificate is the same."""
    other = f"user2@{domain}" if mode == "own_certificate" else f"user9@{APART}"
    aliases = {f"user0@{domain}": [f"user1@{domain}", other]}
    return {"certificate": {"aliases": mode}, "mailboxes": {"list": [f"user0@{domain}"], "aliases": aliases}}


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    names = [f"user{number}" for number in range(MAILBOXES)]
    few = names[:10]
    with Lab(
        tmp_path_factory.mktemp("lab"),
        domains={
            "org.example": names,
            AUTO: few,
            OBSERVED: few,
            KEPT: few,
            SIGNED: few,
            PAIRS: few,
            BROUGHT: few,
            SHARED: few,
            APART: few,
            INTERNATIONALIZED: ["jürgen", "用户", "plain"],
        },
        reply_dkim="relay",
        more_authorities={
            "auto": {"challenge_trigger": "auto", "auto_post_after": "5s", "post_delay": "1s"},
            "signed": {"accept_smime_signed": True, "smime_trust": "testca/trust-roots.pem"},
        },
        policies={
            AUTO: {"authorities": ["auto"]},
            OBSERVED: {"mode": "observe"},
            KEPT: {"on_success": "deliver"},
            SIGNED: {"authorities": ["signed"]},
            PAIRS: {"certificate": {"layout": "dual", "key": "rsa2048"}},  # what openssl smime encrypts to
            BROUGHT: {"custody": "csr"},
            SHARED: with_aliases(SHARED, "same_certificate"),
            APART: with_aliases(APART, "own_certificate"),
        },
        testca_options={"options": ["--first-pause", "0.3"]},
        postfix_options={"aliases": {"alias@org.example": ["user0@org.example", "user1@org.example"]}},
    ) as running:
        yield running


_numbers = itertools.count(2)  # user0 and user1 belong to the alias


@pytest.fixture
def fresh(lab: Lab) -> Iterator[Callable[[], str]]:
    """Hands out unused mailboxes of org.example; the CA is calm again after the test."""
    yield lambda: f"user{next(_numbers)}@org.example"
    lab.authority.reset_knobs()


@pytest.fixture
def mailbox(fresh: Callable[[], str]) -> str:
    return fresh()


@pytest.fixture
def own_lab() -> Iterator[Callable[..., Lab]]:
    """Makes laboratories for tests that break things; each is stopped and removed at the end."""
    made: list[Lab] = []

    def make(mailboxes: int = 1, **options: Any) -> Lab:
        names = [f"user{number}" for number in range(mailboxes)]
        options.setdefault("reply_dkim", "own")
        options.setdefault("domains", {"org.example": names})
        # Other tests lint what the test CA issues; here it would be half a second for each worker that is started.
        options["authority"] = {"lint": "none", **options.get("authority", {})}
        lab = Lab(place / str(len(made)), **options)
        made.append(lab)
        lab.start()
        return lab

    with scratch("lab") as place:
        yield make
        for lab in made:
            lab.stop()
