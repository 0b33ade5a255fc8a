# SPDX-License-Identifier: GPL-3.0-or-later
"""The digest in all three readings, against known values, and the reading of Subjects."""

import base64

import pytest

from acme_milter.testca.ledger import Challenge
from acme_milter.testca.reply import decode_words, expected_digest, subject_token

# RFC 7638 §3.1's thumbprint; the parts of RFC 8823's examples; and 24 octets, where all readings agree.
THUMBPRINT = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
PARTS = ("LgYemJLy3F1LDkiJrdIGbEzyFJyOyf6vBdyZ1TG3sME", "DGyRejmCefe7v4NfDGDKfA")
NEUTRAL = ("AAECAwQFBgcICQoLDA0ODxAREhMUFRYX", "EBESExQVFhcYGRobHB0eHw")
NEUTRAL_DIGEST = "GUXIOsxLhmMW1TCWf--oXRjV_MA_CPjLvoKDzT_fxIg"


def octets(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@pytest.mark.parametrize(
    ("parts", "joining", "digest"),
    [
        (PARTS, "string", "oqRgcdn5jIDrdckMC7owMFH3UoxuDcTUPaTHapj0tfs"),
        (PARTS, "string-padded", "ZEzZgc9aJoD_n58jPgRZT72bYhm3xgODx3XMbYEeaBo"),
        (PARTS, "bytes", "XW5kWcqNuiysUrDy6cZazLQ3v2QZNKXIKVMtfc8-gHY"),
        (NEUTRAL, "string", NEUTRAL_DIGEST),
        (NEUTRAL, "string-padded", NEUTRAL_DIGEST),
        (NEUTRAL, "bytes", NEUTRAL_DIGEST),
    ],
)
def test_the_digest_agrees_with_the_known_vectors(parts: tuple[str, str], joining: str, digest: str) -> None:
    challenge = Challenge("c", "a", octets(parts[0]), octets(parts[1]), "ca@ca.example")
    assert expected_digest(challenge, joining, THUMBPRINT) == digest


@pytest.mark.parametrize(
    ("subject", "token"),
    [
        ("Re: ACME: abcd", "abcd"),
        ("AW: Re: ACME:  ab cd==", "abcd"),
        ("=?UTF-8?Q?Re:_ACME:_a=62=20?= =?us-ascii?b?Y2Q=?=", "abcd"),
        ("=?ISO-8859-1?Q?ACME:_abcd?=", None),
        ("=?utf-8?B?!?=", None),
        ("ACME:", None),
        ("ACME: a", None),
        ("acme: abcd", None),
        ("Hello", None),
    ],
)
def test_the_token_is_read_from_a_subject(subject: str, token: str | None) -> None:
    assert subject_token(subject) == token


def test_words_are_joined_without_the_blanks_between_them() -> None:
    assert decode_words("=?utf-8?q?a?=  =?utf-8?q?b?= c") == "ab c"
