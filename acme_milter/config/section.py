# SPDX-License-Identifier: GPL-3.0-or-later
"""What every part of the configuration has in common: closed, strict, frozen, and empty means all defaults."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """A mapping of the configuration file. Unknown keys are faults; "yes" is no boolean and "5" no number."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        validate_default=False,
        hide_input_in_errors=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, value: Any) -> Any:
        """`reply:` with nothing but comments below is YAML's null."""
        return {} if value is None else value
