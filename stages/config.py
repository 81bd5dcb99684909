"""What every configuration in brewline shares: frozen, unknown fields refused, and an identity to make keys of.

A configuration is pydantic data. Its *identity* is everything that changes what a step computes; fields marked
`Location` (where a file lies on this machine) are data that a stage needs but that no key may depend on.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, model_validator


class InputError(ValueError):
    """What a user gave is wrong: a field, a file, a folder. The message says which, what was found, what was
    expected and what to do. The command line ends with exit code 2 on it."""


@dataclass(frozen=True)
class NotIdentity:
    """Marks a field that must not change a step's key."""


@dataclass(frozen=True)
class Added:
    """Marks a field that came later: while it has its default it is no part of an identity, so that keys from before
    stay. The default may never change."""


Location = Annotated[Path | None, NotIdentity()]
"""Where something lies on this machine; never part of a key."""


def nearest(name: str, known: Iterable[str]) -> str:
    """How an error message goes on after an unknown name: the nearest known one, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(names)}"


class Config(BaseModel):
    """Base of all configurations: immutable, every default validated, unknown fields refused by their nearest name."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, data: Any) -> Any:
        unknown = [str(name) for name in data if name not in cls.model_fields] if isinstance(data, dict) else []
        if unknown:
            fields = cls.model_fields
            raise ValueError("; ".join(f"unknown field {name!r}, {nearest(name, fields)}" for name in unknown))
        return data


def identity(config: BaseModel) -> dict[str, Any]:
    """The JSON-ready fields of `config` that decide what a step computes: defaults included, but those of fields that
    came later; locations left out."""
    fields, added = _identity_fields(type(config))
    values = {name: getattr(config, name) for name in fields}
    return {
        name: _identity_of(value, config) for name, value in values.items() if name not in added or value != added[name]
    }


def _identity_of(value: Any, config: BaseModel) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, BaseModel):
        return identity(value)
    if isinstance(value, list | tuple):
        return [_identity_of(item, config) for item in value]
    if isinstance(value, dict):
        return {str(name): _identity_of(item, config) for name, item in value.items()}
    raise TypeError(f"{type(config).__name__} holds a {type(value).__name__}, which has no place in an identity")


@cache
def _identity_fields(kind: type[BaseModel]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The names of the fields that may be in an identity, and the defaults of those that came later."""

    def marked(mark: type) -> set[str]:
        fields = kind.model_fields.items()
        return {name for name, field in fields if any(isinstance(found, mark) for found in field.metadata)}

    no_part, added = marked(NotIdentity), marked(Added)
    return (
        tuple(name for name in kind.model_fields if name not in no_part),
        {name: kind.model_fields[name].default for name in added},
    )
