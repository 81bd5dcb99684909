"""Runs and a sweep to report on: one run of two variants, and a sweep written by hand."""

import copy
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from handmade_sweep import trial, write
from pipeline.store import Store, open_store
from shared_work import Once
from tiny_pipeline import TINY, Brewline, Finished


@dataclass(frozen=True)
class TwoVariants:
    """A finished run of two variants of two cases with two victims each; never write into its store: copy it."""

    store: Path
    run: str
    result: dict[str, Any]


@pytest.fixture(scope="session")
def two_variants(once: Once, finished: Finished, brewline: Brewline) -> TwoVariants:
    """Made in a copy of the finished run's store, so that some of its steps are cached."""

    def make(folder: Path) -> list[Any]:
        store = shutil.copytree(finished.store, folder / "store")
        fields = copy.deepcopy(TINY) | {"name": "two", "description": "Two <variants> & a quote", "paper_success": 0.9}
        fields["cases"]["count"] = fields["victims"]["count"] = 2
        fields["victims"]["record_alignment"] = True
        fields["variants"] = {"eps-8": {"attack.eps": 8}, "eps-32": {"attack.eps": 32}}
        file = folder / "two.yaml"
        file.write_text(yaml.safe_dump(fields, sort_keys=False))
        done = brewline("run", file, "--store", store, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return [str(store), json.loads(done.stdout.splitlines()[-1])]

    store, result = once("variants", make)
    return TwoVariants(Path(store), result["run"], result)


@pytest.fixture(scope="session")
def unfinished(two_variants: TwoVariants, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store in which the run of two variants lacks its summaries, and of eps-32 a brew with what comes of it, and a
    victim's evaluation."""
    store = open_store(shutil.copytree(two_variants.store, tmp_path_factory.mktemp("unfinished") / "store"))
    plan = {step["label"]: step for step in json.loads(store.read_run(two_variants.run, "plan.json") or b"")}
    for step in plan.values():
        if step["stage"] == "summarize":
            store.remove("summarize", step["key"])
    for label in ("brew case 1 restart 0", "select case 1", "export case 1"):
        store.remove(plan[label]["stage"], plan[label]["key"])
    for victim in range(2):
        for label in (f"retrain case 1 victim {victim}", f"evaluate case 1 poisoned victim {victim}"):
            store.remove(plan[label]["stage"], plan[label]["key"])
    store.remove("evaluate", plan["evaluate case 0 poisoned victim 1"]["key"])
    return store


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with a sweep of nine trials on a grid, one that failed and one that runs."""
    grid = [(eps, budget) for eps in (4, 8, 16) for budget in (0.01, 0.02, 0.05)]
    trials = [trial(number, *at) for number, at in enumerate(grid)]
    why = "brew case 0 restart 1: B is nan at step 3"
    trials.append(trial(9, 32, 0.05, state="failed", figures={}, run=None, why=why))
    trials.append(trial(10, 32, 0.01, state="running", figures={}))
    store = open_store(tmp_path_factory.mktemp("swept"))
    write(store, "eps-and-budget", trials)
    return store
