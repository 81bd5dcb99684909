"""A whole sweep on the cluster that this process is connected to, and what it leaves behind.

runs/<sweep>/sweep.yaml     the file, its base experiment written out
runs/<sweep>/trials.jsonl   the log
runs/<sweep>/sweep.json     all trials, the best ones, importances; trials.csv: the same as a table
runs/<sweep>/best.yaml      the best trial's experiment; of a Pareto front one with a variant for each of its trials
"""

import hashlib
import json
import math
import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import yaml
from rich.console import Console

from pipeline.experiment import Experiment, Runtimes
from pipeline.needs import needed_steps
from pipeline.preflight import check_machines
from pipeline.resources import Machine, check_resources, has_gpus, may_grow, wants
from pipeline.store import Store
from pipeline.store.lease import leased, this_process
from pipeline.sweep.base import Sweep
from pipeline.sweep.measure import first_cases
from pipeline.sweep.space import grid
from pipeline.sweep.spec import Spec
from pipeline.sweep.tables import as_csv, front
from pipeline.sweep.trials import SPEC, Trial, Trials
from stages.config import InputError

ENVIRONMENT = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
}
"""Ray Tune's own files, its words and its answer to Ctrl-C would be in the way: the store has all. And a trial that
failed has no metric, which Ray Tune would end the sweep for."""

ON_HEAD = {"node:__internal_head__": 0.001}
"""What a trial's own process takes: it only drives, and the head is not rented on the spot market."""


@dataclass(frozen=True)
class Result:
    """How a sweep ended. saved: steps that trials had in common, which so were not computed again.  used_up: what of
    the budget ended it, and how it goes on; empty where nothing is left to do."""

    name: str
    trials: Sequence[Trial]
    best: Sequence[int]
    importance: dict[str, float] | None
    steps: int
    saved: int
    used_up: str


def run(sweep: Sweep, store: Store, cluster: Sequence[Machine], console: Console) -> Result:
    """Run what is not done of a sweep. Raises InputError where another process has it, or the cluster cannot run it."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    first = sweep.experiment({})
    steps = sweep.plan({}).steps.values()
    check_resources(steps, first.runtime, cluster, may_grow())
    _check_end(sweep.spec, first.runtime, {step.stage for step in steps}, has_gpus(cluster))
    check_machines(store, sweep.name)
    with leased(store, _lease(sweep), this_process()) as wait:
        if wait:
            raise InputError(f"another process runs sweep {sweep.name}; it is shown by `brewline status {sweep.name}`")
        store.write_run(sweep.name, SPEC, written(sweep).encode())
        used_up = _tune(sweep, store, console)
        return conclude(sweep, store, used_up)


def _check_end(spec: Spec, runtimes: Runtimes, stages: Iterable[str], gpus: bool) -> None:
    """Raise InputError where only GPU-hours would end the sweep, and no step of it takes a GPU."""
    budget = spec.budget
    if spec.searcher.kind == "grid" or budget.trials or budget.hours:
        return
    if not any(wants(runtimes.of(stage), stage, gpus).get("GPU") for stage in stages):
        raise InputError(
            f"budget.gpu_hours is {budget.gpu_hours:g}, and no step of the sweep takes a GPU here, so that it would "
            "never end; give budget.trials or budget.hours too"
        )


def _tune(sweep: Sweep, store: Store, console: Console) -> str:
    """Let Ray Tune run the trials; gives what of the budget ended them."""
    import ray
    from ray import tune

    from pipeline.sweep.asha import Asha
    from pipeline.sweep.shown import Shown
    from pipeline.sweep.suggest import Losses, Suggestions
    from pipeline.sweep.trial import run_trial
    from pipeline.work import Board

    spec, trials = sweep.spec, Trials(store, sweep.name)
    combinations = len(grid(spec, sweep.base, everything=True)) if spec.searcher.kind == "grid" else math.inf
    of = min(spec.budget.trials or math.inf, combinations)
    asha = Asha(spec, sweep.cases, [trial for trial in trials.all if trial.finished]) if spec.scheduler else None
    suggestions = Suggestions(sweep, trials, asha.stopped if asha else set())
    board: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Board)
    board = board.remote()
    begun = partial(run_trial, spec=spec, url=store.url, board=board)
    shown = Shown(spec, trials, board, of, console)
    callbacks, began = [Losses(suggestions), shown], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="brewline-sweep-") as folder, shown:
        tuner = tune.Tuner(
            tune.with_resources(begun, tune.PlacementGroupFactory([ON_HEAD])),
            tune_config=tune.TuneConfig(
                search_alg=suggestions,
                scheduler=asha,
                num_samples=-1,
                max_concurrent_trials=spec.concurrency,
                time_budget_s=None if spec.budget.hours is None else 3600 * spec.budget.hours,
            ),
            run_config=tune.RunConfig(name=sweep.name, storage_path=folder, verbose=0, callbacks=callbacks),
        )
        tuner.fit()
    return _used_up(spec, trials, of, time.monotonic() - began)


def _used_up(spec: Spec, trials: Trials, of: float, seconds: float) -> str:
    """What of the budget ended trials of which there would be `of`."""
    hours, gpu_hours = spec.budget.hours, spec.budget.gpu_hours
    if len(trials.all) >= of and all(trial.finished for trial in trials.all):
        return ""
    if gpu_hours is not None and trials.gpu_hours >= gpu_hours:
        return f"budget.gpu_hours ({gpu_hours:g}) is used up; give more to go on"
    if hours is not None and seconds >= 3600 * hours:
        return f"budget.hours ({hours:g}) is used up; the same command goes on for as long again"
    return ""


def conclude(sweep: Sweep, store: Store, used_up: str) -> Result:
    """What the trials so far come to; written down in the sweep's folder."""
    from pipeline.sweep.suggest import replayed

    spec, trials = sweep.spec, Trials(store, sweep.name)
    best = front(spec, trials.all)
    keys, steps = set[str](), 0
    for trial in trials.all:
        if trial.finished:
            made = sweep.plan(trial.settings)
            ends = spec.scheduler.by if spec.scheduler else "cases"
            part = made if trial.state == "done" else first_cases(made, trial.cases, ends)
            of_trial = needed_steps(part, set())
            keys, steps = keys | of_trial, steps + len(of_trial)
    importance = replayed(sweep, trials).importance()
    result = Result(sweep.name, trials.all, best, importance, steps, steps - len(keys), used_up)
    figures = {
        "format": 1,
        "name": sweep.name,
        "spec": spec.model_dump(mode="json"),
        "metrics": [metric.model_dump() for metric in spec.metrics],
        "trials": [_as_figures(trial) for trial in trials.all],
        "best": best,
        "importance": importance,
        "steps": steps,
        "steps_saved": result.saved,
    }
    store.write_run(sweep.name, "sweep.json", json.dumps(figures, indent=1).encode())
    store.write_run(sweep.name, "trials.csv", as_csv(spec, trials.all).encode())
    if best:
        asked = _as_one_file({f"trial-{number}": sweep.experiment(trials.all[number].settings) for number in best})
        text = yaml.safe_dump(asked, sort_keys=False, allow_unicode=True)
        store.write_run(sweep.name, "best.yaml", text.encode())
    return result


def _as_one_file(experiments: Mapping[str, Experiment]) -> dict[str, Any]:
    """An experiment file: the first, and where there are more, in what each differs from it as a variant."""
    all_fields = {name: experiment.model_dump(mode="json") for name, experiment in experiments.items()}
    first = next(iter(all_fields.values()))
    if len(all_fields) == 1:
        return first
    variants = {
        name: {field: value for field, value in fields.items() if value != first[field]}
        for name, fields in all_fields.items()
    }
    return {**first, "variants": variants}


def _as_figures(trial: Trial) -> dict[str, Any]:
    found = asdict(trial)
    return found | {"metrics": found.pop("figures")}


def _lease(sweep: Sweep) -> str:
    return hashlib.sha256(sweep.name.encode()).hexdigest()


def written(sweep: Sweep) -> str:
    """What `sweep.yaml` holds: the sweep file with every default, and its base experiment."""
    both = {"sweep": sweep.spec.model_dump(mode="json"), "base": sweep.written_base()}
    return yaml.safe_dump(both, sort_keys=False, allow_unicode=True)
