"""Typed records of JSON and YAML files: a mistake is named by its field and value."""

from __future__ import annotations

import reprlib
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100


class Record(BaseModel):
    """A mapping whose keys are all known. No value is converted, numbers are finite."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, given: Any) -> Any:
        return check_keys(cls, given)


def check_keys(kind: type[BaseModel], given: Any) -> Any:
    """Return ``given``, whose keys are all of this kind of record; else ValueError."""
    known = [field.alias or name for name, field in kind.model_fields.items()]
    for key in given if isinstance(given, dict) else ():
        if key not in known:
            raise ValueError(f"there is no key {key!r}; known are {', '.join(sorted(known))}")
    return given


def first_mistake(error: ValidationError) -> str:
    """Field, expectation and value, such as "entries[1].width must be greater than 0, got -1"."""
    mistake = error.errors(include_url=False)[0]
    where, context = _path(mistake["loc"]), mistake.get("ctx", {})
    if mistake["type"] == "json_invalid":
        return f"not JSON: {context['error']}"
    if mistake["type"] == "value_error":  # words of our own
        return ": ".join(filter(None, (where, str(context["error"]))))
    if mistake["type"] == "missing":
        return f"{where} is missing"
    expected = mistake["msg"].replace("Input should", "must", 1).partition(" or instance of")[0]
    return f"{where or 'the file'} {expected}, got {_SHORT.repr(mistake['input'])}"


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for step in location:
        if isinstance(step, int) or not step.isidentifier():
            # Pydantic's word for a key, not its value, being at fault.
            path += "" if step == "[key]" else f"[{step!r}]"
        else:
            path += f".{step}" if path else step
    return path
