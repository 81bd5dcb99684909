"""One trial, as Ray Tune runs it: a process that drives an ordinary run, rung by rung, and reports how it went."""

import io
import json
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from pipeline import runs
from pipeline.experiment import Experiment
from pipeline.needs import cached_steps, needed_steps
from pipeline.outcome import Outcome
from pipeline.plan import Plan, plan
from pipeline.progress import Reporter
from pipeline.resources import at_once, machines
from pipeline.runner import Runner
from pipeline.step import Step
from pipeline.store import Manifest, Store, open_store
from pipeline.sweep.asha import CASES, COMPARED, compared, rungs
from pipeline.sweep.measure import cases_of, figures, first_cases, gpu_seconds
from pipeline.sweep.spec import Spec
from pipeline.work import Progress
from stages.stage import STAGES


class TrialReporter(Reporter):
    """Writes a trial's events to its run's log, and tells the sweep how many of its steps are done."""

    def __init__(
        self, number: int, made: Plan, store: Store, cached: set[str], slots: dict[str, float], board: Any
    ) -> None:
        super().__init__(made, store, cached, slots, Console(file=io.StringIO()))
        self._number, self._board, self._of = str(number), board, len(made.steps)
        self._there = set(cached)

    def ended(self, step: Step, manifest: Manifest, ours: bool) -> None:
        """A step is committed."""
        super().ended(step, manifest, ours)
        self._there.add(step.key)
        self._board.write.remote(self._number, Progress(len(self._there), self._of, {}, ""))

    def repeated(self, step: Step, why: str) -> None:
        """A step must run again."""
        super().repeated(step, why)
        self._there.discard(step.key)


def run_trial(config: dict[str, Any], spec: Spec, url: str, board: Any) -> None:
    """What Ray Tune calls in a process of its own. config: `number`, and `experiment` as JSON, prepared.

    Reports after each rung `cases`, `compared` (what the scheduler looks at), `state`, `why` and `facts` (fields of
    `Trial`, as JSON).
    """
    from ray import tune

    for report in _reports(config, spec, url, board):
        tune.report(report)


def _reports(config: dict[str, Any], spec: Spec, url: str, board: Any) -> Iterator[dict[str, Any]]:
    """What each rung comes to, and at last why there are no more, whatever happened."""
    try:
        yield from _rungs(config, spec, url, board)
    except Exception as error:  # noqa: BLE001
        yield {CASES: 0, "state": "failed", "why": f"{type(error).__name__}: {error}"}


def _rungs(config: dict[str, Any], spec: Spec, url: str, board: Any) -> Iterator[dict[str, Any]]:
    began, store = time.monotonic(), open_store(url)
    experiment = Experiment.model_validate_json(config["experiment"])
    made = plan({"": experiment})
    runs.record(store, made, {"": experiment})
    whole, ran, reports, metric = cases_of(made), set[str](), [], compared(spec)[0]
    for cases in rungs(spec, whole):
        last = cases == whole
        part = made if last else first_cases(made, cases, spec.scheduler.by if spec.scheduler else "cases")
        outcome = _run(config["number"], made, part, experiment, store, board)
        ran |= outcome.ran
        failed = [f"{made.steps[key].label}: {failure.why}" for key, failure in outcome.failed.items()]
        found = {} if failed else figures(made, part, store, cases)
        reports += [(cases, value)] if (value := found.get(metric)) is not None else []
        state = "failed" if failed else "done" if last else "running"
        facts = {
            "cases": cases,
            "reports": reports,
            "figures": found,
            "run": made.run,
            "seconds": time.monotonic() - began,
            "steps": len(needed_steps(part, set())),
            "ran": len(ran),
            "gpu_seconds": gpu_seconds(done for done, _ in store.look((made.steps[key].stage, key) for key in ran)),
        }
        if last and not failed:
            runs.publish(store, made, outcome.cached | outcome.ran)
        # As text: Ray Tune would flatten what lies within.
        report = {CASES: cases, "state": state, "facts": json.dumps(facts), "why": "\n".join(failed)}
        yield report | ({} if value is None else {COMPARED: value})
        if failed:
            return


def _run(number: int, made: Plan, part: Plan, experiment: Experiment, store: Store, board: Any) -> Outcome:
    """Run what a part of the trial's plan needs and the store has not."""
    cached, cluster = cached_steps(made, store), machines()
    damaged = runs.damaged_summaries(store, made)
    slots = {stage: float(at_once(experiment.runtime.of(stage), stage, cluster)) for stage in STAGES}
    if not needed_steps(part, cached - damaged):
        return Outcome(cached=cached)
    with TrialReporter(number, made, store, cached - damaged, slots, board) as reporter:
        return Runner(part, store, experiment.runtime, cluster, reporter).run(cached - damaged, damaged)
