"""Halving that is taken up again decides as if it had never been interrupted."""

import random
from collections import namedtuple
from typing import Any

import pytest

from pipeline.sweep.asha import CASES, COMPARED, Asha, rungs
from pipeline.sweep.spec import Spec
from pipeline.sweep.trials import Trial

TRIALS = 12
Known = namedtuple("Known", "trial_id")


def spec(mode: str, reduction: int) -> Spec:
    metrics = [{"name": "poison_success", "mode": mode}]
    scheduler = {"reduction": reduction}
    return Spec.model_validate(
        {"name": "a", "experiment": "b", "space": {"x": {"choice": [1]}}, "metrics": metrics, "scheduler": scheduler}
    )


def judge(asha: Asha, trial: Trial, values: dict[int, float]) -> None:
    """Run a trial as Ray Tune does: from rung to rung, until it is stopped or at its end."""
    known: Any = Known(f"trial {trial.number}")
    asha.on_trial_add(None, known)  # type: ignore[arg-type]
    for cases, value in values.items():
        result = {CASES: cases, COMPARED: value, "state": "done" if cases == max(values) else "running"}
        trial.reports.append((cases, value))
        if asha.on_trial_result(None, known, result) == Asha.STOP:
            break
    asha.on_trial_complete(None, known, result)  # type: ignore[arg-type]
    trial.state = "stopped" if known.trial_id in asha.stopped else "done"


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize(("cases", "reduction"), [(9, 3), (10, 3), (4, 2)])
def test_the_same_are_stopped_after_an_interruption(mode: str, cases: int, reduction: int) -> None:
    asked, draw = spec(mode, reduction), random.Random(0)
    values = [{cases: draw.random() for cases in rungs(asked, cases)} for _ in range(TRIALS)]

    def trials() -> list[Trial]:
        return [Trial(number, {}) for number in range(TRIALS)]

    whole, asha = trials(), Asha(asked, cases, [])
    for trial in whole:
        judge(asha, trial, values[trial.number])
    assert {trial.state for trial in whole} == {"done", "stopped"}
    for cut in range(TRIALS):
        resumed, before = trials(), Asha(asked, cases, [])
        for trial in resumed[:cut]:
            judge(before, trial, values[trial.number])
        after = Asha(asked, cases, [trial for trial in resumed if trial.finished])
        for trial in resumed[cut:]:
            judge(after, trial, values[trial.number])
        assert resumed == whole, f"interrupted after {cut} trials"
