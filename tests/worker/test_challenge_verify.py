# SPDX-License-Identifier: GPL-3.0-or-later
"""`challenge verify` on mails as people save them."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from acme_milter.cli.main import cli
from tests.protocol.sample_mail import CA_DOMAIN, RECIPIENT, SENDER, STRICT_NAMES, TOKEN_PART1, SignatureSpec, good_mail
from tests.worker.conftest import MakeBench
from tests.worker.intake_bench import IntakeBench

PRESENT = tuple(name for name in STRICT_NAMES if name not in {"Sender", "CC"})


@pytest.fixture
def config_file(make_bench: MakeBench, tmp_path: Path) -> Path:
    bench = make_bench()
    bench.expect()
    return write_config(bench, tmp_path)


def write_config(bench: IntakeBench, directory: Path, **more: Any) -> Path:
    base = {"directory": "https://ca.example/directory", "agree_tos": True}
    document = {
        "version": 1,
        "store": {"url": bench.config.store.url},
        "dns": {"nameservers": [bench.names.address]},
        "authorities": {"ca": base, "lenient": {**base, "dkim_headers": "present"}},
        "defaults": {"authorities": ["ca"]},
        "domains": {"example.com": {"mailboxes": {"list": [RECIPIENT]}}},
        **more,
    }
    path = directory / "acme-milter.yaml"
    path.write_text(yaml.safe_dump(document))
    path.chmod(0o600)
    return path


def verify(config: Path, raw: bytes, *arguments: str) -> Result:
    saved = config.with_name("saved.eml")
    saved.write_bytes(raw)
    return CliRunner().invoke(cli, ["--config", str(config), "challenge", "verify", str(saved), *arguments])


def conditions(result: Result) -> dict[str, dict[str, str]]:
    return {one["condition"]: one for one in json.loads(result.stdout)["conditions"]}


def test_a_good_mail_exits_0_and_shows_every_condition(config_file: Path) -> None:
    result = verify(config_file, good_mail().signed())
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"for {RECIPIENT}, by the terms of ca"
    assert sum(line.startswith("  G") for line in lines) == 25
    assert "  G18 holds       the signature verifies" in lines
    assert TOKEN_PART1 not in result.output


def test_a_mail_that_fails_exits_1_and_says_what_would_relax_it(config_file: Path) -> None:
    result = verify(config_file, good_mail().signed(SignatureSpec(names=PRESENT)))
    assert result.exit_code == 1
    assert "dkim_headers: present" in result.stdout


def test_the_document_names_its_schema(config_file: Path) -> None:
    result = verify(config_file, good_mail().signed(), "--json")
    document = json.loads(result.stdout)
    assert document["schema"] == "acme-milter/challenge-verify/1"
    assert (document["recipient"], document["authority"]) == (RECIPIENT, "ca")
    assert conditions(result)["G18"] == {
        "condition": "G18",
        "text": "the signature verifies",
        "result": "holds",
        "detail": "",
    }


@pytest.mark.parametrize(
    "wrap",
    [
        lambda raw: raw.replace(b"\r\n", b"\n"),
        lambda raw: b"From MAILER-DAEMON Sun Nov 22 05:00:00 2026\n" + raw.replace(b"\r\n", b"\n"),
        lambda raw: b"Return-Path: <x@y>\nX-Original-To: a@b\nDelivered-To:\n a@b\n" + raw.replace(b"\r\n", b"\n"),
        lambda raw: b"Received: from mx by here;\r\n\tSun, 22 Nov 2026 05:00:00 +0000\r\n" + raw,
    ],
    ids=["LF", "mbox", "Maildir", "on the way"],
)
def test_a_mail_is_judged_as_it_was_on_the_wire(config_file: Path, wrap: Any) -> None:
    assert verify(config_file, wrap(good_mail().signed())).exit_code == 0


def test_another_authoritys_terms_can_be_tried_where_no_order_decides(config_file: Path) -> None:
    raw = good_mail().set("To", " bob@example.com").signed(SignatureSpec(names=PRESENT))
    strict = verify(config_file, raw, "--json")
    lenient = verify(config_file, raw, "--json", "--authority", "lenient")
    assert (conditions(strict)["G14"]["result"], conditions(lenient)["G14"]["result"]) == ("fails", "holds")
    # Neither is fit for an answer: bob is not managed, and no order of his is open.
    assert (strict.exit_code, lenient.exit_code) == (1, 1)


def test_an_unknown_authority_is_a_usage_error_that_lists_the_known(config_file: Path) -> None:
    result = verify(config_file, good_mail().signed(), "--authority", "cta")
    assert result.exit_code == 2
    assert "configured: ca, lenient" in result.output


def test_the_envelope_recipient_may_be_named(config_file: Path) -> None:
    result = verify(config_file, good_mail().signed(), "--json", "--recipient", "bob@example.com")
    assert conditions(result)["G2"]["result"] == "fails"


@pytest.mark.parametrize("raw", [b"", b"\n\n", b"Subject: x\n\nno To", b"\0\xff" * 500], ids=repr)
def test_a_file_without_a_readable_recipient_is_a_usage_error(config_file: Path, raw: bytes) -> None:
    result = verify(config_file, raw)
    assert result.exit_code == 2
    assert "use --recipient" in result.output


@pytest.mark.parametrize("raw", [b"", b"From \n", b"\0\xff" * 500, b"Subject: ACME: x\n\n" * 5000], ids=range(4))
def test_any_file_gets_a_judgement_once_the_recipient_is_named(config_file: Path, raw: bytes) -> None:
    assert verify(config_file, raw, "--recipient", RECIPIENT).exit_code == 1


def test_without_a_store_the_order_is_not_tried(make_bench: MakeBench, tmp_path: Path) -> None:
    config = write_config(make_bench(), tmp_path, store={"url": f"sqlite:///{tmp_path / 'none.db'}"})
    result = verify(config, good_mail().signed(), "--json")
    assert result.exit_code == 0
    assert conditions(result)["G10"]["result"] == "not tried"
    assert not (tmp_path / "none.db").exists()


def test_nothing_is_stored_and_nothing_is_sent(make_bench: MakeBench, tmp_path: Path) -> None:
    bench = make_bench()
    bench.expect()
    config = write_config(bench, tmp_path)
    before = bench.contents()
    verify(config, good_mail().signed())
    verify(config, good_mail().set("From", f" {SENDER.upper()}").signed())
    assert bench.contents() == before
    assert CA_DOMAIN in bench.names.questions[0]


def test_the_store_may_be_read_while_a_worker_writes(make_bench: MakeBench, tmp_path: Path) -> None:
    bench = make_bench()
    bench.expect()
    config = write_config(bench, tmp_path)
    with bench.locked():
        assert verify(config, good_mail().signed()).exit_code == 0
