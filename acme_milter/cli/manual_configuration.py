# SPDX-License-Identifier: GPL-3.0-or-later
"""The man page of the configuration file, from its JSON Schema: each map of keys with kinds, defaults and meanings."""

from collections.abc import Iterator, Sequence
from typing import Any

from acme_milter.cli.roff import bold, escaped, heading, italic, paragraphs
from acme_milter.config.json_schema import schema_of_file

SUMMARY = "the configuration of acme-milter"
INTRODUCTION = """
YAML, read at the start and again at SIGHUP. A file domains.d/NAME.yaml beside it holds one domain each: "domain: NAME"
and that domain's keys. Only true and false are yes and no; what looks like text is text.

Durations are written 30s, 10m, 24h, 30d or 10y; relative paths count from the file that names them. No secret stands in
it: where one is needed, it is {file: PATH}, {env: NAME} or {credential: NAME}.

A mailbox's policy is put together from the built-in values, defaults, its domain, the first matching group and the
mailbox's own overrides, the later ones winning: maps are merged, lists are replaced. "acme-milter config explain
ADDRESS" shows where each value comes from.
"""


def configuration_page() -> str:
    """acme-milter.yaml(5)."""
    schema: dict[str, Any] = schema_of_file()
    policy = schema["$defs"]["Policy"]["properties"]
    lines = [
        heading("acme-milter.yaml", 5, SUMMARY),
        ".SH DESCRIPTION",
        paragraphs(INTRODUCTION),
        ".SH KEYS",
        *_keys(schema["properties"], schema),
    ]
    for place, section in _sections(schema):
        own = dict(section["properties"])
        repeats = place != "defaults" and policy.keys() <= own.keys()
        if repeats:  # a domain, a group, a mailbox: what defaults has, said once
            own = {key: part for key, part in own.items() if key not in policy}
        lines += [f".SS {escaped(place)}", *_keys(own, schema, required=section.get("required", ()))]
        if repeats:
            lines += [".PP", "And every key of defaults, except safety."]
    lines += [
        ".SH FILES",
        ".TP",
        italic("/etc/acme-milter/acme-milter.yaml"),
        "Where it is looked for, unless \\-\\-config or ACME_MILTER_CONFIG say otherwise.",
        ".SH SEE ALSO",
        f"{bold('acme-milter')}(8), {bold('acme-milter-config')}(8)",
    ]
    return "\n".join(lines) + "\n"


def _sections(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The maps that keys lead to with their places, each once, in the order in which a reader meets them."""
    waiting, seen = [*_references(schema["properties"], "")], set[str]()
    while waiting:
        place, name = waiting.pop(0)
        section = schema["$defs"][name]
        if name in seen or "properties" not in section:
            continue
        seen.add(name)
        kind = section["properties"].get("type", {}).get("const")
        yield f"{place}, type: {kind}" if kind else place, section
        waiting += _references(section["properties"], place)


def _references(properties: dict[str, Any], place: str) -> Iterator[tuple[str, str]]:
    """The definitions that these keys lead to, with the dotted place of each."""
    for key, part in properties.items():
        yield from _targets(part, f"{place}.{key}".strip("."))


def _targets(part: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(part, list):
        for one in part:
            yield from _targets(one, place)
    elif isinstance(part, dict):
        if isinstance(reference := part.get("$ref"), str):
            yield place, reference.rpartition("/")[2]
        yield from _targets(part.get("items"), place + "[]")
        yield from _targets(part.get("additionalProperties"), place + ".NAME")
        for union in ("anyOf", "oneOf", "allOf"):
            yield from _targets(part.get(union), place)


def _keys(properties: dict[str, Any], schema: dict[str, Any], *, required: Sequence[str] = ()) -> Iterator[str]:
    for key, part in properties.items():
        yield ".TP"
        yield f"{bold(key)} ({escaped(_kind(part, schema))}{_default(part, key in required)})"
        yield escaped(part.get("description", "")) or "\\&"


def _default(part: dict[str, Any], required: bool) -> str:
    if required:
        return "; must be given"
    value = part.get("default")
    if value in (None, [], {}, "") or isinstance(value, dict | list):
        return ""
    shown = {True: "true", False: "false"}.get(value, value) if isinstance(value, bool) else value
    return f"; default {italic(str(shown))}"


def _kind(part: dict[str, Any], schema: dict[str, Any]) -> str:
    """What may stand there, in a few words."""
    if "const" in part:
        return str(part["const"])
    if "enum" in part:
        return " | ".join(map(str, part["enum"]))
    if isinstance(reference := part.get("$ref"), str):
        name = reference.rpartition("/")[2]
        target = schema["$defs"][name]
        return "map" if "properties" in target else _kind(target, schema)
    for union in ("anyOf", "oneOf"):
        if union in part:
            kinds = [_kind(one, schema) for one in part[union] if one.get("type") != "null"]
            return " | ".join(dict.fromkeys(kinds))
    kind = part.get("type", "value")
    if kind == "array":
        return f"list of {_kind(part.get('items', {}), schema)}"
    if kind == "object":
        inner = part.get("additionalProperties")
        return f"map of names, each a {_kind(inner, schema)}" if isinstance(inner, dict) else "map"
    if isinstance(kind, list):
        return "duration" if "ms|s|m" in part.get("pattern", "") else " | ".join(kind)
    return {"string": "text", "integer": "number", "boolean": "true | false"}.get(kind, str(kind))
