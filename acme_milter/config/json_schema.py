# SPDX-License-Identifier: GPL-3.0-or-later
"""JSON Schema (draft 2020-12) of the configuration file and of a domain's own file, for editors and man pages."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from acme_milter.config.descriptions import DESCRIPTIONS
from acme_milter.config.policy import Defaults, Domain
from acme_milter.config.preset import DEFAULT, preset_names
from acme_milter.config.schema import Authority, DnsSection, KeysSection, MilterSection, Store, WorkerSection
from acme_milter.config.section import Section
from acme_milter.config.sources import SourceSection
from acme_milter.config.written_form import written_form

DRAFT = "https://json-schema.org/draft/2020-12/schema"


class ConfigurationFile(Section):
    """The configuration of acme-milter, usually /etc/acme-milter/acme-milter.yaml."""

    version: Literal[1] = 1
    store: Store = Store()
    milter: MilterSection = MilterSection()
    worker: WorkerSection = WorkerSection()
    keys: KeysSection = KeysSection()
    dns: DnsSection = DnsSection()
    authorities: Mapping[str, Authority] = {}
    sources: Mapping[str, SourceSection] = {}
    defaults: Defaults = Defaults()
    domains: Mapping[str, Domain] = {}


class DomainFile(Domain):
    """A domain's own file, domains.d/NAME.yaml beside the configuration."""

    domain: str


class _AsWritten(GenerateJsonSchema):
    def encode_default(self, dft: Any) -> Any:
        return written_form(dft)


def schema_of_file() -> dict[str, Any]:
    """Of the configuration file."""
    return _schema_of(ConfigurationFile)


def schema_of_domain_file() -> dict[str, Any]:
    """Of a file in `domains.d`."""
    return _schema_of(DomainFile)


def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(schema_generator=_AsWritten, mode="validation")
    parts: dict[str, Any] = {model.__name__: schema, **schema.get("$defs", {})}
    for name, part in parts.items():
        _complete(name, part)
    if "Authority" in parts:
        authority = parts["Authority"]
        authority.pop("required")  # the preset may know the directory
        authority["properties"]["preset"]["enum"] = preset_names()
        authority["properties"]["preset"]["default"] = DEFAULT
    return {"$schema": DRAFT, **schema}


def _complete(name: str, part: dict[str, Any]) -> None:
    """Sentences in, pydantic's titles out; a section may be empty, which is null in YAML."""
    part.pop("title", None)
    known = described(name)
    for key, value in part.get("properties", {}).items():
        value.pop("title", None)
        if key in known:
            kind = value.get("description")
            value["description"] = f"{known[key]} {kind}" if kind else known[key]
    if part.get("type") == "object" and "required" not in part:
        part["type"] = ["object", "null"]


def described(model: str) -> dict[str, str]:
    """The sentences for the keys of a model, its own and those it shares with others."""
    found: dict[str, str] = {}
    for name in (*_bases(model), model):
        found |= DESCRIPTIONS.get(name, {})
    return found


def _bases(model: str) -> Iterator[str]:
    if model.endswith("Source") and model != "WrappingKeySource":
        yield "SourceCommon"
    if model.endswith("Target"):
        yield "TargetCommon"
    if model in {"Defaults", "Domain", "DomainFile", "MailboxGroup"}:
        yield "Policy"
    if model == "DomainFile":
        yield "Domain"
