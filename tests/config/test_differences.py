# SPDX-License-Identifier: GPL-3.0-or-later
"""`config show` prints what could be used in the file's place, and no secret."""

import dataclasses
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from acme_milter.config.database_url import has_password, without_password
from acme_milter.config.differences import as_document
from acme_milter.config.loader import load, load_text
from acme_milter.config.schema import Config
from acme_milter.config.written_form import duration

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "contrib" / "examples" / "acme-milter.yaml"
OWN = """
store: {url: "postgresql://user:canary@db.example/x"}
milter: {cpu: 1, socket_mode: 0640}
keys: {wrapping_key: {file: /k}}
dns: {nameservers: ["127.0.0.1:5353"], timeout: 500ms}
authorities:
  a: {preset: castle, agree_tos: true, eab: {kid: {env: K}, hmac: {file: /h}}, post_delay: 30s, dkim_headers: strict}
sources:
  db: {type: sql, url: "mysql+pymysql://user:canary@db.example/x", query: "select 1"}
defaults: {mode: observe, reply: {dkim: {selector: s, key_file: /d}}, authorities: [a]}
domains:
  o.example: {mode: enforce, reply: {dkim: relay}, authorities: [], mailboxes: {list: [x@o.example]}}
  p.example: {mode: observe, source: db}
"""


def rewritten(config: Config, everything: bool) -> Config:
    return load_text(yaml.safe_dump(as_document(config, everything=everything)), config.path)


@pytest.mark.parametrize("everything", [False, True])
def test_what_is_shown_makes_the_same_configuration(everything: bool) -> None:
    for config in (load(EXAMPLE), load_text(OWN.replace(":canary", ""), Path("/etc/x.yaml"))):
        again = rewritten(config, everything)
        for part in dataclasses.fields(config):
            if part.name not in {"domains", "layers", "defaults"}:
                assert getattr(again, part.name) == getattr(config, part.name), part.name
        for name, layers in config.layers.items():
            assert again.layers[name].groups == layers.groups
            assert again.layers[name].overrides == layers.overrides


def test_only_differences_are_shown_and_an_override_back_to_the_built_in_value_is_one() -> None:
    document = as_document(load_text(OWN, Path("/etc/x.yaml")))
    assert document["milter"] == {"socket_mode": "0640", "cpu": 1}
    assert document["dns"] == {"nameservers": ["127.0.0.1:5353"], "timeout": "500ms"}
    assert set(document["authorities"]["a"]) == {"preset", "agree_tos", "eab", "dkim_headers"}
    assert document["domains"]["o.example"] == {
        "mode": "enforce",
        "authorities": [],
        "reply": {"dkim": "relay"},
        "mailboxes": {"list": ["x@o.example"]},
    }
    assert document["domains"]["p.example"] == {"source": ["db"]}
    assert "worker" not in document


def test_no_secret_is_shown() -> None:
    shown = yaml.safe_dump(as_document(load_text(OWN, Path("/etc/x.yaml")), everything=True))
    assert "canary" not in shown
    assert "postgresql://user:***@db.example/x" in shown
    assert "hmac:\n        file: /h" in shown


@pytest.mark.parametrize("text", ["0s", "1ms", "90s", "30m", "36h", "30d", "10y", "1d", "1500ms"])
def test_durations_are_written_as_people_write_them(text: str) -> None:
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "y": 365 * 86_400}
    unit = text.lstrip("0123456789")
    assert duration(timedelta(seconds=int(text.removesuffix(unit)) * units[unit])) == text


def test_a_url_without_a_password_stays_whole() -> None:
    assert without_password("sqlite:////a:b@c/x.db") == "sqlite:////a:b@c/x.db"
    assert without_password("postgresql://u:p:w@h/x") == "postgresql://u:***@h/x"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p/w?@h/x", "postgresql://u:***@h/x"),
        ("postgresql://u:p@w@h/x", "postgresql://u:***@h/x"),
        (
            "postgresql://u@h/x?sslmode=require&password=p&port=1",
            "postgresql://u@h/x?sslmode=require&password=***&port=1",
        ),
        ("mysql://u@h/x?PassWd=p%26", "mysql://u@h/x?PassWd=***"),
    ],
)
def test_a_password_is_not_shown_wherever_it_stands_in_a_url(url: str, shown: str) -> None:
    assert without_password(url) == shown
    assert has_password(url)
    assert not has_password("postgresql://[::1]:5432/x?sslmode=require")
