"""A sweep file with its base experiment: checked, named, and made into the experiments of its trials."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.experiment import Experiment, Seen, prepare_experiments
from pipeline.experiment_file import load_experiments, named_experiments, read_experiments
from pipeline.plan import Plan, plan
from pipeline.step import canonical
from pipeline.sweep.measure import cases_of
from pipeline.sweep.space import Settings, check_space, corners
from pipeline.sweep.spec import Spec, load_spec, named_sweeps
from stages.config import InputError, nearest


@dataclass
class Sweep:
    """A sweep: what its file says, and the folder that the file lies in."""

    spec: Spec
    folder: Path
    _seen: Seen = field(default_factory=dict)

    @classmethod
    def load(cls, file_or_name: str | Path) -> "Sweep":
        """Read a sweep by file or by name, and try its space on the base experiment. Raises InputError for all that is
        wrong."""
        named = named_sweeps()
        file = named.get(str(file_or_name), Path(file_or_name))
        if not file.is_file():
            hint = nearest(str(file_or_name), named)
            raise InputError(f"no sweep {str(file_or_name)!r}: it is neither a file nor a named sweep; {hint}")
        made = cls(load_spec(file), file.parent)
        try:
            check_space(made.spec, made.base)
            made._check_judging()
        except InputError as error:
            raise InputError(f"{file}: {error}") from None
        for settings in corners(made.spec, made.base):
            try:
                made.experiment(settings)
            except InputError as error:
                raise InputError(f"{file}: the space has {settings}, which is no experiment: {error}") from None
        return made

    @cached_property
    def cases(self) -> int:
        """How many cases the base experiment has."""
        return cases_of(self.plan({}))

    @cached_property
    def base(self) -> Mapping[str, Any]:
        """The fields of the base experiment, defaults included."""
        return self._load({}).model_dump(mode="json")

    def written_base(self) -> dict[str, Any]:
        """The base as a file: every default written out, but in the surrogates' and victims' own trainings, where what
        is left out is as in `training`, which trials may change."""
        written = dict(self.base)
        given = read_experiments(self._source, self._given({}))[""]
        for section in ("surrogates", "victims"):
            if own := (given.get(section) or {}).get("training"):
                written[section] = {**written[section], "training": own}
        return written

    @cached_property
    def name(self) -> str:
        """Of the sweep's folder among the runs: the same base, space and search give the same, whatever the budget."""
        left_out = {"budget", "concurrency", "description", "paper", "experiment", "settings"}
        # Without defaults, so that a field that comes later renames no sweep. The base counts by the keys of its steps:
        # these know a stage's VERSION, with which what was found no longer holds.
        kept = self.spec.model_dump(mode="json", exclude=left_out, exclude_defaults=True)
        kept["space"] = list(kept["space"].items())  # whose order decides what is suggested
        return f"{self.spec.name}-{hashlib.sha256(canonical([kept, self.plan({}).run])).hexdigest()[:8]}"

    def experiment(self, settings: Settings) -> Experiment:
        """The experiment of a trial, ready to be planned. Raises InputError where the settings make none."""
        return prepare_experiments({"": self._load(settings)}, seen=self._seen)[""]

    def plan(self, settings: Settings) -> Plan:
        """The steps of a trial."""
        return plan({"": self.experiment(settings)})

    def _check_judging(self) -> None:
        """Raise InputError where trials have nothing to be judged by, or nothing to be compared at."""
        spec, scheduler = self.spec, self.spec.scheduler
        if self.base["cases"]["kind"] == "indiscriminate":
            for metric in spec.metrics:
                if metric.name in ("poison_success", "clean_success"):
                    raise InputError(
                        f"metrics names {metric.name}, and an attack without targets has none; name another, such as "
                        "{name: poisoned_accuracy, mode: min}"
                    )
        by_loss = scheduler is not None and scheduler.by == "brew-loss"
        looked_at = by_loss or any(metric.name == "brew_loss" for metric in spec.metrics)
        if (
            looked_at
            and self.base["attack"]["kind"] == "external"
            and not {"attack", "attack.kind"} & spec.space.keys()
        ):
            raise InputError("B is looked at, and attack external brews nothing; name another metric")
        if scheduler is None:
            return
        if clash := next((path for path in spec.space if path.startswith("cases")), None):
            raise InputError(f"scheduler asha compares trials case by case, and space has {clash}; take it out")
        if self.cases < max(2, scheduler.grace + 1):
            raise InputError(
                f"scheduler asha compares trials after {scheduler.grace} cases, and they have {self.cases}; add cases"
            )

    @cached_property
    def _source(self) -> str:
        beside = self.folder / self.spec.experiment
        return (
            str(beside)
            if self.spec.experiment not in named_experiments() and beside.is_file()
            else self.spec.experiment
        )

    def _given(self, settings: Settings) -> list[str]:
        return [f"{path}={json.dumps(value)}" for path, value in {**self.spec.settings, **settings}.items()]

    def _load(self, settings: Settings) -> Experiment:
        loaded = load_experiments(self._source, self._given(settings))
        if "" not in loaded:
            raise InputError(
                f"experiment {self.spec.experiment} has variants, and a sweep has one base; name a file without"
            )
        return loaded[""]
