"""Who suggests trials to Ray Tune: what an earlier start left unfinished first, and then new ones.

A suggestion is a function of the seed and of what was suggested and told before it. All that is in the log, so a sweep
that is started again goes through the same, and is checked against it.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState
from ray import tune
from ray.tune.search import Searcher

from pipeline.sweep.base import Sweep
from pipeline.sweep.space import Settings, draw, dumped, grid
from pipeline.sweep.spec import Spec
from pipeline.sweep.trials import FINISHED, Trial, Trials
from stages.config import InputError

DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
ENOUGH, ENOUGH_EACH = 8, 4
"""Trials that are done, in all and for each parameter, from which on the importance of parameters is estimated."""


class Suggester:
    """New settings, one after another, and what came of them."""

    def __init__(self, spec: Spec, base: Mapping[str, Any]) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._spec, self._base = spec, base
        self._whole = spec.searcher.kind == "grid"
        self._grid = grid(spec, base, everything=self._whole)
        self._asked: list[optuna.Trial] = []
        directions = [DIRECTIONS[metric.mode] for metric in spec.metrics]
        self._study = optuna.create_study(sampler=_sampler(spec), directions=directions)

    def ask(self) -> Settings | None:
        """The next settings; None where all combinations were given."""
        number = len(self._asked)
        if self._whole and number >= len(self._grid):
            return None
        fixed = self._grid[number % len(self._grid)]
        parameters = self._spec.space
        if fixed:
            asked = {path: value if parameters[path].integers else dumped(value) for path, value in fixed.items()}
            self._study.enqueue_trial(asked)
        self._asked.append(self._study.ask())
        return draw(self._asked[-1], self._spec, self._base)

    def tell(self, trial: Trial) -> None:
        """What a trial that is finished came to; of one that was stopped, how far, where there is one metric."""
        asked, names = self._asked[trial.number], [metric.name for metric in self._spec.metrics]
        values = [value for name in names if (value := trial.figures.get(name)) is not None]
        if trial.state == "done" and len(values) == len(names):
            self._study.tell(asked, values)
        elif len(names) == 1 and values:
            asked.report(values[0], trial.cases)
            self._study.tell(asked, state=TrialState.PRUNED)
        else:
            self._study.tell(asked, state=TrialState.FAIL)

    def importance(self) -> dict[str, float] | None:
        """How much of the first metric's variance each parameter explains (fANOVA, Hutter et al. 2014), of the
        parameters that all trials have; null where too few trials are done, or all came to the same."""
        done = [trial for trial in self._study.trials if trial.state == TrialState.COMPLETE]
        if len(done) < max(ENOUGH, ENOUGH_EACH * len(self._spec.space)) or len({trial.values[0] for trial in done}) < 2:
            return None
        found = optuna.importance.get_param_importances(
            self._study,
            evaluator=optuna.importance.FanovaImportanceEvaluator(seed=self._spec.searcher.seed),
            target=lambda trial: trial.values[0],
        )
        return {path: float(found[path]) for path in self._spec.space if path in found}


def _sampler(spec: Spec) -> optuna.samplers.BaseSampler:
    if spec.searcher.kind == "optuna":
        # Nothing is known yet of trials that run: others keep away from them.
        return optuna.samplers.TPESampler(seed=spec.searcher.seed, constant_liar=True)
    return optuna.samplers.RandomSampler(seed=spec.searcher.seed)


class Suggestions(Searcher):
    """Ray Tune's searcher over a sweep's log."""

    def __init__(self, sweep: Sweep, trials: Trials, stopped: Collection[str]) -> None:
        """stopped: what Ray Tune calls the trials that the scheduler ended, which adds to it."""
        super().__init__()
        self._sweep, self._trials, self._stopped = sweep, trials, stopped
        self._suggester = replayed(sweep, trials)
        self._running: dict[str, Trial] = {}
        self._unfinished = [trial for trial in trials.all if not trial.finished]

    def suggest(self, trial_id: str) -> Any:
        """Ray Tune's question: what to start a trial with, or that there is no more."""
        while (trial := self._next()) is not None:
            try:
                experiment = self._sweep.experiment(trial.settings)
            except InputError as error:
                self._trials.ended(trial, state="failed", why=str(error))
                continue
            self._running[trial_id] = trial
            return {"number": trial.number, "experiment": experiment.model_dump_json()}
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Ray Tune's word that a trial ended: by itself, by the scheduler, or with its process."""
        if error:  # `lost` is told why
            return
        trial, found = self._running[trial_id], result or {}
        state, why = found.get("state", "running"), found.get("why", "")
        if trial_id in self._stopped:
            state = "stopped"
        self._trials.ended(trial, state=state, why=why, **json.loads(found.get("facts", "{}")))
        del self._running[trial_id]
        if trial.finished:
            self._suggester.tell(trial)

    def lost(self, trial_id: str, told: str) -> None:
        """A trial's process died. told: what Ray says of it."""
        lines = [line.strip() for line in told.splitlines() if line.strip()]
        # Ray's first line says that it died; what it died of, where that is memory, comes later.
        why = next((line for line in lines if "memory" in line), lines[0] if lines else "nobody knows why")
        self._trials.ended(self._running[trial_id], state="failed", why=f"the trial's own process was lost: {why}")
        del self._running[trial_id]

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray Tune keeps what it would restore a sweep from, and the log does that."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """All is in the log."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """All is in the log."""

    def _next(self) -> Trial | None:
        limit = self._sweep.spec.budget
        if limit.gpu_hours is not None and self._trials.gpu_hours >= limit.gpu_hours:
            return None
        if self._unfinished:
            return self._unfinished.pop(0)
        if limit.trials is not None and len(self._trials.all) >= limit.trials:
            return None
        settings = self._suggester.ask()
        return None if settings is None else self._trials.suggested(settings)


class Losses(tune.Callback):
    """Brings to the suggestions why a trial's process died, which Ray Tune tells its callbacks alone."""

    def __init__(self, suggestions: Suggestions) -> None:
        self._suggestions = suggestions

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, as of the suggestions."""
        return {}

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Ray Tune's word. Its file begins with a line of its own."""
        _, _, told = Path(trial.error_file).read_text().partition("\n")
        self._suggestions.lost(trial.trial_id, told)


def replayed(sweep: Sweep, trials: Trials) -> Suggester:
    """The suggester as it was at the end of the log. Raises InputError where it goes another way."""
    suggester = Suggester(sweep.spec, sweep.base)
    for event in trials.events:
        trial = trials.all[event["number"]]
        if event["event"] == "ended":
            if event["state"] in FINISHED:
                suggester.tell(trial)
        elif (settings := suggester.ask()) != trial.settings:
            raise InputError(
                f"trial {trial.number} of sweep {sweep.name} was {trial.settings}, and now would be {settings}: it was "
                "begun by another version of brewline or Optuna; give the sweep another name"
            )
    return suggester
