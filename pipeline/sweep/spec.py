"""The sweep file: a base experiment, a search space over its fields, what is looked for, and how long."""

import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from pipeline.user_yaml import invalid, read_yaml
from stages.config import Config, InputError, nearest

FORMAT = 1

METRICS: dict[str, Literal["max", "min"]] = {
    "poison_success": "max",
    "clean_success": "min",
    "poisoned_accuracy": "max",
    "clean_accuracy": "max",
    "brew_loss": "min",
    "validation_accuracy": "max",
    "gpu_seconds": "min",
    "step_seconds": "min",
}
"""What a trial is judged by, and whether more or less of it is looked for unless the file says otherwise: figures of
the summary; the mean B of its poisons; the surrogates' mean validation accuracy; and what all its steps take, on GPUs
and in all, were nothing shared."""

Ends = Literal["cases", "brew-loss"]
"""What a trial that runs on a part of its cases gives of them: their evaluations, or their poisons alone."""

NO_RESULT = ("format", "name", "description", "paper", "paper_success", "runtime")
"""Fields of an experiment on which no step's output depends."""
MOST_COMBINATIONS = 100_000

Bounds = tuple[float, float]


class Parameter(Config):
    """The values that one field may take: one of the five, and `when` it is there at all."""

    choice: tuple[Any, ...] | None = None
    """One of these values, whatever they are."""
    grid: tuple[Any, ...] | None = None
    """All of these values: every other parameter is drawn anew for each (each combination, where several are grids)."""
    uniform: Bounds | None = None
    """A number between two, ends included."""
    log_uniform: Bounds | None = None
    """A number between two above 0, whose logarithm is uniform."""
    integers: tuple[int, int] | None = None
    """A whole number between two, ends included."""
    when: dict[str, Any] = Field(default_factory=dict)
    """{field: value, or list of values}: the parameter is left out unless the fields, parameters above it or of the
    base experiment, have such values."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        kinds = {name: getattr(self, name) for name in type(self).model_fields if name != "when"}
        given = [name for name, value in kinds.items() if value is not None]
        if len(given) != 1:
            raise ValueError(f"give one of {', '.join(kinds)}; found {' and '.join(given) or 'none'}")
        name, value = given[0], kinds[given[0]]
        if name in ("choice", "grid"):
            if not value:
                raise ValueError(f"{name} is empty; give the values to try")
            if len({repr(one) for one in value}) < len(value):
                raise ValueError(f"{name} names a value twice; keep one")
        elif not (all(math.isfinite(end) for end in value) and value[0] < value[1]):
            raise ValueError(f"{name} is [{value[0]:g}, {value[1]:g}]; expected two numbers, the smaller one first")
        elif name == "log_uniform" and value[0] <= 0:
            raise ValueError(f"log_uniform is [{value[0]:g}, {value[1]:g}]; expected numbers above 0")
        return self

    @property
    def values(self) -> Sequence[Any] | None:
        """All values in order, where they can be listed."""
        if self.integers:
            return range(self.integers[0], self.integers[1] + 1)
        return self.choice or self.grid

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that show whether the experiment takes them all: every one listed, or the two ends."""
        return self.choice or self.grid or self.integers or self.uniform or self.log_uniform or ()


class Metric(Config):
    """What is looked for."""

    name: str
    mode: Literal["max", "min"]

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, given: Any) -> Any:
        data = {"name": given} if isinstance(given, str) else given
        if isinstance(data, Mapping) and isinstance(name := data.get("name"), str):
            if name not in METRICS:
                raise ValueError(f"unknown metric {name!r}, {nearest(name, METRICS)}")
            return {"mode": METRICS[name], **data}
        return data


class Searcher(Config):
    """How suggestions are made: all combinations in order, at random, or by Optuna's TPE from what was seen."""

    kind: Literal["grid", "random", "optuna"] = "grid"
    seed: int = 0


class Asha(Config):
    """Asynchronous successive halving (Li et al. 2020): a trial runs on a part of its cases first, 1, r, r², … of them,
    and goes on if it is among the best 1/r of those that came so far."""

    kind: Literal["asha"] = "asha"
    by: Ends = "cases"
    """What is compared at a rung: the first metric over the cases so far; or the mean B of their poisons, with which no
    victim is trained before the last rung. The resource is the number of cases in both."""
    grace: Annotated[int, Field(ge=1)] = 1
    """Cases of the first rung."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """r."""


class Budget(Config):
    """When to end, by whichever comes first; a sweep that has more to do goes on when it is started again."""

    trials: Annotated[int, Field(ge=1)] | None = None
    """Suggestions in all, finished ones of an earlier start included; null is as many as a grid has."""
    hours: Annotated[float, Field(gt=0)] | None = None
    """Of this start of the sweep; trials that run are then ended, and tried again by the next."""
    gpu_hours: Annotated[float, Field(gt=0)] | None = None
    """Of steps computed by trials that ended, earlier starts included; no trial begins after it."""


class Spec(Config):
    """One sweep."""

    format: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=80)]
    description: str = ""
    paper: str = ""
    """What the paper got, for comparison."""
    experiment: str
    """The base: an experiment's name, or a file beside this one."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """{field.path: value} over the base."""
    space: Annotated[dict[str, Parameter], Field(min_length=1)]
    """{field.path: the values that it may take}."""
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)] = (Metric(name="poison_success", mode="max"),)
    """One; or several, of which the sweep gives the Pareto front."""
    searcher: Searcher = Searcher()
    scheduler: Asha | None = None
    """Null runs every trial to its end."""
    budget: Budget = Budget()
    concurrency: Annotated[int, Field(ge=1)] = 4
    """Trials at once; their steps wait for machines in common, and for steps that they share."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [metric.name for metric in self.metrics]
        if len(set(names)) < len(names):
            raise ValueError("metrics names one twice; keep one")
        if clash := next((path for path in self.settings if path in self.space), None):
            raise ValueError(f"{clash} stands in settings and in space; keep one")
        if idle := next((path for path in self.space if path.partition(".")[0] in NO_RESULT), None):
            raise ValueError(f"space has {idle}, which changes no result; give it in settings")
        paths = [*self.settings, *self.space]
        for number, path in enumerate(paths):
            if lost := next((above for above in paths[:number] if above.startswith(f"{path}.")), None):
                raise ValueError(
                    f"{path} takes the place of {lost}, which is set before it; keep one, or put {path} first"
                )
        endless = [path for path, one in self.space.items() if one.values is None]
        if self.searcher.kind == "grid" and endless:
            raise ValueError(
                f"searcher grid tries all combinations, and {endless[0]} has endlessly many values; give choice, grid "
                "or integers, or take searcher random or optuna"
            )
        grid = [one.values or () for one in self.space.values() if one.grid or self.searcher.kind == "grid"]
        if (combinations := math.prod(map(len, grid))) > MOST_COMBINATIONS:
            raise ValueError(
                f"space has {combinations:,} combinations to try, and {MOST_COMBINATIONS:,} are the most; give fewer "
                "values, or take choice or integers with searcher random or optuna"
            )
        budget = self.budget
        if self.searcher.kind != "grid" and not (budget.trials or budget.hours or budget.gpu_hours):
            raise ValueError(
                f"searcher {self.searcher.kind} never ends by itself; give budget.trials, hours or gpu_hours"
            )
        return self


def named_sweeps() -> dict[str, Path]:
    """The sweeps that ship with brewline: name -> file."""
    folder = Path(str(resources.files("pipeline"))) / "sweeps"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def load_spec(file: Path) -> Spec:
    """Read a sweep file. Raises InputError that names each field that is wrong."""
    data = read_yaml(file)
    if data.get("format", FORMAT) != FORMAT:
        raise InputError(
            f"{file}: format is {data['format']!r}, expected {FORMAT}: it was written for another version of brewline"
        )
    try:
        return Spec.model_validate(data)
    except ValidationError as error:
        raise invalid(f"sweep {file}", error) from None
