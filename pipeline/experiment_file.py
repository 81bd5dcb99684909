"""The experiment file: YAML, variants and settings over it, into experiments."""

import copy
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.experiment import Experiment
from pipeline.user_yaml import UniqueLoader, invalid, read_yaml
from stages.config import InputError, nearest


def named_experiments() -> dict[str, Path]:
    """The experiments that ship with brewline: name -> file."""
    folder = Path(str(resources.files("pipeline"))) / "experiments"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


_TOLD = {"format", "name", "description", "paper", "paper_success", "runtime"}
"""Fields that change no figure."""


def load_experiments(file_or_name: str, settings: Iterable[str] = ()) -> dict[str, Experiment]:
    """Read an experiment by file or by name, with `field.path=value` settings over it.

    A file may name `variants`: {name: {field.path: value}}, the rows of a table, say. Gives one experiment a variant,
    or one under the name "". Raises InputError that names the field, what was found and what was expected.
    """
    experiments = {
        variant: parse(fields, f"{file_or_name}, variant {variant}" if variant else file_or_name)
        for variant, fields in read_experiments(file_or_name, settings).items()
    }
    first = next(iter(experiments.values()))
    for variant, experiment in experiments.items():
        if (experiment.name, experiment.runtime) != (first.name, first.runtime):
            raise InputError(
                f"experiment {file_or_name}: variant {variant} sets name or runtime, and a run has one; set it outside "
                "variants"
            )
    return experiments


def read_experiments(file_or_name: str, settings: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """The fields that `load_experiments` makes experiments of, as they were given: no default is filled in."""
    named = named_experiments()
    file = named.get(file_or_name, Path(file_or_name))
    if not file.is_file():
        hint = nearest(file_or_name, named)
        raise InputError(f"no experiment {file_or_name!r}: it is neither a file nor a named experiment; {hint}")
    data = read_yaml(file)
    given = [_setting(text) for text in settings]
    fields = {}
    for variant, own in _variants(data, file).items():
        varied = copy.deepcopy(data)
        for path in own:
            if clash := next(
                (name for name, _ in given if f"{name}.".startswith(f"{path}.") or f"{path}.".startswith(f"{name}.")),
                None,
            ):
                raise InputError(
                    f"--set {clash}: variant {variant} of {file.name} sets {path} itself; a setting is for "
                    "all variants, so copy the file and change it there"
                )
        for path, value in [*own.items(), *given]:
            set_field(varied, str(path), value)
        changed = {name for name, _ in given if name.partition(".")[0] not in _TOLD} - {"dataset.root", "cases.file"}
        if changed and "paper_success" not in dict(given):
            varied.pop("paper_success", None)  # it is of the setting as it stands in the file
        fields[variant] = varied
    return fields


def _variants(data: dict[str, Any], file: Path) -> dict[str, dict[str, Any]]:
    """Take the variants out of a file's data; one without a name where there are none."""
    variants = data.pop("variants", None)
    if variants is None:
        return {"": {}}
    if not isinstance(variants, dict) or not variants:
        raise InputError(f"{file}: variants is {variants!r}; expected {{name: {{field.path: value}}}}")
    for name, own in variants.items():
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", str(name)):
            raise InputError(f"{file}: variant {name!r} is no name; use small letters, digits, '.' and '-'")
        if not isinstance(own, dict):
            raise InputError(f"{file}: variant {name} is {own!r}; expected {{field.path: value}}")
    return {str(name): own for name, own in variants.items()}


def parse(data: Mapping[str, Any], origin: str) -> Experiment:
    """Validate an experiment that was read from `origin`, which error messages name.

    What `surrogates.training` and `victims.training` leave out is as in `training`.
    """
    try:
        return Experiment.model_validate(_with_own_trainings(data))
    except ValidationError as error:
        raise invalid(f"experiment {origin}", error) from None


def _with_own_trainings(data: Mapping[str, Any]) -> dict[str, Any]:
    common, filled = data.get("training", {}), dict(data)
    for section in ("surrogates", "victims"):
        fields = filled.get(section)
        if isinstance(fields, Mapping) and isinstance(fields.get("training"), Mapping) and isinstance(common, Mapping):
            filled[section] = {**fields, "training": _over(common, fields["training"])}
    return filled


def _over(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`own` fields over `common` ones, also within a field that both give; one of another kind replaces the other."""
    merged = {**common, **own}
    for name, value in own.items():
        other = common.get(name)
        if isinstance(value, Mapping) and isinstance(other, Mapping) and value.get("kind") in (None, other.get("kind")):
            merged[name] = _over(other, value)
    return merged


def _setting(text: str) -> tuple[str, Any]:
    """A `field.path=value` of the command line; the value is read as YAML."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise InputError(f"--set {text}: expected field.path=value, as in attack.eps=8")
    try:
        return path, yaml.load(value, UniqueLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"--set {text}: the value cannot be read as YAML: {error}") from None


def set_field(data: dict[str, Any], path: str, value: Any) -> None:
    """Put a value at `field.path` in `data`."""
    *parents, last = path.split(".")
    for depth, name in enumerate(parents):
        child = data.get(name)
        if child is None:
            child = data[name] = {}
        if not isinstance(child, dict):
            raise InputError(f"cannot set {path}: {'.'.join(parents[: depth + 1])} is {child!r}, which has no fields")
        data = child
    data[last] = value
