# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of each authority that speaks RFC 8823, as data files beside this one.

A preset's values lie under the authority's own keys: whatever the administrator writes wins. Maps merge, lists
replace.
"""

from importlib.resources import files
from typing import Any

from acme_milter.config.document import read_document

DEFAULT = "rfc8823"
_DIRECTORY = files("acme_milter.config") / "presets"


def preset_names() -> list[str]:
    """The names `preset:` may have."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _DIRECTORY.iterdir() if entry.name.endswith(".yaml"))


def read_preset(name: str) -> dict[str, Any]:
    """The plain keys of an authority that preset `name` (one of `preset_names()`) gives."""
    text = (_DIRECTORY / f"{name}.yaml").read_text(encoding="utf-8")
    faults: list[str] = []
    values = read_document(text, lambda place, message: faults.append(f"{name}:{place.line}: {place.key}: {message}"))
    assert not faults, faults
    plain: dict[str, Any] = values.plain()
    return plain


def laid_under(preset: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`own` with the preset's values where it has none."""
    merged = dict(preset)
    for key, value in own.items():
        under = preset.get(key)
        both = isinstance(value, dict) and isinstance(under, dict)
        merged[key] = laid_under(under or {}, value) if both else value
    return merged
