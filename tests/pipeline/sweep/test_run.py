"""How a sweep ends, and goes on: when its budget is used up, and when there is more of it.

All steps of its first trial are in the store.
"""

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from pipeline.experiment import prepare_experiments
from pipeline.experiment_file import load_experiments
from pipeline.plan import plan
from pipeline.resources import Machine
from pipeline.store import Store, open_store
from pipeline.sweep.base import Sweep
from pipeline.sweep.run import conclude, run
from pipeline.sweep.trials import Trials

Load = Callable[..., Sweep]


@pytest.fixture
def load(tmp_path: Path, tiny: dict[str, Any]) -> Load:
    """A sweep of two trials, of which one is the tiny experiment."""

    def of(**fields: Any) -> Sweep:
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))
        space = {"attack.restarts": {"choice": [tiny["attack"]["restarts"], 1]}}
        asked = {"name": "two", "experiment": "tiny.yaml", "space": space, "concurrency": 1, **fields}
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(asked))
        return Sweep.load(tmp_path / "sweep.yaml")

    return of


@pytest.fixture
def store(copied: Path) -> Store:
    return open_store(copied)


def states(store: Store, sweep: Sweep) -> list[str]:
    return [trial.state for trial in Trials(store, sweep.name).all]


def test_the_hours_end_a_sweep_and_more_of_them_end_it_well(load: Load, store: Store, machines: list[Machine]) -> None:
    short, longer = load(budget={"trials": 1, "hours": 1e-9}), load(budget={"trials": 1, "hours": 1})
    ended = run(short, store, machines, Console(file=StringIO()))
    assert ended.used_up == "budget.hours (1e-09) is used up; the same command goes on for as long again"
    assert set(states(store, short)) <= {"running"}
    whole = run(longer, store, machines, Console(file=StringIO()))
    assert (whole.used_up, whole.name, states(store, longer)) == ("", ended.name, ["done"])


def test_the_gpu_hours_end_a_sweep(load: Load, store: Store, machines: list[Machine]) -> None:
    sweep = load(budget={"gpu_hours": 1.5})
    trials = Trials(store, sweep.name)
    trials.ended(trials.suggested({"attack.restarts": 2}), state="done", gpu_seconds=5400.0)
    ended = run(sweep, store, machines, Console(file=StringIO()))
    assert ended.used_up == "budget.gpu_hours (1.5) is used up; give more to go on"
    assert states(store, sweep) == ["done"]


def test_the_best_are_one_file_whatever_was_the_best_before(load: Load, store: Store, tmp_path: Path) -> None:
    sweep = load(metrics=["poison_success", "step_seconds"])
    trials, file = Trials(store, sweep.name), tmp_path / "best.yaml"

    def best() -> dict[str, str]:
        """The runs of the best trials' experiments, as `brewline run best.yaml` has them."""
        conclude(sweep, store, "")
        file.write_bytes(store.read_run(sweep.name, "best.yaml") or b"")
        found = prepare_experiments(load_experiments(str(file)))
        return {name: plan({"": experiment}).run for name, experiment in found.items()}

    def end(restarts: int, success: float, seconds: float) -> str:
        settings = {"attack.restarts": restarts}
        figures = {"poison_success": success, "step_seconds": seconds}
        trials.ended(trials.suggested(settings), state="done", figures=figures)
        return sweep.plan(settings).run

    first = end(2, 0.5, 20)
    assert best() == {"": first}
    second = end(1, 0.25, 10)
    assert best() == {"trial-0": first, "trial-1": second}
    assert [name for name in store.run_files(sweep.name) if name.startswith("best")] == ["best.yaml"]
