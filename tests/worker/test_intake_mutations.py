# SPDX-License-Identifier: GPL-3.0-or-later
"""A good challenge mail, damaged at random: it is answered as it was meant, or not at all."""

import random

import pytest

from acme_milter.enrollment.conditions import Reason
from acme_milter.protocol.challenge_mail import parse_challenge_mail
from tests.protocol.sample_mail import SENDER, TOKEN_PART1, good_mail
from tests.worker.conftest import MakeBench
from tests.worker.intake_bench import digest_in, expected_digest

ROUNDS = 250
SNIPPETS = (
    b"\r\n",
    b"\r\n ",
    b"\r",
    b"\n",
    b"\0",
    b" ",
    b"\t",
    b"=?utf-8?q?",
    b"?=",
    b";",
    b":",
    b"<",
    b">",
    b"(",
    b'"',
    b"\xff\xfe",
    b"Subject: ACME: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\r\n",
    b"From: evil@victim.example\r\n",
    b"Reply-To: victim@victim.example\r\n",
    b"To: bob@example.com\r\n",
    b"DKIM-Signature: v=1\r\n",
    b"List-Id: <x>\r\n",
    b"Content-Type: text/html\r\n",
    b"\r\n\r\n",
)


def damaged(dice: random.Random, raw: bytes) -> bytes:
    """One to three changes: an octet replaced or removed, a snippet put in, a line doubled, moved or cut."""
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(len(raw))
        match dice.randrange(6):
            case 0:
                raw = raw[:at] + bytes([dice.randrange(256)]) + raw[at + 1 :]
            case 1:
                raw = raw[:at] + raw[at + dice.randint(1, 40) :]
            case 2:
                raw = raw[:at] + dice.choice(SNIPPETS) + raw[at:]
            case 3:
                lines = raw.split(b"\r\n")
                lines.insert(dice.randrange(len(lines)), dice.choice(SNIPPETS).rstrip(b"\r\n"))
                raw = b"\r\n".join(lines)
            case 4:
                lines = raw.split(b"\r\n")
                lines.insert(dice.randrange(len(lines)), dice.choice(lines))
                raw = b"\r\n".join(lines)
            case _:
                lines = raw.split(b"\r\n")
                dice.shuffle(lines)
                raw = b"\r\n".join(lines)
    return raw


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_mail_is_answered_as_it_was_meant_or_not_at_all(make_bench: MakeBench, seed: int) -> None:
    bench = make_bench()
    enrollment = bench.expect()
    dice = random.Random(seed)
    good = good_mail().signed()
    dispositions = {"accept": 0, "discard": 0}
    for _ in range(ROUNDS // 4):
        raw = damaged(dice, good)
        decision = bench.decide(raw)
        assert decision.reason != Reason.INTERNAL
        dispositions[decision.disposition] += 1
        if decision.disposition == "discard":
            assert parse_challenge_mail(raw).token_part1.text == TOKEN_PART1
    assert dispositions["accept"] > dispositions["discard"]
    for entry in bench.outbox_of(enrollment):
        reply = bench.vault.unseal_reply(entry.id, entry.sealed_reply)
        assert digest_in(reply) == expected_digest(TOKEN_PART1)
        assert entry.envelope_recipient == SENDER
    assert len(bench.outbox_of(enrollment)) <= 1


@pytest.mark.parametrize("seed", range(2))
def test_noise_is_nobodys_challenge(make_bench: MakeBench, seed: int) -> None:
    bench = make_bench()
    bench.expect()
    dice = random.Random(seed)
    for size in (0, 1, 2, 10, 1000, 70_000, 300_000):
        decision = bench.decide(dice.randbytes(size))
        assert decision.disposition == "accept"
        assert decision.reason != Reason.INTERNAL
