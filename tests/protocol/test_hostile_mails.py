# SPDX-License-Identifier: GPL-3.0-or-later
"""Every mail of the corpus through parsing, policy, DNS over UDP and arithmetic in a child, with the expected end."""

from collections.abc import Iterator

import dkim
import pytest

from tests.protocol.good_mails import GOOD_MAILS
from tests.protocol.hostile_mails import HOSTILE_MAILS
from tests.protocol.key_server import Misbehaviour
from tests.protocol.mail_case import Judge, MailCase, judge


@pytest.fixture(scope="module")
def bench() -> Iterator[Judge]:
    with judge(children=2) as made:
        yield made


@pytest.mark.parametrize("case", HOSTILE_MAILS, ids=lambda case: case.name)
def test_hostile_mail_is_refused_for_exactly_its_flaw(bench: Judge, case: MailCase) -> None:
    assert case.fault is not None
    assert bench.fault(case) is case.fault


@pytest.mark.parametrize("case", GOOD_MAILS, ids=lambda case: case.name)
def test_every_variant_of_a_good_mail_is_proven(bench: Judge, case: MailCase) -> None:
    assert bench.fault(case) is None


def test_corpus_is_large_and_its_names_are_unique() -> None:
    names = [case.name for case in (*HOSTILE_MAILS, *GOOD_MAILS)]
    assert len(names) == len(set(names))
    assert len(HOSTILE_MAILS) >= 150


def dkimpy_alone_accepts(case: MailCase) -> bool:
    """What a program says that only calls dkim.verify() on each signature."""
    zone = case.full_zone()

    def txt(name: bytes, timeout: int = 5) -> bytes | None:
        records = zone.get(name.decode().rstrip(".").lower(), [])
        return None if isinstance(records, Misbehaviour) or not records else records[0]

    raw = case.make()
    try:
        message = dkim.DKIM(raw, minkey=512)
    except dkim.DKIMException:
        return False
    for index in range(5):
        try:
            if message.verify(idx=index, dnsfunc=txt):
                return True
        except (dkim.DKIMException, IndexError, ValueError):
            continue
    return False


@pytest.mark.parametrize("case", [case for case in HOSTILE_MAILS if case.dkimpy_accepts], ids=lambda case: case.name)
def test_dkimpy_alone_would_have_accepted_it(case: MailCase) -> None:
    """The reason this room exists: each of these is `True` to the library and refused by us."""
    assert dkimpy_alone_accepts(case)


def test_at_least_a_third_of_the_corpus_is_good_to_dkimpy_alone() -> None:
    assert 3 * sum(case.dkimpy_accepts for case in HOSTILE_MAILS) >= len(HOSTILE_MAILS)
