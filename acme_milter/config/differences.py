# SPDX-License-Identifier: GPL-3.0-or-later
"""A configuration as a document again: all of it, or only what differs from the defaults."""

from typing import Any

from acme_milter.config.policy import Defaults, DkimKey, Domain, MailboxesSection, Policy
from acme_milter.config.preset import laid_under, read_preset
from acme_milter.config.schema import Authority, Config, DnsSection, KeysSection, MilterSection, Store, WorkerSection
from acme_milter.config.secret import SecretSource
from acme_milter.config.section import Section
from acme_milter.config.written_form import written_form

Document = dict[str, Any]


def as_document(config: Config, *, everything: bool = False) -> Document:
    """What could be written into one file to have this configuration. Secrets are their references.

    Without ``everything`` what is left out is what would hold anyway: built in, from an authority's preset, or for
    a domain from ``defaults``.
    """
    parts: Document = {
        "store": _part(config.store, Store(), everything),
        "milter": _part(config.milter, MilterSection(), everything),
        "worker": _part(config.worker, WorkerSection(), everything),
        "keys": _part(config.keys, KeysSection(), everything),
        "dns": _part(config.dns, DnsSection(), everything),
        "authorities": {name: _authority(each, everything) for name, each in config.named_authorities.items()},
        "sources": {name: _source(each, everything) for name, each in config.sources.items()},
        "defaults": _part(config.defaults, Defaults(), everything),
        "domains": {name: _domain(config, name, each, everything) for name, each in config.domains.items()},
    }
    return {"version": config.version} | {name: part for name, part in parts.items() if part or everything}


def _part(section: Section, default: Section, everything: bool) -> Document:
    found: Document = {}
    for name in type(section).model_fields:
        value, usual = getattr(section, name), getattr(default, name, None)
        if isinstance(value, Section) and isinstance(usual, type(value)) and not everything:
            if inner := _part(value, usual, everything):
                found[name] = written_form(value) if _is_one_thing(value) else inner
        elif everything or value != usual:
            found[name] = written_form(value, name)
    return found


def _is_one_thing(section: Section) -> bool:
    """A key with its selector, a secret's place: written whole or not at all."""
    return isinstance(section, DkimKey | SecretSource)


def _authority(authority: Authority, everything: bool) -> Document:
    unnamed = {"directory": "https://unnamed.invalid/"}
    preset = Authority.model_validate(laid_under(unnamed, read_preset(authority.preset)))
    return {"preset": authority.preset} | _part(authority, preset, everything)


def _source(source: Section, everything: bool) -> Document:
    written = written_form(source)
    assert isinstance(written, dict)
    kept = type(source).model_fields if everything else source.model_fields_set
    return {"type": written["type"]} | {name: part for name, part in written.items() if name in kept}


def _domain(config: Config, name: str, domain: Domain, everything: bool) -> Document:
    policy = config.policies[name] if everything else config.defaults.overridden_by(domain)
    under = Policy.model_validate({each: getattr(config.defaults, each) for each in Policy.model_fields})
    found: Document = {"source": list(domain.source)} if domain.source or everything else {}
    found |= {key: part for key, part in _part(policy, under, everything).items() if key in Policy.model_fields}
    mailboxes = _written(domain.mailboxes)
    if everything:
        mailboxes = _part(MailboxesSection(), MailboxesSection(), True) | mailboxes
    return found | ({"mailboxes": mailboxes} if mailboxes or not domain.source else {})


def _written(section: Section) -> Document:
    """The keys that somebody wrote, of groups and single mailboxes too: they have no defaults of their own."""
    found: Document = {}
    for name in type(section).model_fields:
        if name in section.model_fields_set:
            found[name] = _written_value(getattr(section, name), name)
    return found


def _written_value(value: object, name: str) -> object:
    if isinstance(value, Section) and not _is_one_thing(value):
        return _written(value)
    if isinstance(value, tuple):
        if name == "group":
            return [pattern.group_name for pattern in value]
        return [_written(each) if isinstance(each, Section) else written_form(each) for each in value]
    if isinstance(value, dict):
        return {key: _written(each) for key, each in value.items()}
    return written_form(value, name)
