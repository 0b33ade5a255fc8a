# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of a source's words about one mailbox, and of two records for one."""

import pytest

from acme_milter.mailboxes.entry import MAX_WORD, Entry, InvalidEntry
from acme_milter.mailboxes.source import Gathering, SourceFault
from acme_milter.quoting import quoted


def test_the_domain_is_folded_and_the_local_part_kept() -> None:
    assert Entry.checked(" Ann.B@Example.ORG ").address == "Ann.B@example.org"


def test_a_domain_in_unicode_becomes_an_a_label() -> None:
    assert Entry.checked("ann@Müller.example").address == "ann@xn--mller-kva.example"


def test_a_name_that_is_not_ascii_stays_as_it_is_written() -> None:
    assert Entry.checked("Änn@example.org").address == "Änn@example.org"


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("", "exactly one @"),
        ("ann", "exactly one @"),
        ("@example.org", "local part"),
        ("ann@localhost", "two labels"),
        ("Ann <ann@example.org>", "letters"),
        ("ann@example.org\nbcc: x@example.org", "exactly one @"),
        ('"a b"@example.org', "dot-atom"),
        ("ä\u200bnn@example.org", "invisible"),
        ("ann\x00@example.org", "dot-atom"),
        (f"{'a' * 65}@example.org", "64 octets"),
    ],
)
def test_what_is_no_plain_address_is_refused_with_a_reason_that_does_not_quote_it(address: str, why: str) -> None:
    with pytest.raises(InvalidEntry) as refused:
        Entry.checked(address)
    assert why in refused.value.reason
    assert not address or address not in refused.value.reason


def test_an_id_must_be_short_and_visible() -> None:
    assert Entry.checked("ann@example.org", id=" 7 ").id == "7"
    assert Entry.checked("ann@example.org", id=" ").id is None
    for bad in ("x" * (MAX_WORD + 1), "a\x1bb", "a\u202eb"):
        with pytest.raises(InvalidEntry, match="the id"):
            Entry.checked("ann@example.org", id=bad)


def test_a_name_is_made_fit_to_show_rather_than_refused() -> None:
    assert Entry.checked("ann@example.org", name="Ann\x1b[31m\u202e  B\n").name == "Ann [31m B"
    assert Entry.checked("ann@example.org", name=" \t").name is None


def test_groups_and_aliases_lose_what_is_empty_or_no_address() -> None:
    entry = Entry.checked(
        "ann@example.org", groups=["Staff", " ", "Staff "], aliases=["A@Example.org", "X500:/o=x", "ann@EXAMPLE.org"]
    )
    assert (entry.groups, entry.aliases) == (frozenset({"Staff"}), ("A@example.org",))


def test_an_alias_in_two_spellings_is_one_alias() -> None:
    """In an order it would be two addresses, and the mail to the one could not be told from the mail to the other."""
    spellings = ["A.Berg@example.org", "a.berg@Example.org", "A.BERG@example.org"]
    assert Entry.checked("ann@example.org", aliases=spellings).aliases == ("A.Berg@example.org",)
    found = Gathering("hr")
    for spelling in spellings:
        found.add("ann@example.org", id="7", aliases=[spelling])
    assert found.reading().entries[0].aliases == ("A.Berg@example.org",)


def test_the_principal_is_the_person_where_the_source_knows_one() -> None:
    assert Entry.checked("ann@example.org", id="7").principal("hr") == "hr:7"
    assert Entry.checked("ann@example.org").principal("hr") == "ann@example.org"


def test_an_address_listed_twice_is_one_mailbox_whatever_its_case() -> None:
    found = Gathering("hr")
    found.add("Ann@example.org", id="7", groups=["Staff"])
    found.add("ann@EXAMPLE.org", id="7", name="Ann", groups=["Sales"], aliases=["a@example.org"])
    (entry,) = found.reading().entries
    assert entry == Entry("Ann@example.org", "7", "Ann", frozenset({"Staff", "Sales"}), ("a@example.org",))


def test_an_address_of_two_people_is_neither_ones() -> None:
    found = Gathering("hr")
    found.add("ann@example.org", id="7", place="line 2")
    found.add("Ann@example.org", id="8", place="line 9")
    reading = found.reading()
    assert reading.entries == ()
    assert reading.rejected == (("Ann@example.org", "line 9: listed for two different ids"),)


def test_a_rejected_record_keeps_the_address_by_which_it_is_known() -> None:
    found = Gathering("hr")
    found.add(" ann@EXAMPLE.org", id="\x00", place="line 2")
    found.add("", place="line 3")
    assert [text for text, _ in found.reading().rejected] == ["ann@example.org", "line 3"]


def test_a_rejected_record_is_shown_on_one_short_printable_line() -> None:
    """It goes to terminals and, some hundred of them, into one answer of the worker."""
    found = Gathering("hr")
    for address in ("\x1b[31mann\x1b]0;x\x07\nbob", "\ud800x", "x" * 3_000_000):
        found.add(address, place="line 1")
    escape, surrogate, long = [text for text, _ in found.reading().rejected]
    assert (escape, surrogate, len(long)) == ("[31mann ]0;x bob", "x", 200)


def test_a_source_that_lists_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acme_milter.mailboxes.source.MOST", 3)
    found = Gathering("hr")
    for name in ("a", "b", "a", "no address", "b", "no address"):
        found.add(name if " " in name else f"{name}@example.org", place=name)
    with pytest.raises(SourceFault, match="source hr: lists more than 3 mailboxes; the list was not used"):
        found.add("c@example.org")


@pytest.mark.parametrize(("mailboxes", "remarked"), [(20, False), (21, True)])
def test_an_id_of_very_many_mailboxes_is_remarked_since_they_would_share_their_keys(
    mailboxes: int, remarked: bool
) -> None:
    found = Gathering("hr")
    for number in range(mailboxes):
        found.add(f"p{number}@example.org", id="Sales")
        found.add(f"nobody{number}@example.org")
    assert bool(found.reading().remarks) is remarked


def test_not_more_is_remarked_than_anybody_reads() -> None:
    found = Gathering("hr")
    for number in range(1000):
        found.remark(f"the key {number} is not used")
    assert len(found.reading().remarks) == 100


def test_words_of_others_are_quoted_on_one_short_line_without_a_login() -> None:
    assert quoted("could not open\n postgresql://me:secret@db/x \x1b[31m") == "could not open postgresql://…@db/x [31m"
    assert len(quoted("x" * 1000)) == 200
    assert str(SourceFault("hr", "is down")) == "source hr: is down"
