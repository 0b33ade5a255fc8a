# SPDX-License-Identifier: GPL-3.0-or-later
"""The JSON Schema accepts what the loader accepts, refuses what is plainly wrong, and describes every key."""

from pathlib import Path
from typing import Any

import pytest

from acme_milter.config.document import read_document
from acme_milter.config.json_schema import schema_of_domain_file, schema_of_file
from tests.config.json_schema_check import violations

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "contrib" / "examples"
FILE, DOMAIN = schema_of_file(), schema_of_domain_file()


def plain(text: str) -> Any:
    def complain(place: object, message: str) -> None:
        raise AssertionError(f"{place}: {message}")

    return read_document(text, complain).plain()


def found(text: str, schema: dict[str, Any]) -> list[str]:
    return list(violations(plain(text), schema, schema))


@pytest.mark.parametrize(
    "path", [ROOT / "acme-milter.yaml", EXAMPLES / "acme-milter.yaml"], ids=lambda path: path.parent.name
)
def test_configurations_satisfy_it(path: Path) -> None:
    assert found(path.read_text(encoding="utf-8"), FILE) == []


@pytest.mark.parametrize("path", sorted((EXAMPLES / "domains.d").glob("*.yaml")), ids=lambda path: path.stem)
def test_domain_files_satisfy_theirs(path: Path) -> None:
    assert found(path.read_text(encoding="utf-8"), DOMAIN) == []


@pytest.mark.parametrize(
    "text",
    [
        "nonsense: 1",
        "defaults: {mode: no}",
        "defaults: {renewal: {spread: 30}}",
        "worker: {threads: 0}",
        "sources: {hr: {type: cvs, path: a}}",
        "sources: {hr: {type: csv}}",
        "authorities: {a: {preset: nope}}",
        "domains: {a.example: {mailboxes: {groups: [{mode: observe}]}}}",
        "store: {url: 5}",
    ],
)
def test_plain_faults_do_not_satisfy_it(text: str) -> None:
    assert found(text, FILE)


def test_short_forms_and_empty_sections_satisfy_it() -> None:
    text = (
        "reply:\nsource: ad\ndomain: a.example\nrenewal: {spread: 0, at: 67%}\nmailboxes:\n"
        "  exclude: [{group: x}, a@*]\n  groups: [{match: {group: x, address: [a@*]}, renewal: {at: 0.5}}]\n"
        "  overrides: {x@a.example: {mode: observe}}\n"
    )
    assert found(text, DOMAIN) == []


@pytest.mark.parametrize("schema", [FILE, DOMAIN], ids=["file", "domain file"])
def test_every_key_is_described_and_every_default_is_written_as_people_write_it(schema: dict[str, Any]) -> None:
    for name, part in {"top": schema, **schema["$defs"]}.items():
        for key, value in part.get("properties", {}).items():
            assert value.get("description"), (name, key)
            if "default" in value:
                assert list(violations(value["default"], value, schema)) == [], (name, key)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
