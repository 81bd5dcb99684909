"""What is known of a sweep, from the store alone: its file, its trials so far, and which of them count."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline import runs
from pipeline.provenance import provenance
from pipeline.store import Store, StoreError
from pipeline.sweep.spec import Spec
from pipeline.sweep.tables import front
from pipeline.sweep.trials import LOG, Trial, Trials, asked

FIGURES = "sweep.json"
MOST_LINES, MOST_PANELS = 7, 4
"""Most lines in one panel, as more cannot be told apart; most panels in one chart."""


@dataclass(frozen=True)
class SweepFound:
    """What is known of a sweep, finished or not.

    base: its base experiment, with every default.  best: the best trials so far, by the first metric.  experiments:
    those of the best, by the names of their runs.  importance, steps, saved: as at the sweep's last
    end; null before it.
    """

    name: str
    url: str
    spec: Spec
    base: Mapping[str, Any]
    trials: Sequence[Trial]
    best: Sequence[Trial]
    experiments: Mapping[str, Mapping[str, Any]]
    importance: Mapping[str, float] | None
    steps: int | None
    saved: int | None
    provenance: Mapping[str, Any] | None

    def count(self, state: str) -> int:
        """How many trials are in a state."""
        return sum(trial.state == state for trial in self.trials)

    def measured(self, *names: str, state: str = "done") -> list[Trial]:
        """The trials of a state, else those that ended with all of their cases, that have these figures."""
        found = (trial for trial in self.trials if trial.state == state)
        return [trial for trial in found if all(trial.figures.get(name) is not None for name in names)]

    def values(self, field: str) -> list[Any]:
        """The different values of a field in trials that have the first metric, numbers in ascending order."""
        trials = self.measured(self.spec.metrics[0].name)
        found = [trial.settings[field] for trial in trials if field in trial.settings]
        distinct = [value for number, value in enumerate(found) if value not in found[:number]]
        return sorted(distinct) if all(map(is_number, distinct)) else distinct

    def axes(self) -> list[str]:
        """The fields that a chart can have across: those with two numbers at least."""
        found = {field: self.values(field) for field in self.spec.space}
        return [field for field, values in found.items() if len(values) > 1 and all(map(is_number, values))]

    def split(self, across: str) -> tuple[str | None, str | None]:
        """What a chart with `across` on its axis has a line for each value of, and what a panel: fields of few values
        that all trials have, numbers as lines first; none where there is no such field."""
        trials = self.measured(self.spec.metrics[0].name)
        common = [field for field in self.spec.space if all(field in trial.settings for trial in trials)]
        others = {field: self.values(field) for field in common if field != across}
        few = [field for field, values in others.items() if 2 <= len(values) <= MOST_LINES]
        few.sort(key=lambda field: (not all(map(is_number, others[field])), len(others[field])))
        panels = [field for field in few[1:] if len(others[field]) <= MOST_PANELS]
        return few[0] if few else None, panels[0] if panels else None


def value_of(trial: Trial, name: str) -> float:
    """A figure that a trial has. Raises KeyError for another."""
    value = trial.figures[name]
    if value is None:
        raise KeyError(name)
    return value


def is_number(value: Any) -> bool:
    """Whether a setting has a place on an axis."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def setting(value: Any) -> str:
    """A setting's value, for people."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {setting(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(setting, value))}]"
    return "none" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def collect_sweep(store: Store, name: str) -> SweepFound:
    """Everything that a report says of a sweep. Raises InputError or StoreError where its files are another version's,
    or damaged."""
    spec, base = asked(store, name)
    try:
        trials = Trials(store, name).all
        ended = json.loads(store.read_run(name, FIGURES) or b"{}")
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise StoreError(
            f"{store.place(f'runs/{name}')}: {LOG} or {FIGURES} cannot be read: {error!r}; written by another "
            "version of brewline, or damaged. Run the sweep again: steps that are done are not repeated"
        ) from error
    metric = spec.metrics[0]
    best = [trials[number] for number in front(spec, trials)]
    best.sort(key=lambda trial: value_of(trial, metric.name), reverse=metric.mode == "max")
    there = set(store.runs())
    ran = [trial.run for trial in trials if trial.run in there]
    steps = {(step["stage"], step["key"]) for run in ran if run for step in runs.planned(store, run)}
    manifests = [manifest for manifest, _ in store.look(sorted(steps))]
    return SweepFound(
        name=name,
        url=store.url,
        spec=spec,
        base=base,
        trials=trials,
        best=best,
        experiments={run: runs.experiment_of(store, run, "") for trial in best if (run := trial.run) in there and run},
        importance=ended.get("importance"),
        steps=ended.get("steps"),
        saved=ended.get("steps_saved"),
        provenance=provenance(manifests) if manifests else None,
    )
