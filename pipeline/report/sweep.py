"""What is known of a sweep: the trials that a store has of it, and which of them count."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.store import Store, StoreError

SWEEP = "sweep.json"
STATES = ("done", "running", "stopped", "failed")


class _Part(BaseModel):
    """A part of the file. What a newer brewline adds to it is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Metric(_Part):
    """What the sweep looks for."""

    name: str
    mode: Literal["max", "min"]


class Trial(_Part):
    """One setting that was tried. settings: what it set, by field.  metrics: figures, each with `<name>_se` where it
    has a standard error.  steps_shared: how many of its steps another run had done."""

    number: Annotated[int, Field(ge=0)]
    run: str | None = None
    settings: dict[str, Any]
    state: Literal["done", "stopped", "failed", "running"]
    metrics: dict[str, float | None] = Field(default_factory=dict)
    seconds: float | None = None
    why: str = ""
    steps: int = 0
    steps_shared: int = 0

    def known(self, *names: str) -> bool:
        """Whether it has these figures."""
        return all(self.metrics.get(name) is not None for name in names)

    def metric(self, name: str) -> float:
        """A figure that is `known`."""
        value = self.metrics[name]
        if value is None:
            raise KeyError(name)
        return value


class Sweep(_Part):
    """A sweep as the store has it."""

    format: Literal[1]
    name: str
    spec: dict[str, Any]
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)]
    trials: tuple[Trial, ...]
    best: tuple[int, ...] = ()
    importance: dict[str, float] | None = None
    steps_saved: int = 0

    @property
    def fields(self) -> list[str]:
        """What trials set, in the order in which it first occurs."""
        return list(dict.fromkeys(name for trial in self.trials for name in trial.settings))

    @property
    def figures(self) -> list[str]:
        """The figures that trials have: first those that are looked for."""
        asked = [metric.name for metric in self.metrics]
        found = (name for trial in self.trials for name in trial.metrics if not name.endswith("_se"))
        return list(dict.fromkeys([*asked, *found]))

    def count(self, state: str) -> int:
        """How many trials are in a state."""
        return sum(trial.state == state for trial in self.trials)

    def values(self, field: str) -> list[Any]:
        """The different values that trials which have the first metric gave a field, numbers in ascending order."""
        found = [trial.settings[field] for trial in self.measured() if field in trial.settings]
        distinct = [value for number, value in enumerate(found) if value not in found[:number]]
        return sorted(distinct) if all(map(is_number, distinct)) else distinct

    def measured(self, *names: str) -> list[Trial]:
        """The trials that have these figures, or else the first that is looked for."""
        wanted = names or (self.metrics[0].name,)
        return [trial for trial in self.trials if trial.known(*wanted)]

    def front(self) -> list[Trial]:
        """The trials that no other beats in one of the first two metrics without being beaten in the other (the Pareto
        front), ascending in the first."""
        first, second = self.metrics[:2]
        found = self.measured(first.name, second.name)

        def worth(trial: Trial) -> tuple[float, float]:
            one, two = (trial.metric(of.name) * (1 if of.mode == "max" else -1) for of in (first, second))
            return one, two

        def beaten(trial: Trial) -> bool:
            mine = worth(trial)
            return any(
                (theirs := worth(other)) != mine and theirs[0] >= mine[0] and theirs[1] >= mine[1] for other in found
            )

        return sorted((trial for trial in found if not beaten(trial)), key=lambda trial: trial.metric(first.name))


def is_number(value: Any) -> bool:
    """Whether a setting has a place on an axis."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_sweep(store: Store, run: str) -> Sweep | None:
    """The sweep of this name; None where the store has no such sweep. Raises StoreError where its file is damaged."""
    data = store.read_run(run, SWEEP) if run in store.runs() else None
    if data is None:
        return None
    try:
        return Sweep.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise StoreError(
            f"{store.place(f'runs/{run}/{SWEEP}')}: {where}: {first['msg']} ({error.error_count()} problems); it was "
            "written by another version of brewline, or is damaged. Run the sweep again: what is done is not repeated"
        ) from error


def lines(sweep: Sweep, across: str) -> tuple[str | None, Sequence[Any]]:
    """The other field that splits the trials into the fewest lines over `across`, and its values, at most `MOST_LINES`;
    none where there is no such field."""
    others = {field: sweep.values(field) for field in sweep.fields if field != across}
    fit = {field: values for field, values in others.items() if 2 <= len(values) <= MOST_LINES}
    if not fit:
        return None, ()
    chosen = min(fit, key=lambda field: len(fit[field]))
    return chosen, fit[chosen]


MOST_LINES = 7
"""Most lines in one chart: more cannot be told apart."""


def axes(sweep: Sweep) -> list[str]:
    """The fields that a chart can have across: those with two numbers at least."""
    return [field for field in sweep.fields if len(found := sweep.values(field)) > 1 and all(map(is_number, found))]


def setting(value: Any) -> str:
    """A setting's value, for people."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {setting(item)}" for name, item in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
