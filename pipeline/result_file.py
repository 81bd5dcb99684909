"""The file of a kept result: what it must hold, checked whenever it is written and read."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from pipeline.user_yaml import invalid
from stages.config import Config, InputError
from stages.summarize import RATES, mean_and_error

Rate = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
TOLERANCE = 1e-9
Kind = TypeVar("Kind", bound=Config)


class Mean(Config):
    """A rate over cases: its mean and standard error, of how many cases with how many victims each."""

    mean: Rate
    se: Annotated[float, Field(ge=0)] | None
    """Null of a single case."""
    cases: Annotated[int, Field(ge=1)]
    victims: Annotated[int, Field(ge=1)]


class Case(Config):
    """One case as stage `summarize` leaves it."""

    case: Annotated[int, Field(ge=0)]
    target_class: str
    poison_class: str | None
    """Null where poisons are of several classes."""
    intended_class: str | None
    """Null is any but the target's own."""
    target_ids: tuple[int, ...]
    poisons: Annotated[int, Field(ge=1)]
    success: Rate
    clean_success: Rate
    brew_loss: float | None
    """B; null where poisons were made elsewhere."""
    poisoned_accuracy: Rate
    clean_accuracy: Rate
    p_intended: Rate
    clean_p_intended: Rate
    predictions: tuple[str, ...]
    clean_predictions: tuple[str, ...]


class Variant(Config):
    """One variant: what was asked, and what came out."""

    experiment: dict[str, Any]
    """With every default, and without what is of one machine only."""
    cases: Annotated[tuple[Case, ...], Field(min_length=1)]
    summary: dict[Literal[tuple(RATES)], Mean]  # type: ignore[valid-type]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, field in RATES.items():
            if name not in self.summary:
                raise ValueError(f"summary lacks {name}")
            told, found = self.summary[name], mean_and_error([getattr(case, field) for case in self.cases])
            if told.cases != len(self.cases):
                raise ValueError(f"summary.{name} is of {told.cases} cases, and there are {len(self.cases)}")
            for of, value in (("mean", told.mean), ("se", told.se)):
                expected = found[of]
                if value != expected and (value is None or expected is None or abs(value - expected) > TOLERANCE):
                    raise ValueError(f"summary.{name}.{of} is {value}, and that of the cases' {field} is {expected}")
        return self

    @property
    def paper_success(self) -> float | None:
        """The paper's figure for this setting, where the experiment names one."""
        return self.experiment.get("paper_success")


class Result(Config):
    """A finished run that is worth keeping. provenance: see `pipeline.provenance`; null where nobody knows."""

    name: Name
    run: str
    variants: Annotated[dict[str, Variant], Field(min_length=1)]
    provenance: dict[str, Any] | None = None


class Figure(Config):
    """One figure of a benchmark: the median over `n` rounds and their range, and the bounds that a test holds it to."""

    what: str
    network: str
    poisons: int | None
    micro_batch: int | None
    centre: float
    least: float
    most: float
    n: Annotated[int, Field(ge=1)]
    at_most: float | None = None
    at_least: float | None = None


class Benchmark(Config):
    """What `make bench` wrote of one group of figures, and the machine that it ran on."""

    machine: dict[str, Any]
    figures: Annotated[tuple[Figure, ...], Field(min_length=1)]


def read(file: Path) -> dict[str, Any]:
    """The file of a kept result, not yet checked. Raises InputError that names it where it is no JSON."""
    try:
        data = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as JSON: {error}; bring it back from version control") from None
    if not isinstance(data, dict):
        raise InputError(f"{file} holds {type(data).__name__}; expected a mapping of fields to values")
    return data


def check(data: dict[str, Any], file: Path, kind: type[Kind]) -> Kind:
    """What was read, as a kept result or a benchmark's figures. Raises InputError that names the file and what in it is
    wrong."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise invalid(f"result {file}", error) from None


def write(result: Config, file: Path) -> None:
    """Keep a result."""
    file.write_text(json.dumps(result.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n")


def without_places(experiment: dict[str, Any]) -> dict[str, Any]:
    """An experiment without what is of one machine only: folders and the runtime."""
    kept = {name: value for name, value in experiment.items() if name != "runtime"}
    for section, place in (("dataset", "root"), ("cases", "file")):
        kept[section] = {name: value for name, value in kept[section].items() if name != place}
    if folders := kept["attack"].get("folders"):
        kept["attack"] = kept["attack"] | {"folders": [{"sha256": folder["sha256"]} for folder in folders]}
    return kept
