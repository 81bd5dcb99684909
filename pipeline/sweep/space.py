"""From a search space to suggestions: which parameters are there, and what each is given."""

import copy
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.experiment_file import set_field
from pipeline.sweep.spec import Parameter, Spec
from stages.config import InputError, nearest

if TYPE_CHECKING:
    import optuna

MOST = 1000
"""Combinations that are all tried out before a sweep begins; of larger spaces the ends of each parameter are."""

Settings = dict[str, Any]
"""{field.path: value} of one trial, in the order of the space."""


def check_space(spec: Spec, base: Mapping[str, Any]) -> None:
    """Raise InputError for a `when` of a field that is neither a parameter above it nor one of the base experiment, or
    of values that the field never has.

    base: the fields of the base experiment, defaults included.
    """
    above: list[str] = []
    for path, parameter in spec.space.items():
        for field, wanted in parameter.when.items():
            within = any(field.startswith(f"{one}.") for one in above)
            if field not in above and not within and not _has(base, field):
                raise InputError(
                    f"space.{path}.when: {field} is no parameter above it and no field of the experiment, "
                    f"{nearest(field, [*above, *_paths(base)])}"
                )
            if field in spec.space and field not in above:
                raise InputError(f"space.{path}.when: {field} stands below it; put {field} above {path}")
            if not within and not _may_be(field, wanted, spec.space.get(field), base):
                raise InputError(f"space.{path}.when: {field} is never {json.dumps(wanted)}; give values that it has")
            if spec.searcher.kind != "grid" and parameter.grid and field in above and not spec.space[field].grid:
                raise InputError(
                    f"space.{path}: a grid goes through its values in turn, but this one is there "
                    f"only for some {field}; give choice in place of grid, or take searcher grid"
                )
        above.append(path)


def is_there(parameter: Parameter, so_far: Settings, base: Mapping[str, Any]) -> bool:
    """Whether a parameter is there, given those above it."""
    if not parameter.when:
        return True
    data = copy.deepcopy(dict(base))
    for path, value in so_far.items():
        set_field(data, path, copy.deepcopy(value))  # a mapping, into which a later path may go
    return all(_has(data, field) and _value(data, field) in _listed(wanted) for field, wanted in parameter.when.items())


def grid(spec: Spec, base: Mapping[str, Any], everything: bool) -> list[Settings]:
    """All combinations of the parameters that are `grid`, or of all; the last one changes fastest.

    A combination that differs in nothing but a parameter that is not there is one.
    """
    found: list[Settings] = [{}]
    for path, parameter in spec.space.items():
        if not (everything or parameter.grid):
            continue
        found = [
            {**settings, path: value} if is_there(parameter, settings, base) else settings
            for settings in found
            for value in (parameter.values or () if is_there(parameter, settings, base) else (None,))
        ]
    return found


def draw(trial: "optuna.Trial", spec: Spec, base: Mapping[str, Any]) -> Settings:
    """What Optuna suggests for each parameter that is there."""
    settings: Settings = {}
    for path, parameter in spec.space.items():
        if is_there(parameter, settings, base):
            settings[path] = _suggest(trial, path, parameter)
    return settings


def _suggest(trial: "optuna.Trial", path: str, parameter: Parameter) -> Any:
    if parameter.integers:
        return trial.suggest_int(path, *parameter.integers)
    if parameter.uniform:
        return trial.suggest_float(path, *parameter.uniform)
    if parameter.log_uniform:
        return trial.suggest_float(path, *parameter.log_uniform, log=True)
    return json.loads(trial.suggest_categorical(path, [dumped(value) for value in parameter.values or ()]))


def dumped(value: Any) -> str:
    """One of several values as Optuna takes it, which knows no lists and no mappings."""
    return json.dumps(value, sort_keys=True)


def corners(spec: Spec, base: Mapping[str, Any]) -> Iterator[Settings]:
    """Settings that show whether the experiment takes the space: every combination where there are few, else each
    parameter's values, or its two ends, with the others' first."""
    choices = {path: parameter.ends for path, parameter in spec.space.items()}
    first = {path: values[0] for path, values in choices.items()}
    each = ({**first, path: value} for path, values in choices.items() for value in values)
    count = 1
    for values in choices.values():
        count *= len(values)
    all_of_them = (dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values()))
    seen: set[str] = set()
    for candidate in all_of_them if count <= MOST else each:
        settings: Settings = {}
        for path, parameter in spec.space.items():
            if is_there(parameter, settings, base):
                settings[path] = candidate[path]
        if (name := json.dumps(settings, default=str)) not in seen:
            seen.add(name)
            yield settings


def _may_be(field: str, wanted: Any, parameter: Parameter | None, base: Mapping[str, Any]) -> bool:
    """Whether a field has any of the wanted values in some trial, as far as can be listed."""
    own = [_value(base, field)] if (parameter is None or parameter.when) and _has(base, field) else []
    if parameter is not None and parameter.values is None:
        return True
    return any(one in own or (parameter is not None and one in (parameter.values or ())) for one in _listed(wanted))


def _listed(wanted: Any) -> list[Any]:
    return wanted if isinstance(wanted, list) else [wanted]


def _has(data: Any, path: str) -> bool:
    for name in path.split("."):
        if not isinstance(data, Mapping) or name not in data:
            return False
        data = data[name]
    return True


def _value(data: Any, path: str) -> Any:
    for name in path.split("."):
        data = data[name]
    return data


def _paths(data: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for name, value in data.items():
        yield f"{above}{name}"
        if isinstance(value, Mapping):
            yield from _paths(value, f"{above}{name}.")
