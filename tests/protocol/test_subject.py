# SPDX-License-Identifier: GPL-3.0-or-later
"""Which Subjects are challenges, and which token they carry."""

import base64
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acme_milter.protocol.subject import looks_like_challenge, parse_challenge_subject

TOKEN = "LgYemJLy3F1LDkiJrdIGbEzyFJyOyf6vBdyZ1TG3sME="
B_WORD = base64.b64encode(f"ACME: {TOKEN}".encode()).decode()
B_REST = base64.b64encode(TOKEN[20:].encode()).decode()

CHALLENGES = {
    "plain": f" ACME: {TOKEN}",
    "no-leading-blank": f"ACME: {TOKEN}",
    "two-blanks": f" ACME:  {TOKEN}",
    "tab": f" ACME:\t{TOKEN}",
    "trailing-blanks": f" ACME: {TOKEN}  \t ",
    "folded-before-token": f" ACME:\r\n {TOKEN}",
    "folded-at-start": f"\r\n ACME: {TOKEN}",
    "folded-inside-token": f" ACME: {TOKEN[:20]}\r\n\t{TOKEN[20:]}",
    "blanks-inside-token": f" ACME: {TOKEN[:7]} {TOKEN[7:15]}\t{TOKEN[15:]}",
    "blank-before-padding": f" ACME: {TOKEN[:-1]} =",
    "acme4j-fixture": " =?UTF-8?Q?ACME:_LgYemJLy3F1LDki=20JrdIGbEzyFJyOyf=20=206vBdyZ1TG3sME=3D?=",
    "b-word": f" =?utf-8?B?{B_WORD}?=",
    "b-word-ascii-charset": f" =?US-ASCII?b?{B_WORD}?=",
    "language-tag": f" =?us-ascii*en?Q?ACME:_{TOKEN[:-1]}=3D?=",
    "two-words": f" =?utf-8?q?ACME:_{TOKEN[:20]}?= =?us-ascii?Q?{TOKEN[20:-1]}=3D?=",
    "two-words-folded": f" =?utf-8?q?ACME:_{TOKEN[:20]}?=\r\n =?utf-8?B?{B_REST}?=",
    "plain-prefix-encoded-token": f" ACME: =?utf-8?q?{TOKEN[:-1]}=3D?=",
    "encoded-prefix-plain-token": f" =?utf-8?q?ACME:?= {TOKEN}",
    "every-character-escaped": " =?utf-8?q?" + "".join(f"={ord(c):02X}" for c in f"ACME: {TOKEN}") + "?=",
}

NO_CHALLENGES = {
    "empty": "",
    "blanks": " \t ",
    "ordinary": " Hello ACME: friends",
    "reply": f" Re: ACME: {TOKEN}",
    "reply-upper": f" RE: ACME: {TOKEN}",
    "reply-no-blank": f" Re:ACME: {TOKEN}",
    "answer-german": f" AW: ACME: {TOKEN}",
    "forward": f" Fwd: ACME: {TOKEN}",
    "encoded-reply": f" =?utf-8?q?Re:_ACME:_{TOKEN[:-1]}=3D?=",
    "external-tag": f" [EXT] ACME: {TOKEN}",
    "lower-case": f" acme: {TOKEN}",
    "mixed-case": f" Acme: {TOKEN}",
    "no-blank-after-prefix": f" ACME:{TOKEN}",
    "blank-before-colon": f" ACME : {TOKEN}",
    "no-token": " ACME: ",
    "prefix-only": " ACME:",
    "short-token": " ACME: AAAAAAAAAAAAAAAAAAAA",
    "long-token": " ACME: " + "A" * 132,
    "standard-base64-plus": f" ACME: +{TOKEN[1:]}",
    "standard-base64-slash": f" ACME: /{TOKEN[1:]}",
    "padding-inside": f" ACME: {TOKEN[:20]}={TOKEN[20:]}",
    "padding-in-front": f" ACME: ={TOKEN[:-1]}",
    "wrong-padding": f" ACME: {TOKEN}=",
    "trailing-comment": f" ACME: {TOKEN} (auto)",
    "trailing-dot": f" ACME: {TOKEN}.",
    "trailing-header-text": f" ACME: {TOKEN}; Bcc: x@example.org",
    "encoded-crlf": f" =?utf-8?q?ACME:_{TOKEN[:-1]}=3D=0D=0ABcc:_evil@example.org?=",
    "encoded-lf-in-token": f" =?utf-8?q?ACME:_{TOKEN[:20]}=0A{TOKEN[20:-1]}=3D?=",
    "encoded-nul": f" =?utf-8?q?ACME:_{TOKEN[:-1]}=3D=00?=",
    "no-break-space": f" =?utf-8?q?ACME:=C2=A0{TOKEN[:-1]}=3D?=",
    "fullwidth-letters": f" =?utf-8?b?{base64.b64encode(f'ＡＣＭＥ: {TOKEN}'.encode()).decode()}?=",
    "cyrillic-in-token": f" =?utf-8?b?{base64.b64encode(f'ACME: {TOKEN[:20]}а{TOKEN[21:]}'.encode()).decode()}?=",
    "zero-width-space": f" =?utf-8?q?ACME:_{TOKEN[:20]}=E2=80=8B{TOKEN[20:-1]}=3D?=",
    "latin-1": f" =?iso-8859-1?q?ACME:_{TOKEN[:-1]}=3D?=",
    "windows-1252": f" =?windows-1252?q?ACME:_{TOKEN[:-1]}=3D?=",
    "utf-7": f" =?utf-7?q?ACME:_{TOKEN[:-1]}=3D?=",
    "utf-16": " =?utf-16?b?" + base64.b64encode(f"ACME: {TOKEN}".encode("utf-16")).decode() + "?=",
    "iso-2022-jp": f" =?iso-2022-jp?q?ACME:_{TOKEN[:-1]}=3D?=",
    "utf8-without-hyphen": f" =?utf8?q?ACME:_{TOKEN[:-1]}=3D?=",
    "one-word-in-latin-1": f" =?utf-8?q?ACME:_{TOKEN[:20]}?= =?iso-8859-1?q?{TOKEN[20:-1]}=3D?=",
    "invalid-utf-8": f" =?utf-8?q?ACME:_{TOKEN[:-1]}=3D=FF?=",
    "eight-bit-in-ascii-word": f" =?us-ascii?q?ACME:_{TOKEN[:-1]}=3D=C3=BC?=",
    "broken-q-escape": f" =?utf-8?q?ACME:_{TOKEN[:-1]}=3?=",
    "broken-base64": f" =?utf-8?b?{B_WORD[:-1]}?=",
    "unknown-encoding": f" =?utf-8?x?ACME:_{TOKEN[:-1]}=3D?=",
    "word-glued-to-text": f" ACME: {TOKEN[:20]}=?utf-8?q?{TOKEN[20:-1]}=3D?=",
    "raw-8-bit": f" ACME: {TOKEN[:20]}ü{TOKEN[20:]}",
}


@pytest.mark.parametrize("value", CHALLENGES.values(), ids=CHALLENGES)
def test_every_way_of_writing_the_subject_gives_the_same_token(value: str) -> None:
    token = parse_challenge_subject(value.encode())
    assert token is not None
    assert token.text == TOKEN
    assert looks_like_challenge(value.encode())
    assert looks_like_challenge(value.replace("\r\n", "\n").encode())


@pytest.mark.parametrize("value", NO_CHALLENGES.values(), ids=NO_CHALLENGES)
def test_subject_outside_the_grammar_is_no_challenge(value: str) -> None:
    assert parse_challenge_subject(value.encode()) is None


@pytest.mark.parametrize(
    "name", ["ordinary", "reply", "encoded-reply", "lower-case", "latin-1", "fullwidth-letters", "empty"]
)
def test_quick_look_passes_by_what_does_not_begin_with_the_prefix(name: str) -> None:
    assert not looks_like_challenge(NO_CHALLENGES[name].encode())


def test_subject_that_is_not_utf8_is_no_challenge() -> None:
    assert parse_challenge_subject(b" ACME: " + TOKEN.encode() + b"\xff") is None
    assert not looks_like_challenge(b" =?utf-8?q?ACME:?= \xff")


@given(st.binary(max_size=200))
def test_quick_look_never_raises_and_never_misses_a_challenge(value: bytes) -> None:
    seen = looks_like_challenge(value)
    assert seen or parse_challenge_subject(value) is None


@given(st.text(alphabet="ACME: =?utf-8qbQ_\t\r\nxyz09/+", max_size=120))
def test_quick_look_never_misses_near_misses_either(text: str) -> None:
    value = text.encode()
    assert looks_like_challenge(value) or parse_challenge_subject(value) is None


BOMBS = {
    "blanks": b" " * 60_000,
    "tabs": b"\t" * 60_000,
    "folds": b"\r\n " * 20_000,
    "equals": b"=" * 60_000,
    "question-marks": b"=?" * 30_000,
    "many-words": b"=?utf-8?q?a?= " * 4_300,
    "one-long-word": b"=?utf-8?q?" + b"=20" * 20_000 + b"?=",
    "unterminated-word": b"=?utf-8?q?" + b"a" * 60_000,
    "prefix-then-blanks": b"ACME: " + b" " * 60_000 + b"!",
    "token-and-blanks": b"ACME: " + b"A " * 30_000 + b"!",
    "stars": b"=?utf-8" + b"*" * 60_000 + b"?q?a?=",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_hostile_subject_costs_no_time(bomb: bytes) -> None:
    started = time.process_time()
    for size in (len(bomb), 4000):
        assert parse_challenge_subject(bomb[:size]) is None
        looks_like_challenge(bomb[:size])
    assert time.process_time() - started < 0.05
