# SPDX-License-Identifier: GPL-3.0-or-later
"""Sealing: what was sealed opens with the same key and ids, and nothing else opens."""

import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acme_milter.keys.sealing import SealBroken, seal, sealing_key_id, unseal

KEY = bytes(range(32))
IDS = {"purpose": "mailbox", "key_id": "k1", "principal": "alice@example.org"}

_ids = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=4)


@given(plaintext=st.binary(max_size=300), ids=_ids)
def test_what_was_sealed_opens_with_the_same_key_and_ids(plaintext: bytes, ids: dict[str, str]) -> None:
    assert unseal(KEY, seal(KEY, plaintext, ids), ids) == plaintext


@given(sealed_for=_ids, opened_for=_ids)
def test_it_opens_for_no_other_ids(sealed_for: dict[str, str], opened_for: dict[str, str]) -> None:
    sealed = seal(KEY, b"secret", sealed_for)
    if sealed_for == opened_for:
        assert unseal(KEY, sealed, opened_for) == b"secret"
    else:
        with pytest.raises(SealBroken):
            unseal(KEY, sealed, opened_for)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": "bc"}, {"ab": "c"}),
        ({"a": "b", "c": "d"}, {"a": "bcd"}),
        ({"a": ""}, {}),
        ({"a": "b\x00"}, {"a": "b"}),
        ({"a": "b", "c": "d"}, {"a": "d", "c": "b"}),
    ],
)
def test_ids_that_run_together_alike_are_told_apart(one: dict[str, str], other: dict[str, str]) -> None:
    with pytest.raises(SealBroken):
        unseal(KEY, seal(KEY, b"secret", one), other)


def test_the_order_in_which_ids_are_given_does_not_matter() -> None:
    sealed = seal(KEY, b"secret", IDS)
    assert unseal(KEY, sealed, dict(reversed(IDS.items()))) == b"secret"


def test_every_flipped_bit_is_detected() -> None:
    sealed = seal(KEY, b"secret", IDS)
    for position in range(len(sealed) * 8):
        broken = bytearray(sealed)
        broken[position // 8] ^= 1 << position % 8
        with pytest.raises(SealBroken):
            unseal(KEY, bytes(broken), IDS)


def test_ten_thousand_random_changes_and_swaps_are_detected() -> None:
    chance = random.Random(8823)
    rows = [({**IDS, "key_id": f"k{number}"}, os.urandom(40)) for number in range(40)]
    sealed = [(ids, text, seal(KEY, text, ids)) for ids, text in rows]
    for _ in range(10_000):
        (ids, _, blob), (_, _, other) = chance.sample(sealed, 2)
        cut = chance.randrange(len(blob) + 1)
        changed = chance.choice([other, blob[:cut] + other[cut:], other[:cut] + blob[cut:], blob[:cut], blob + other])
        if changed != blob:
            with pytest.raises(SealBroken):
                unseal(KEY, changed, ids)


@given(noise=st.binary(max_size=300))
def test_noise_is_no_sealed_object(noise: bytes) -> None:
    with pytest.raises(SealBroken):
        unseal(KEY, noise, IDS)


def test_another_key_does_not_open_it_and_is_named_as_the_reason() -> None:
    with pytest.raises(SealBroken, match="another key"):
        unseal(os.urandom(32), seal(KEY, b"secret", IDS), IDS)


def test_a_wrapped_object_key_put_under_another_content_opens_nothing() -> None:
    one, other = seal(KEY, b"a" * 20, IDS), seal(KEY, b"b" * 20, IDS)
    with pytest.raises(SealBroken):
        unseal(KEY, one[:69] + other[69:], IDS)


def test_one_text_sealed_twice_never_looks_alike() -> None:
    seals = [seal(KEY, b"secret", IDS) for _ in range(200)]
    for start in range(9, len(seals[0]) - 8):
        assert len({sealed[start : start + 8] for sealed in seals}) == len(seals)


def test_a_sealed_object_shows_neither_its_text_nor_its_ids() -> None:
    sealed = seal(KEY, b"CANARY-TEXT", {"principal": "CANARY-ID"})
    assert b"CANARY" not in sealed
    assert KEY not in sealed


def test_the_cost_of_a_seal_is_97_octets() -> None:
    assert len(seal(KEY, b"x" * 100, IDS)) == 197


def test_an_object_sealed_by_version_1_opens_for_ever() -> None:
    """Written down once: a change of format must not lose what is in people's stores."""
    assert unseal(KEY, bytes.fromhex(_WRITTEN_DOWN), IDS) == b"sealed once and for all"


def test_a_key_of_another_size_is_our_own_fault_and_not_the_objects() -> None:
    with pytest.raises(ValueError, match="32 octets"):
        seal(b"short", b"", {})


def test_the_id_of_a_key_is_stable_and_no_part_of_it() -> None:
    assert sealing_key_id(KEY) == sealing_key_id(KEY) != sealing_key_id(os.urandom(32))
    assert bytes.fromhex(sealing_key_id(KEY)) not in KEY


_WRITTEN_DOWN = (
    "019d604889a1968a8c38beef4c06954d3a9c3cdf465127e4d576ba3c049e5d3d8a23c1da927f8bf55dbcc50df0349e1ae90b"
    "687c0d491b6237a6f64a5fb8609568b2036f09edb6423ba9038e8aa5b278e275eff18d2b44fff8ccab491cda0125cc4ecc70"
    "e4e0767a9abc2925772b2055d139f7d48c196cec"
)
