"""Whole sweeps on a real Ray by the real command: trials share steps, may be killed and may fail, and the best is
found."""

import csv
import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.report.page import PAGE
from pipeline.report.sweep import collect_sweep
from pipeline.report.sweep_page import sweep_report
from pipeline.runs import planned
from pipeline.store import open_store
from pipeline.store.copying import compare, transfer
from pipeline.sweep.base import Sweep
from pipeline.sweep.measure import cases_of
from pipeline.sweep.spec import Spec
from pipeline.sweep.tables import front, table
from pipeline.sweep.trials import Trial, Trials
from tiny_pipeline import Finished

SPACE = {"attack.eps": {"grid": [8, 64]}, "attack.restarts": {"choice": [1, 2]}}


@pytest.fixture
def written(tmp_path: Path, tiny: dict[str, Any]) -> Any:
    def write(**changes: Any) -> Path:
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))
        file = tmp_path / "sweep.yaml"
        data = {"name": "small", "experiment": "tiny.yaml", "space": SPACE, "metrics": ["brew_loss"], **changes}
        file.write_text(yaml.safe_dump(data))
        return file

    return write


def read(store: Path, sweep: str, name: str) -> Any:
    return json.loads((store / "runs" / sweep / name).read_text())


def test_trials_share_steps_and_the_best_is_an_experiment_to_run(brewline: Any, written: Any, tmp_path: Path) -> None:
    file, store = written(), tmp_path / "store"
    done = brewline("sweep", file, "--store", store, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    found = read(store, result["sweep"], "sweep.json")
    trials = {tuple(trial["settings"].values()): trial for trial in found["trials"]}
    assert list(trials) == [(8, 1), (8, 2), (64, 1), (64, 2)]
    assert {trial["state"] for trial in found["trials"]} == {"done"}
    assert sum(trial["ran"] for trial in found["trials"]) == len(list(open_store(store).manifests()))
    assert found["steps"] - found["steps_saved"] == len(list(open_store(store).manifests()))
    assert trials[8, 2]["ran"] < trials[8, 2]["steps"] or trials[8, 1]["ran"] < trials[8, 1]["steps"]
    for trial in found["trials"]:
        summary = read(store, trial["run"], "summary.json")
        assert trial["metrics"]["brew_loss"] == summary["cases"][0]["brew_loss"]
        assert trial["metrics"]["poison_success"] == summary["summary"]["poison_success"]["mean"]
        assert trial["metrics"]["clean_accuracy"] == summary["summary"]["clean_accuracy"]["mean"]
    (best,) = found["best"]
    losses = [trial["metrics"]["brew_loss"] for trial in found["trials"]]
    assert losses[best] == min(losses)
    rows = list(csv.DictReader((store / "runs" / result["sweep"] / "trials.csv").open()))
    assert [float(row["brew_loss"]) for row in rows] == losses
    again = brewline("run", store / "runs" / result["sweep"] / "best.yaml", "--store", store, "--json")
    assert json.loads(again.stdout.splitlines()[-1])["steps"]["ran"] == 0
    assert json.loads(again.stdout.splitlines()[-1])["run"] == found["trials"][best]["run"]


@pytest.mark.slow
def test_a_sweep_in_s3_is_not_repeated_and_is_reported_from_there(
    brewline: Any, written: Any, finished: Finished, s3_url: str, s3_environment: dict[str, str]
) -> None:
    store, run = open_store(s3_url), finished.result["run"]
    source = open_store(finished.store)
    steps = [(step["stage"], step["key"]) for step in planned(source, run)]
    transfer(source, store, compare(source, store, steps), lambda _: None)
    file = written(space={"attack.restarts": {"choice": [2, 1]}})
    sweep, manifests = Sweep.load(file).name, []
    for _ in range(2):
        done = brewline("sweep", file, "--store", s3_url, **s3_environment)
        assert done.returncode == 0, done.stderr
        manifests.append({manifest.key: manifest.write_id for manifest in store.manifests()})
        found, trials = collect_sweep(store, sweep), Trials(store, sweep)
        assert [trial.state for trial in trials.all] == ["done", "done"]
        assert [event["event"] for event in trials.events].count("ended") == 2
    assert manifests[0] == manifests[1]
    assert trials.all[0].ran == 0 and trials.all[1].ran == len(manifests[0]) - len(steps) > 0
    assert table(found.spec, found.trials, [trial.number for trial in found.best]) in done.stdout
    text = sweep_report(found).files[PAGE].decode()
    assert all(str(trial.run) in text for trial in found.trials)
    best = yaml.safe_load(store.read_run(sweep, "best.yaml") or b"")
    assert best["attack"]["restarts"] == found.best[0].settings["attack.restarts"]


def test_killed_and_started_again_it_goes_on_with_the_same_suggestions(
    brewline: Any, start: Any, written: Any, tmp_path: Path, processes: Any, write_ids: Any
) -> None:
    store = tmp_path / "store"
    space = {"attack.eps": {"integers": [4, 64]}, "victims.seed": {"choice": [0, 1]}}
    search = {"space": space, "searcher": {"kind": "optuna", "seed": 3}, "budget": {"trials": 3}, "concurrency": 2}
    file = written(**search)
    sweep = Sweep.load(file).name
    opened = open_store(store)

    def ended() -> int:
        return sum(trial.finished for trial in Trials(opened, sweep).all)

    process = start("sweep", file, "--store", store)
    processes.until(lambda: ended() >= 1, 180, "no trial ended")
    below = processes.below(process.pid)
    process.kill()
    process.communicate()
    processes.until_gone(below, 120, "something of the killed sweep still runs")
    before, committed = Trials(opened, sweep), write_ids(store)
    done = brewline("sweep", file, "--store", store)
    assert done.returncode == 0, done.stderr
    after = Trials(opened, sweep)
    assert len(after.all) == 3 and all(trial.state == "done" for trial in after.all)
    assert [trial.settings for trial in before.all] == [trial.settings for trial in after.all][: len(before.all)]
    ends = Counter(event["number"] for event in after.events if event["event"] == "ended")
    assert set(ends.values()) == {1}
    assert committed.items() <= write_ids(store).items(), "what was committed was computed again"
    (store / "runs" / sweep / "trials.jsonl").unlink()
    fresh = brewline("sweep", written(**search | {"budget": {"trials": 1}}), "--store", store)
    assert fresh.returncode == 0, fresh.stderr
    assert Trials(opened, sweep).all[0].settings == after.all[0].settings


def test_a_trial_that_fails_does_not_end_the_sweep(brewline: Any, written: Any, tmp_path: Path) -> None:
    space = {"victims.training.learning_rate": {"choice": [0.02, 1e30]}}
    halving: dict[str, Any] = {"scheduler": {}, "settings": {"cases.count": 2}}
    file, store = written(space=space, metrics=["poison_success"], **halving), tmp_path / "store"
    done = brewline("sweep", file, "--store", store)
    assert done.returncode == 1
    assert [trial.state for trial in Trials(open_store(store), Sweep.load(file).name).all] == ["done", "failed"]
    assert "failed: trial 1" in done.stdout
    assert "FloatingPointError: the training loss is nan" in done.stdout


@pytest.mark.slow
def test_a_trial_whose_own_process_dies_is_told_with_what_ray_knows(
    start: Any, written: Any, tmp_path: Path, processes: Any
) -> None:
    space, settings = {"attack.eps": {"choice": [8]}}, {"training.epochs": 400}
    store = tmp_path / "store"
    process = start("sweep", written(space=space, settings=settings), "--store", store)

    def trials() -> list[int]:
        return [pid for pid, command in processes.below(process.pid).items() if command.startswith("ray::ImplicitFunc")]

    log = store / "runs"
    processes.until(lambda: any(log.glob("*/events.jsonl")) and trials(), 120, "no trial began")
    os.kill(*trials(), signal.SIGKILL)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "the trial's own process was lost" in told
    assert "memory" in told


@pytest.mark.slow
@pytest.mark.parametrize("by", ["cases", "brew-loss"])
def test_halving_stops_the_worst_trials_early(brewline: Any, written: Any, tmp_path: Path, by: str) -> None:
    space = {"attack.eps": {"choice": [128, 64, 1]}}
    file = written(
        space=space,
        settings={"cases.count": 4},
        metrics=["brew_loss"],
        scheduler={"by": by, "reduction": 2},
        concurrency=1,
    )
    store = tmp_path / "store"
    done = brewline("sweep", file, "--store", store)
    assert done.returncode == 0, done.stderr
    sweep = Sweep.load(file)
    trials = Trials(open_store(store), sweep.name).all
    assert [trial.state for trial in trials[:2]] == ["done", "stopped"]
    assert trials[0].reports and [cases for cases, _ in trials[0].reports] == [1, 2, 4]
    assert "stopped" in [trial.state for trial in trials[2:]]
    assert all(trial.cases < 4 for trial in trials if trial.state == "stopped")
    victims = list(open_store(store).manifests("retrain"))
    whole = sum(trial.state == "done" for trial in trials)
    assert cases_of(sweep.plan({})) == 4
    if by == "brew-loss":
        assert len(victims) == 1 + 4 * whole, "victims of trials that came to the last rung, and a clean one"
    else:
        assert 1 + 4 * whole < len(victims) < 1 + 4 * len(trials)


def test_an_interrupted_sweep_says_so(start: Any, written: Any, tmp_path: Path, processes: Any) -> None:
    store = tmp_path / "store"
    process = start("sweep", written(settings={"training.epochs": 400}), "--store", store)
    log = store / "runs"
    processes.until(lambda: any(log.glob("*/events.jsonl")), 120, "no trial began")
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from here" in told
    assert "Traceback" not in told


def test_of_several_metrics_what_none_betters() -> None:
    spec = Spec.model_validate(
        {"name": "a", "experiment": "b", "space": SPACE, "metrics": ["poison_success", "step_seconds"]}
    )
    pairs = [(0.5, 10), (0.5, 20), (0.9, 30), (0.1, 5), (0.0, 50), (0.9, 30)]
    trials = [
        Trial(number, {}, "done", figures={"poison_success": success, "step_seconds": seconds})
        for number, (success, seconds) in enumerate(pairs)
    ]
    trials += [Trial(6, {}, "stopped", figures={"poison_success": 1.0, "step_seconds": 1})]
    assert front(spec, trials) == [0, 2, 3, 5]
