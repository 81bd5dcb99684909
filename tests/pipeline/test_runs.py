"""A run's folder tells, from the store alone, what was asked, how far it is and what each key is made of."""

import json
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import runs
from pipeline.experiment_file import parse
from pipeline.plan import plan
from pipeline.progress import EVENTS
from pipeline.store import Store, open_store
from stages.config import InputError


@pytest.fixture
def store(finished: Any, tmp_path: Path) -> Store:
    return open_store(shutil.copytree(finished.store, tmp_path / "store"))


def test_the_folder_holds_what_was_asked_and_what_came_out(finished: Any, tiny: dict[str, Any]) -> None:
    assert parse(yaml.safe_load((finished.folder / runs.EXPERIMENT).read_text()), "x") == parse(tiny, "tiny")
    assert json.loads((finished.folder / runs.SUMMARY).read_text())["cases"] == finished.result["cases"]
    assert (finished.folder / runs.TABLE).read_text() in finished.stdout
    assert {"case-00.png", "success.png"} <= {file.name for file in finished.folder.iterdir()}


def test_every_event_is_a_line_of_json(finished: Any) -> None:
    events = [json.loads(line) for line in (finished.folder / EVENTS).read_text().splitlines()]
    assert [event["event"] for event in events if event["what"] == "run"] == ["began", "ended"]
    done = [event["key"] for event in events if event["event"] == "done"]
    assert sorted(done) == sorted(step["key"] for step in json.loads((finished.folder / runs.PLAN).read_text()))
    assert all(event["time"].endswith("+00:00") for event in events)


def test_states_follow_the_store_and_the_events(store: Store, finished: Any) -> None:
    run = finished.result["run"]
    assert {state.state for state in runs.states(store, run)} == {"done"}
    steps = {step["label"]: step for step in runs.planned(store, run)}
    for label in ("summarize", "export case 0", "select case 0"):
        store.remove(steps[label]["stage"], steps[label]["key"])
    at = datetime.now(UTC).isoformat()

    def event(what: str, kind: str, **facts: Any) -> None:
        key = {"key": steps[what]["key"]} if what in steps else {}
        store.append_run(
            run, EVENTS, json.dumps({"time": at, "driver": "other", "what": what, "event": kind, **key, **facts}) + "\n"
        )

    event("run", "began")
    event("select case 0", "running", host="there")
    event("select case 0", "progress", done=3, total=9, figures={})
    event("export case 0", "failed", why="no space", log="/log")
    found = {state.label: state for state in runs.states(store, run)}
    assert (found["select case 0"].state, found["select case 0"].note) == ("running", "3 of 9, on there")
    assert (found["export case 0"].state, found["export case 0"].note, found["export case 0"].since) == (
        "failed",
        "no space",
        at,
    )
    assert found["summarize"].state == "blocked"
    log = Path(store.place(f"runs/{run}/{EVENTS}"))
    os.utime(log, (0, time.time() - 2 * runs.SILENCE_SECONDS))
    silent = {state.label: state.state for state in runs.states(store, run)}
    assert silent["select case 0"] == "left", "a run that has said nothing for long was killed"
    assert silent["export case 0"] == "failed"
    event("run", "interrupted")
    assert {state.state for state in runs.states(store, run) if state.label == "select case 0"} == {"left"}
    event("run", "began")
    assert {state.label: state.state for state in runs.states(store, run)}["export case 0"] == "left", (
        "it is tried again"
    )


def test_events_of_an_older_brewline_name_no_process(store: Store, finished: Any) -> None:
    run = finished.result["run"]
    last = runs.planned(store, run)[-1]
    store.remove(last["stage"], last["key"])
    for event in (
        {"what": "run", "event": "began"},
        {"what": "x", "event": "running", "key": last["key"], "host": "h"},
    ):
        line = {"time": datetime.now(UTC).isoformat(), **event}
        store.append_run(run, EVENTS, json.dumps(line) + "\n")
    assert runs.states(store, run)[-1].state == "running"
    assert runs.goes_on(store, run)


def test_made_of_looks_into_manifests_and_plans(store: Store, finished: Any) -> None:
    steps = {step["label"]: step for step in runs.planned(store, finished.result["run"])}
    brew = steps["brew case 0 restart 1"]
    ref, fields = runs.made_of(store, brew["key"][:10])
    assert (ref.stage, ref.key) == ("brew", brew["key"])
    assert fields["params"]["attack"]["eps"] == 32
    store.remove("brew", brew["key"])
    assert runs.made_of(store, brew["key"][:10]) == (ref, fields), "a step that is not done is known from the plan"
    with pytest.raises(InputError, match=r"no key .* begins with '00000000000'"):
        runs.made_of(store, "0" * 11)
    with pytest.raises(InputError, match="at least 4"):
        runs.made_of(store, brew["key"][:3])


def test_a_run_that_died_before_its_plan_was_written_hides_nothing(store: Store, finished: Any) -> None:
    store.write_run("tiny-00000000", runs.EXPERIMENT, b"name: tiny\n")
    key = finished.result["run"] and runs.planned(store, finished.result["run"])[0]["key"]
    assert runs.made_of(store, key)[0].key == key
    with pytest.raises(InputError, match="no run 'tiny-00000000'"):
        runs.planned(store, "tiny-00000000")


def test_an_unknown_run_names_the_nearest(store: Store, finished: Any, tmp_path: Path) -> None:
    run = finished.result["run"]
    with pytest.raises(InputError, match=f"no run '{run}x'.*did you mean '{run}'"):
        runs.planned(store, f"{run}x")
    with pytest.raises(InputError, match="it has none"):
        runs.planned(open_store(tmp_path / "empty"), run)


def test_variants_have_their_own_files(tmp_path: Path, tiny: dict[str, Any]) -> None:
    store = open_store(tmp_path)
    experiments = {name: parse(tiny | {"attack": {"eps": eps}}, name) for name, eps in (("a", 8), ("b", 16))}
    made = plan(experiments)
    runs.record(store, made, experiments)
    asked = {name: yaml.safe_load(store.read_run(made.run, f"{name}.{runs.EXPERIMENT}") or b"") for name in "ab"}
    assert (asked["a"]["attack"]["eps"], asked["b"]["attack"]["eps"]) == (8, 16)
    assert [step["key"] for step in runs.planned(store, made.run)] == list(made.steps)
