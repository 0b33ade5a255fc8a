# SPDX-License-Identifier: GPL-3.0-or-later
"""Token halves, their joinings and digests, by the vectors of the RFCs and of other implementations."""

import base64

import pytest

from acme_milter.protocol.token import (
    InvalidToken,
    TokenJoin,
    TokenPart1,
    join_token,
    joining_matters,
    key_authorization,
    response_digest,
)

RFC7638_THUMBPRINT = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
RFC8823_PART1 = "LgYemJLy3F1LDkiJrdIGbEzyFJyOyf6vBdyZ1TG3sME="
RFC8823_PART2 = "DGyRejmCefe7v4NfDGDKfA"
ACME4J_THUMBPRINT = "1_nKJnlH9boVxdoO63T8zP7O2w42qZL4d6xj35Hy5aI"
ACMEZ = ("V4nE8NhYh6edBpfQTg5qqQ", "x6I65YvEk6xC4KV0QMvdJw", "hC4xyXNn8ZDH4yrcp93Zj3qgQs7LyT_GUL45YD7IVMQ")
NEUTRAL = ("AAECAwQFBgcICQoLDA0ODxAREhMUFRYX", "EBESExQVFhcYGRobHB0eHw", RFC7638_THUMBPRINT)


def digest_of(part1: str, part2: str, thumbprint: str, joining: TokenJoin) -> str:
    return response_digest(key_authorization(join_token(TokenPart1(part1), part2, joining), thumbprint))


@pytest.mark.parametrize(
    ("halves", "joining", "expected"),
    [
        pytest.param((RFC8823_PART1, RFC8823_PART2, RFC7638_THUMBPRINT), joining, expected, id=f"rfc-{joining}")
        for joining, expected in [
            (TokenJoin.STRING, "oqRgcdn5jIDrdckMC7owMFH3UoxuDcTUPaTHapj0tfs"),
            (TokenJoin.STRING_PADDED, "ZEzZgc9aJoD_n58jPgRZT72bYhm3xgODx3XMbYEeaBo"),
            (TokenJoin.BYTES, "XW5kWcqNuiysUrDy6cZazLQ3v2QZNKXIKVMtfc8-gHY"),
        ]
    ]
    + [
        pytest.param((RFC8823_PART1, RFC8823_PART2, ACME4J_THUMBPRINT), joining, expected, id=f"acme4j-{joining}")
        for joining, expected in [
            (TokenJoin.STRING_PADDED, "AjXW0h9_4YMP6Sv-9tKQNUrapI0us7ayBn0nCGOkUsk"),
            (TokenJoin.STRING, "aeF6_NPRTqHBh0L1_wlbKFwocQfQb1S5_ZJZS3_iKlI"),
            (TokenJoin.BYTES, "xyC6Z01DHFuV0pZgacdI2xN9nIKkPSARDv1gLbxY8Xk"),
        ]
    ]
    + [
        pytest.param(ACMEZ, TokenJoin.BYTES, "Fjt2SD7KoqSt3I6jwgg8ljjkP9Er7h1w0wF0UihvQIU", id="acmez-bytes"),
        pytest.param(ACMEZ, TokenJoin.STRING, "gtzugYfQ1gO_Pi-ripWZTUtKP_xzPoQe-brDkSOvX5c", id="acmez-string"),
    ]
    + [
        pytest.param(NEUTRAL, joining, "GUXIOsxLhmMW1TCWf--oXRjV_MA_CPjLvoKDzT_fxIg", id=f"neutral-{joining}")
        for joining in TokenJoin
    ],
)
def test_digest_is_that_of_the_published_vector(
    halves: tuple[str, str, str], joining: TokenJoin, expected: str
) -> None:
    assert digest_of(*halves, joining) == expected


def test_joined_token_puts_the_mails_half_first() -> None:
    part1 = TokenPart1(RFC8823_PART1)
    assert join_token(part1, RFC8823_PART2, TokenJoin.STRING) == RFC8823_PART1.rstrip("=") + RFC8823_PART2
    assert (
        join_token(part1, RFC8823_PART2, TokenJoin.BYTES)
        == "LgYemJLy3F1LDkiJrdIGbEzyFJyOyf6vBdyZ1TG3sMEMbJF6OYJ597u_g18MYMp8"
    )
    wrong_order = response_digest(f"{RFC8823_PART2}{part1.stripped}.{RFC7638_THUMBPRINT}")
    assert wrong_order == "VxjRi9lD0Q32NgsT62IGpTKguTxO2OG3ye9EKQ8b9uA"
    assert digest_of(RFC8823_PART1, RFC8823_PART2, RFC7638_THUMBPRINT, TokenJoin.STRING) != wrong_order


@pytest.mark.parametrize("octets", range(16, 97))
def test_joining_matters_unless_three_divides_the_length(octets: int) -> None:
    padded = base64.urlsafe_b64encode(bytes(range(octets))).decode()
    part1 = TokenPart1(padded.rstrip("="))
    part2 = "DGyRejmCefe7v4NfDGDKfA"
    assert joining_matters(part1) == (octets % 3 != 0)
    assert (len({join_token(part1, part2, joining) for joining in TokenJoin}) > 1) == joining_matters(part1)
    assert joining_matters(TokenPart1(padded)) == (octets % 3 != 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "=",
        "====",
        "A" * 20,
        "A" * 129,
        "A" * 132,
        "A" * 25,
        "A" * 22 + "=",
        "A" * 22 + "===",
        "A" * 24 + "==",
        "A" * 21 + "+",
        "A" * 21 + "/",
        "A" * 21 + "ä",
        "A" * 11 + "=" + "A" * 11,
        "A" * 22 + "\n",
        " " + "A" * 22,
    ],
)
def test_part1_of_wrong_length_alphabet_or_padding_is_refused(text: str) -> None:
    with pytest.raises(InvalidToken):
        TokenPart1(text)


def test_part1_of_sixteen_and_of_ninety_six_octets_is_accepted() -> None:
    assert len(TokenPart1("A" * 22).decoded) == 16
    assert len(TokenPart1("A" * 22 + "==").decoded) == 16
    assert len(TokenPart1("A" * 128).decoded) == 96


@pytest.mark.parametrize("part2", ["", "=", "a b", "a+b", "x\r\n", "ü"])
def test_part2_that_is_not_base64url_is_refused(part2: str) -> None:
    for joining in TokenJoin:
        with pytest.raises(InvalidToken):
            join_token(TokenPart1("A" * 22), part2, joining)


def test_token_is_never_shown() -> None:
    assert "LgYemJ" not in repr(TokenPart1(RFC8823_PART1))
    with pytest.raises(InvalidToken) as caught:
        TokenPart1("secret+secret+secret+secret")
    assert "secret" not in str(caught.value)


def test_padding_does_not_change_the_name_of_a_challenge() -> None:
    assert TokenPart1(RFC8823_PART1).digest() == TokenPart1(RFC8823_PART1.rstrip("=")).digest()
    assert len(TokenPart1(RFC8823_PART1).digest()) == 32
