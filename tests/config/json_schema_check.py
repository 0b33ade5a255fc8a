# SPDX-License-Identifier: GPL-3.0-or-later
"""As much of JSON Schema as our own schema uses, to see that files which are right satisfy it."""

import re
from collections.abc import Iterator
from typing import Any

_KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
}
KNOWN = {
    "$schema",
    "$defs",
    "$ref",
    "type",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "anyOf",
    "oneOf",
    "enum",
    "const",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "default",
    "description",
    "discriminator",
}


def violations(value: Any, schema: dict[str, Any], top: dict[str, Any], place: str = "") -> Iterator[str]:
    """Each way in which a value does not satisfy a schema below `top`."""
    assert set(schema) <= KNOWN, set(schema) - KNOWN
    if "$ref" in schema:
        yield from violations(value, top["$defs"][schema["$ref"].removeprefix("#/$defs/")], top, place)
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        yield f"{place}: is no {kinds}"
        return
    for union in ("anyOf", "oneOf"):
        if union in schema and all(any(violations(value, each, top, place)) for each in schema[union]):
            yield f"{place}: is none of {union}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{place}: is none of {schema['enum']}"
    if "const" in schema and value != schema["const"]:
        yield f"{place}: is not {schema['const']}"
    if isinstance(value, str):
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"{place}: does not match {schema['pattern']}"
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 10**9):
            yield f"{place}: length"
    if isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{place}: out of range"
    if isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            yield f"{place}: too few"
        for position, item in enumerate(value):
            yield from violations(item, schema.get("items", {}), top, f"{place}[{position}]")
    if isinstance(value, dict):
        yield from _in_map(value, schema, top, place)


def _in_map(value: dict[str, Any], schema: dict[str, Any], top: dict[str, Any], place: str) -> Iterator[str]:
    known, others = schema.get("properties", {}), schema.get("additionalProperties", {})
    for missing in set(schema.get("required", ())) - value.keys():
        yield f"{place}.{missing}: is missing"
    for key, item in value.items():
        inner = known.get(key, others)
        if inner is False:
            yield f"{place}.{key}: is unknown"
        else:
            yield from violations(item, inner, top, f"{place}.{key}")


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _KINDS[kind])
