# SPDX-License-Identifier: GPL-3.0-or-later
"""RFC 8659 and RFC 9495: who may issue for mail, by a domain's CAA records."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acme_milter.protocol.caa import CaaRecord, issuer_of, names_to_ask, objection, record_to_add

US = ("ca.example",)


def mail(value: str, flags: int = 0) -> CaaRecord:
    return CaaRecord(flags, "issuemail", value)


@pytest.mark.parametrize(
    ("value", "issuer"),
    [
        ("ca.example", "ca.example"),
        ("  ca.example \t", "ca.example"),
        ("CA.Example", "ca.example"),
        ("ca.example; policy=ev", "ca.example"),
        ("ca.example;policy=ev;account=123", "ca.example"),
        ("ca.example ; policy = ev ; account = ", "ca.example"),
        ("ca.example;", "ca.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("localhost", "localhost"),
        (";", None),
        ("", None),
        ("; policy=ev", None),
        # What does not follow the grammar permits nobody.
        ("%%%%%", None),
        ("ca.example.", None),
        ("ca..example", None),
        ("-ca.example", None),
        ("ca.example policy=ev", None),
        ("ca.example; policy", None),
        ("ca.example; policy=ev;", None),
        ("ca.example; policy=e v", None),
        ("ca.example, other.example", None),
        ("ca\u0435.example", None),
        ("a" * 2000, None),
    ],
)
def test_a_value_names_one_issuer_or_nobody(value: str, issuer: str | None) -> None:
    assert issuer_of(value) == issuer


def test_without_records_everybody_may() -> None:
    assert objection([], US) is None


def test_records_for_other_things_than_mail_say_nothing_about_it() -> None:
    others = [CaaRecord(0, "issue", ";"), CaaRecord(0, "issuewild", "x.example"), CaaRecord(0, "iodef", "mailto:a@b")]
    assert objection(others, US) is None


def test_one_record_that_names_us_is_enough_in_any_case() -> None:
    assert objection([mail("other.example"), CaaRecord(0, "IssueMail", "CA.EXAMPLE")], US) is None
    assert objection([mail(";"), mail("ca.example; account=7")], US) is None
    assert objection([mail("old.example")], ["ca.example", "Old.Example."]) is None


def test_who_is_permitted_instead_is_said() -> None:
    assert objection([mail("b.example"), mail("a.example")], US) == "it permits only a.example, b.example"
    assert objection([mail(";")], US) == "it permits nobody"
    assert objection([mail("%%%")], US) == "it permits nobody"


def test_a_parent_or_a_child_of_our_name_is_another_name() -> None:
    assert objection([mail("example")], US) is not None
    assert objection([mail("www.ca.example")], US) is not None


def test_a_critical_record_that_nobody_knows_forbids_and_one_for_mail_does_not() -> None:
    assert objection([CaaRecord(128, "tbs", "x"), mail("ca.example")], US) is not None
    assert objection([CaaRecord(0, "tbs", "x"), mail("ca.example")], US) is None
    assert objection([mail("ca.example", flags=128), CaaRecord(128, "issue", ";")], US) is None


def test_the_tree_is_climbed_to_its_last_label_and_not_to_the_root() -> None:
    assert list(names_to_ask("Mail.Dept.Example.ORG.")) == [
        "mail.dept.example.org",
        "dept.example.org",
        "example.org",
        "org",
    ]


def test_the_record_to_add_can_be_pasted_into_a_zone() -> None:
    assert record_to_add("example.org", "ca.example") == 'example.org. CAA 0 issuemail "ca.example"'


@given(st.text(max_size=200))
def test_any_text_is_read_without_a_fault_and_never_as_more_than_a_name(value: str) -> None:
    issuer = issuer_of(value)
    assert issuer is None or issuer_of(issuer) == issuer
