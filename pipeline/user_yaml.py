"""YAML that users write: read so that nothing is overlooked, and what is wrong with it said field by field."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from stages.config import InputError, nearest


class UniqueLoader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses a mapping that names a field twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(name, deep=True) for name, _ in node.value]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise InputError(f"field {twice[0]!r} stands twice, line {node.start_mark.line + 1}; keep one")
        return super().construct_mapping(node, deep)


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping. Raises InputError that names the file."""
    try:
        data = yaml.load(file.read_text(encoding="utf-8"), UniqueLoader)
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise InputError(f"{file} cannot be read as YAML: {error}") from None
    if not isinstance(data, dict):
        raise InputError(f"{file} holds {type(data).__name__}; expected a mapping of fields to values")
    return data


def invalid(what: str, error: ValidationError) -> InputError:
    """What is wrong with a file for its user: each field, what it holds and what was expected."""
    found = [item for item in error.errors() if not _only_counted(item)]
    lines = [f"  {_place(item['loc'])}: {_message(item)}" for item in found]
    return InputError("\n".join([f"{what} is not valid:", *lines]))


def _only_counted(error: Any) -> bool:
    """Whether a list is called too short as what it holds is wrong, which is told already."""
    return error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"]


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "the file"


def _message(error: Any) -> str:
    context = error.get("ctx", {})
    if error["type"] == "union_tag_invalid":
        known = [name.strip("' ") for name in context["expected_tags"].split(",")]
        return f"unknown kind {context['tag']!r}, {nearest(context['tag'], known)}"
    if error["type"] == "union_tag_not_found":
        return "the field `kind` is missing; it says which of the alternatives this is"
    if error["type"] == "literal_error" and isinstance(error["input"], str):
        known = [name.strip("' ") for name in context["expected"].replace(" or ", ",").split(",")]
        return f"found {error['input']!r}, {nearest(error['input'], known)}"
    if error["type"] == "too_short":
        return f"expected {context['min_length']} at least, found none"
    if error["type"] in ("tuple_type", "list_type"):
        return f"expected a list, found {error['input']!r}"
    message = error["msg"].removeprefix("Value error, ")
    found = error["input"]
    told = isinstance(found, str) and repr(found) in message
    return f"{message}, found {found!r}" if isinstance(found, str | int | float | None) and not told else message
