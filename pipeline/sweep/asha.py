"""Ray Tune's ASHA, which is told of earlier trials and remembers whom it stopped."""

from collections import namedtuple
from collections.abc import Iterable
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from pipeline.sweep.spec import Spec
from pipeline.sweep.trials import Trial

CASES, COMPARED = "cases", "compared"
"""The names of the resource and of what is compared, in what a trial reports."""

_Known = namedtuple("_Known", "trial_id")


class Asha(ASHAScheduler):
    """Asynchronous successive halving over cases."""

    def __init__(self, spec: Spec, cases: int, earlier: Iterable[Trial]) -> None:
        """earlier: finished trials of an earlier start, whose reports count as if they had come just now."""
        assert spec.scheduler is not None
        super().__init__(
            time_attr=CASES,
            metric=COMPARED,
            mode=compared(spec)[1],
            max_t=cases,
            grace_period=spec.scheduler.grace,
            reduction_factor=spec.scheduler.reduction,
        )
        self.stopped: set[str] = set()
        bracket: Any = self._brackets[0]
        sign = 1 if compared(spec)[1] == "max" else -1
        for trial in earlier:
            for reached, value in trial.reports:
                bracket.on_result(_Known(f"earlier {trial.number}"), reached, sign * value)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether a trial goes on after a rung. One that came to its end has ended by itself."""
        action: str = super().on_trial_result(tune_controller, trial, result)
        if action == TrialScheduler.STOP and result["state"] == "running":
            self.stopped.add(trial.trial_id)
        return action


def compared(spec: Spec) -> tuple[str, str]:
    """The metric that decides at a rung, and its mode."""
    if spec.scheduler is not None and spec.scheduler.by == "brew-loss":
        return "brew_loss", "min"
    return spec.metrics[0].name, spec.metrics[0].mode


def rungs(spec: Spec, cases: int) -> list[int]:
    """After how many cases a trial reports; the last is all of them."""
    if spec.scheduler is None:
        return [cases]
    found, reached = [], spec.scheduler.grace
    while reached < cases:
        found.append(reached)
        reached *= spec.scheduler.reduction
    return [*found, cases]
