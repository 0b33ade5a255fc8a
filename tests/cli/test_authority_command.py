# SPDX-License-Identifier: GPL-3.0-or-later
"""`authority`: accounts at a running worker, rehearsals that count for nothing, and a trial that proposes settings."""

from pathlib import Path

import yaml

from acme_milter.lab.processes import wait_until
from tests.cli.conftest import Office

STAGING = "testca:staging"


def rehearse(office: Office, address: str) -> None:
    office.run("enroll", address, "--staging", "--wait", "--timeout", "60")


def test_a_rehearsal_is_marked_and_counts_for_nothing(office: Office, tmp_path: Path) -> None:
    rehearse(office, "stella@org.example")
    shown = office.document("mailbox", "show", "stella@org.example")
    assert (shown["certificate"], shown["why"]["word"]) == (None, "never-ordered")
    assert any(STAGING in entry["text"] for entry in shown["timeline"])
    assert any("counts for nothing" in entry["text"] for entry in shown["timeline"])
    lines = office.document("cert", "list", "--authority", STAGING)["certificates"]
    assert {(line["authority"], line["state"]) for line in lines} == {(STAGING, "rehearsed")}
    assert STAGING not in {line["authority"] for line in office.document("cert", "list")["certificates"]}
    out = ("--format", "pem", "--out", str(tmp_path))
    assert "has no active certificate" in office.run("export", "stella@org.example", *out, code=1)[1]
    opened = office.document("enroll", "stella@org.example", "--wait", "--timeout", "60")
    assert [row["state"] for row in opened["results"]] == ["active"]
    rehearse(office, "stella@org.example")
    assert office.document("mailbox", "show", "stella@org.example")["certificate"]["state"] == "active"


def test_a_mailbox_whose_authority_has_no_staging_service_says_how_to_name_one(office: Office) -> None:
    _, said = office.run("cert", "issue", "nobody@org.example", "--staging", code=1)
    assert "not a managed mailbox" in said


def test_accounts_are_shown_with_their_terms_and_their_key(office: Office) -> None:
    document = office.document("authority", "show", "testca")
    assert document["schema"] == "acme-milter/authority-show/1"
    (account,) = document["accounts"]
    assert account["in_use"]
    assert account["terms"].endswith("/terms")
    assert account["terms_agreed_at"] is not None
    text, _ = office.run("authority", "show", "testca")
    assert account["url"] in text
    assert "account of everybody" in text
    _, said = office.run("authority", "show", "nobodys", code=1)
    assert f"there is testca, {STAGING}" in said


def test_a_staging_service_is_listed_as_such(office: Office) -> None:
    office.run("authority", "register", STAGING)
    rows = {row["authority"]: row for row in office.document("authority", "list")["authorities"]}
    assert (rows["testca"]["staging"], rows[STAGING]["staging"]) == (False, True)
    assert rows[STAGING]["accounts"] == 1
    assert "staging" in office.run("authority", "list")[0]


def test_registering_again_says_so(office: Office) -> None:
    document = office.document("authority", "register", "testca")
    assert document["schema"] == "acme-milter/authority-register/1"
    assert [row["outcome"] for row in document["accounts"]] == ["already-registered"]


def test_a_key_is_exchanged_by_the_running_worker(office: Office) -> None:
    before = office.document("authority", "show", STAGING)["accounts"]
    office.run("authority", "register", STAGING)
    (asked,) = office.document("authority", "rollover", STAGING)["accounts"]
    assert asked["outcome"] == "asked"

    def since() -> list[str]:
        return [
            row["key_since"]
            for row in office.document("authority", "show", STAGING)["accounts"]
            if row["key_exchange"] is None
        ]

    wait_until(lambda: bool(since()) and since() != [row["key_since"] for row in before], "the next key", timeout=30)
    rehearse(office, "stella@org.example")


def test_closing_an_account_wants_a_yes(office: Office) -> None:
    _, said = office.run("authority", "deactivate", "testca", code=2)
    assert "for ever" in said
    assert "--yes" in said
    _, said = office.run("authority", "deactivate", "testca", "--account", "other.example", "--yes", code=1)
    assert "there is no account of other.example at testca" in said


class TestTrial:
    """`authority test`."""

    def test_its_progress_is_shown_and_then_settings_to_paste(self, office: Office) -> None:
        shown, _ = office.run("authority", "test", "testca", "--mailbox", "trudy@org.example", "--timeout", "60")
        assert shown.index("issued 1") < shown.index(f"# {STAGING} with trudy@org.example: rehearsed")
        settings = yaml.safe_load(shown[shown.index("\nauthorities:") :])["authorities"]["testca"]
        assert settings["challenge_trigger"] == "reply-first"

    def test_what_cannot_be_tried_is_said_with_what_to_do(self, office: Office) -> None:
        _, said = office.run("authority", "test", "testca", "--mailbox", "nobody@org.example", code=1)
        assert "not a managed mailbox" in said
        _, said = office.run("authority", "test", STAGING, "--mailbox", "trudy@org.example", code=1)
        assert "there is testca" in said
