"""Sweeps worth keeping, as a part of results/: what was asked, every trial, the computing, and tables of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from pipeline import runs
from pipeline.provenance import provenance
from pipeline.result_file import Name, without_places
from pipeline.step import Ref
from pipeline.store import Manifest, Store
from pipeline.sweep.measure import roles
from pipeline.sweep.spec import Ends, Spec, load_spec, named_sweeps
from pipeline.sweep.tables import columns, figure, front, table, written
from pipeline.sweep.trials import Trial, Trials, asked
from pipeline.user_yaml import invalid
from stages.config import Config, InputError
from stages.summarize import aligned

Count = Annotated[int, Field(ge=0)]


class KeptSweep(Config):
    """One sweep: what was asked and what came out. Steps are those that its finished trials need, whoever ran them."""

    sweep: str
    spec: Spec
    base: dict[str, Any]
    """The base experiment with every default, and without what is of one machine only."""
    trials: tuple[Trial, ...]
    best: tuple[Count, ...]
    victims: Annotated[int, Field(ge=1)]
    """Of a case of the best trial."""
    steps: Count
    """Each counted once."""
    steps_shared: Count
    """How many more they would be if no two trials shared any."""
    step_seconds: Annotated[float, Field(ge=0)]
    """What those steps took, each counted once: what the sweep costs in an empty store."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if [trial.number for trial in self.trials] != list(range(len(self.trials))):
            raise ValueError("trials are not numbered from 0 on, one after another")
        if list(self.best) != (expected := front(self.spec, self.trials)):
            raise ValueError(f"best is {list(self.best)}, and that of the trials is {expected}")
        if not self.best:
            raise ValueError("no trial came to its end")
        return self

    def count(self, state: str) -> int:
        """How many trials are in a state."""
        return sum(trial.state == state for trial in self.trials)

    def same_search(self, other: Self) -> bool:
        """Whether the other looks for the same in the same space, however it does."""
        mine, theirs = ((one.spec.space, one.spec.metrics, one.base) for one in (self, other))
        return mine == theirs

    def finds_best_of(self, first: Self) -> str:
        """Whether the best trial of `first` is this one's best too; `as good` where that of this one is another trial
        that `first` has with the same figures."""
        mine, theirs = ([one.trials[number].settings for number in one.best] for one in (self, first))
        if mine == theirs:
            return "yes"

        def figures(trial: Trial) -> list[float | None]:
            return [trial.figures.get(metric.name) for metric in self.spec.metrics]

        wanted = [figures(first.trials[number]) for number in first.best]
        ties = [trial.settings for trial in first.trials if trial.state == "done" and figures(trial) in wanted]
        return "as good" if all(settings in ties for settings in mine) and len(mine) == len(theirs) else "no"


class SweepResult(Config):
    """Finished sweeps that are worth keeping, side by side. provenance: of the steps of all together."""

    name: Name
    commands: tuple[str, ...]
    """What made it, in order."""
    sweeps: Annotated[tuple[KeptSweep, ...], Field(min_length=1)]
    provenance: dict[str, Any] | None = None


def kept(store: Store, sweeps: Sequence[str], name: str) -> SweepResult:
    """The result of finished sweeps. Raises InputError where one is not finished, or its steps are not there."""
    manifests: dict[str, Manifest] = {}
    found = [_sweep(store, sweep, manifests) for sweep in sweeps]
    commands = [f"brewline sweep {_file(asked(store, sweep)[0])}" for sweep in sweeps]
    commands.append(f"brewline results add {' '.join(sweeps)} {name}")
    try:
        return SweepResult(
            name=name,
            commands=tuple(commands),
            sweeps=tuple(KeptSweep(**one) for one in found),
            provenance=provenance(manifests.values()),
        )
    except ValidationError as error:
        raise invalid(f"result {name} of {', '.join(sweeps)}", error) from None


def _sweep(store: Store, sweep: str, manifests: dict[str, Manifest]) -> dict[str, Any]:
    """The fields of a kept sweep; adds the manifests of its steps, by key."""
    spec, base = asked(store, sweep)
    trials = Trials(store, sweep).all
    ends: Ends = spec.scheduler.by if spec.scheduler else "cases"
    finished = [(trial, trial.run) for trial in trials if trial.finished and trial.run]
    of_trials = [_needed(runs.planned(store, run), trial, ends) for trial, run in finished]
    best = front(spec, trials)
    if not best or any(trial.state == "running" for trial in trials):
        left = ", ".join(str(trial.number) for trial in trials if not trial.finished) or "all"
        raise InputError(f"sweep {sweep} is not finished: of its trials {left} are left; run it again")
    needed = set().union(*of_trials)
    there = {manifest.key: manifest for manifest, _ in store.look(needed)}
    if gone := len(needed) - len(there):
        raise InputError(f"{gone} of the {len(needed)} steps of sweep {sweep} are not in {store.url}; run it again")
    manifests |= there
    plan = runs.planned(store, trials[best[0]].run or "")
    return {
        "sweep": sweep,
        "spec": spec.model_copy(update={"settings": {}, "experiment": Path(spec.experiment).stem}),
        "base": without_places(base),
        "trials": tuple(replace(trial, why=trial.why.partition(":")[0]) for trial in trials),
        "best": tuple(best),
        "victims": sum(role.startswith("poisoned.0.") for role in _summary(plan)["inputs"]),
        "steps": len(needed),
        "steps_shared": sum(map(len, of_trials)) - len(needed),
        "step_seconds": round(sum(manifest.provenance["seconds"] for manifest in there.values()), 1),
    }


def _file(spec: Spec) -> str:
    """What `brewline sweep` was given: a sweep that ships, or a file."""
    shipped = named_sweeps().get(spec.name)
    return spec.name if shipped is not None and load_spec(shipped) == spec else f"{spec.name}.yaml"


def _needed(plan: Sequence[Mapping[str, Any]], trial: Trial, ends: Ends) -> set[Ref]:
    """The steps of a planned run that its trial needed for as many cases as it came to."""
    steps, summary = {step["key"]: step for step in plan}, _summary(plan)
    left = [summary["key"]]
    if trial.state != "done":
        left = [summary["inputs"][role] for role in roles(summary["inputs"], trial.cases, ends)]
    found: set[Ref] = set()
    while left:
        step = steps[left.pop()]
        ref = Ref(step["stage"], step["key"])
        if ref not in found:
            found.add(ref)
            left += step["inputs"].values()
    return found


def _summary(plan: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    (found,) = (step for step in plan if "variant" in step)
    return found


HEAD = (
    *("sweep", "searcher", "scheduler", "trials", "to the end", "stopped", "failed", "cases", "steps", "shared"),
    *("minutes", "computing / the first's", "same best as the first"),
)


def sections(result: SweepResult) -> Iterator[str]:
    """The tables of a kept result, as parts of a page."""
    first = result.sweeps[0]
    rows = [(*_row(one), *_beside(one, first)) for one in result.sweeps]
    yield f"```\n{aligned(HEAD, rows)}```\n"
    judges = ", ".join(metric.name.replace("_", " ") for metric in first.spec.metrics)
    yield (
        "Cases are those that trials came to; steps those that they need, each once, and shared how many more there "
        "would be if no trial shared any; minutes what those steps take, all computed anew. The best, by "
        f"{judges}, is of the trials that came to their end.\n"
    )
    for one in result.sweeps:
        for number in one.best:
            best = one.trials[number]
            figures = ", ".join(f"{name} {figure(best, name)}" for name in columns(one.spec))
            counts = f"{best.cases} cases × {one.victims} victims"
            yield f"The best of {one.sweep}: {written(best.settings)}: {figures}, {counts}.\n"
        yield f"```\n{table(one.spec, one.trials, one.best)}```\n"


def _row(one: KeptSweep) -> tuple[str, ...]:
    searcher, scheduler = one.spec.searcher, one.spec.scheduler
    halving = "none" if scheduler is None else f"asha by {scheduler.by}, {scheduler.grace}, ×{scheduler.reduction}"
    counts = (len(one.trials), *(one.count(state) for state in ("done", "stopped", "failed")))
    cases = sum(trial.cases for trial in one.trials if trial.finished)
    return (
        one.sweep,
        f"{searcher.kind}, seed {searcher.seed}",
        halving,
        *map(str, (*counts, cases, one.steps, one.steps_shared)),
        f"{one.step_seconds / 60:.1f}",
    )


def _beside(one: KeptSweep, first: KeptSweep) -> tuple[str, str]:
    if one is first or not one.same_search(first):
        return ("", "") if one is first else ("-", "-")
    return f"{one.step_seconds / first.step_seconds:.2f}", one.finds_best_of(first)
