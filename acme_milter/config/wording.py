# SPDX-License-Identifier: GPL-3.0-or-later
"""pydantic's errors in an administrator's words.

A value is only quoted where no secret can have been written: never below a SecretSource, never in a database URL.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from acme_milter.config.document import UNION_TAGS
from acme_milter.config.schema import DkimKey, Eab
from acme_milter.config.secret import SecretSource
from acme_milter.config.values import shown

# Keys that other programs use for the same thing.
_OTHER_NAMES = {
    "ca": "authorities",
    "cas": "authorities",
    "authority": "authorities",
    "url": "directory",
    "server": "directory",
    "email": "contact",
    "mailbox": "mailboxes",
    "addresses": "list",
    "token_concat": "token_join",
    "nameserver": "nameservers",
    "resolver": "nameservers",
}


def suggestion(word: str, known: Iterable[str]) -> str:
    """` (did you mean X?)` when one of `known` is near `word`, else nothing."""
    names = list(known)
    near = get_close_matches(word, names, n=1) or get_close_matches(word.lower(), names, n=1)
    other = _OTHER_NAMES.get(word.lower())
    if not near and other in names:
        near = [other]
    return f" (did you mean {near[0]}?)" if near else ""


def unknown_key(word: str, known: Iterable[str]) -> str:
    """What to say of a key that does not exist."""
    names = list(known)
    return "unknown key" + (suggestion(word, names) or f" (known here: {', '.join(names)})")


def message_for(error: ErrorDetails, model: type[BaseModel]) -> str:
    """What to say of one of pydantic's errors about `model`."""
    place, value = error["loc"], error["input"]
    owners = models_at(model, place[:-1])
    if secret_at(model, place) is not None:
        return _about_secret(error, place, model)
    match error["type"]:
        case "extra_forbidden":
            known = [name for owner in owners for name in owner.model_fields]
            return unknown_key(str(place[-1]), known)
        case "missing":
            return _missing(owners, str(place[-1]))
        case "value_error":
            return str(error["ctx"]["error"])
        case "bool_type":
            return f"must be true or false (not {shown(value)})"
        case "int_type" | "int_from_float":
            return f"must be a whole number (not {shown(value)})"
        case "greater_than_equal":
            return f"must be at least {error['ctx']['ge']} (not {shown(value)})"
        case "less_than_equal":
            return f"must be at most {error['ctx']['le']} (not {shown(value)})"
        case "enum" | "literal_error":
            return _not_one_of(error, value, place)
        case "string_type":
            return f"must be text (not {shown(value)}; put it in quotes if it is meant so)"
        case "string_too_short":
            return "must not be empty"
        case "tuple_type":
            return "must be a list"
        case "model_type" | "dict_type" | "model_attributes_type":
            keys = ", ".join(name for found in models_at(model, place) for name in found.model_fields)
            return f"must be a map with the keys {keys}" if keys else "must be a map"
        case "union_tag_invalid" | "union_tag_not_found":
            return _kind_of_several(error)
        case kind:
            return f"is not valid ({kind})"


def _kind_of_several(error: ErrorDetails) -> str:
    """Of a list's map that says by one of its keys what it is."""
    about = error.get("ctx", {})
    name, expected = str(about.get("discriminator", "")).strip("'"), str(about.get("expected_tags", ""))
    known = [word.strip(" '") for word in expected.split(",")] if expected else []
    if error["type"] == "union_tag_not_found":
        return f"must say by {name} what it is"
    tag = str(about.get("tag", ""))
    return f"{name} must be one of {', '.join(known)} (not {shown(tag)}){suggestion(tag, known)}"


def models_at(model: type[BaseModel], place: Iterable[str | int]) -> list[type[BaseModel]]:
    """The models that a path through `model` can lead to; steps that pydantic adds for unions stand still."""
    here: list[Any] = [model]
    for step in place:
        inside = [inner for annotation in here for inner in _one_step(annotation, step)]
        if inside or step not in UNION_TAGS:
            here = inside
    return [found for annotation in here for found in _models_in(annotation)]


def _one_step(annotation: Any, step: str | int) -> Iterator[Any]:
    """What a key or a position leads to, for each thing that the annotation allows."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _one_step(inside[0], step)
    elif origin in {Union, UnionType}:
        for each in inside:
            yield from _one_step(each, step)
    elif origin is Mapping and isinstance(step, str):
        yield inside[1]
    elif origin is tuple and isinstance(step, int):
        yield inside[0]
    else:
        yield from (
            model.model_fields[step].annotation for model in _models_in(annotation) if step in model.model_fields
        )


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a value may be itself."""
    origin = get_origin(annotation)
    if isinstance(annotation, type) and origin is None and issubclass(annotation, BaseModel):
        yield annotation
    elif origin is Annotated:
        yield from _models_in(get_args(annotation)[0])
    elif origin in {Union, UnionType}:
        for inner in get_args(annotation):
            yield from _models_in(inner)


def secret_at(model: type[BaseModel], place: tuple[str | int, ...]) -> type[SecretSource] | None:
    """The kind of secret source that a fault lies in or on, None when it has nothing to do with one."""
    for found in (*models_at(model, place), *models_at(model, place[:-1])):
        if issubclass(found, SecretSource):
            return found
    return None


def _about_secret(error: ErrorDetails, place: tuple[str | int, ...], model: type[BaseModel]) -> str:
    source = secret_at(model, place)
    assert source is not None
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] == "missing":
        return _missing(models_at(model, place[:-1]), str(place[-1]))
    return f"must be exactly one of {source.choices()}; a secret never stands in this file"


def _missing(owners: list[type[BaseModel]], key: str) -> str:
    if any(issubclass(owner, DkimKey) for owner in owners):
        return "is missing: selector and key_file belong together"
    if any(issubclass(owner, Eab) for owner in owners):
        return "is missing: external account binding needs both kid and hmac"
    if key == "directory":
        return "is missing: the https:// URL of the authority's ACME directory"
    return "is missing"


def _not_one_of(error: ErrorDetails, value: object, place: tuple[str | int, ...]) -> str:
    if "relay" in place:
        return f"must be relay or {{selector: NAME, key_file: PATH}} (not {shown(value)})"
    allowed = re.findall(r"'([^']*)'", error["ctx"]["expected"])
    near = suggestion(value, allowed) if isinstance(value, str) else ""
    return f"must be one of {', '.join(allowed)}, not {shown(value)}{near}"
