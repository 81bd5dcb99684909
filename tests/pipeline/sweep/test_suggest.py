"""What a sweep that is started again begins: what was left unfinished, then new trials, as long as the budget lasts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.tune.search import Searcher

from pipeline.store import open_store
from pipeline.sweep.base import Sweep
from pipeline.sweep.suggest import Suggestions
from pipeline.sweep.trials import Trials

EPS = [4, 8, 16, 32, 64]
STATES = ("done", "stopped", "failed", "running")
Begun = Callable[..., list[int]]


@pytest.fixture
def begun(tmp_path: Path, tiny: dict[str, Any]) -> Begun:
    """The trials that a start begins, of a sweep of five of which earlier starts knew four, a half GPU-hour each."""

    def of(**budget: float) -> list[int]:
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))
        space = {"attack.eps": {"choice": EPS}}
        asked = {"name": "small", "experiment": "tiny.yaml", "space": space, "budget": budget}
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(asked))
        sweep = Sweep.load(tmp_path / "sweep.yaml")
        trials = Trials(open_store(tmp_path / f"store {budget}"), sweep.name)
        for eps, state in zip(EPS, STATES, strict=False):
            trials.ended(trials.suggested({"attack.eps": eps}), state=state, gpu_seconds=1800.0)
        suggestions, found = Suggestions(sweep, trials, set()), []
        while (suggested := suggestions.suggest(f"trial {len(found)}")) != Searcher.FINISHED:
            found.append(suggested["number"])
        return found

    return of


def test_what_is_not_finished_is_tried_again_and_what_was_stopped_is_not(begun: Begun) -> None:
    assert begun() == [2, 3, 4]
    assert begun(trials=4) == [2, 3]


def test_no_trial_begins_once_the_gpu_hours_are_used_up(begun: Begun) -> None:
    assert begun(gpu_hours=2) == []
    assert begun(gpu_hours=2.1) == [2, 3, 4]
