"""Sweeps are kept in results/: what they found, what computing they need, and side by side what one saves on another.

The trials here never ran: their steps are committed by hand, each of 60 seconds.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import runs
from pipeline.needs import needed_steps
from pipeline.results import add, page
from pipeline.store import Manifest, Store, new_write_id, open_store
from pipeline.sweep.base import Sweep
from pipeline.sweep.measure import first_cases
from pipeline.sweep.run import written
from pipeline.sweep.trials import SPEC, Trials
from stages.config import InputError

FACTS = {"started": "2026-01-01T00:00:00+00:00", "seconds": 60, "hardware": "a machine", "cpus": 1, "gpus": 0}
VERSIONS = {"versions": {"python": "3.11", "commit": "0123abc"}}
ALL_CASES = 3
SWEPT = Callable[..., Sweep]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    opened = open_store(str(tmp_path / "store"))
    opened.probe()
    return opened


@pytest.fixture
def swept(store: Store, tmp_path: Path, tiny: dict[str, Any]) -> SWEPT:
    """Writes a sweep over eps of 8, 16 and 32 as if its trials had come to so many cases, with such success."""

    def make(name: str, ends: Sequence[tuple[int, float] | None], **fields: Any) -> Sweep:
        tiny["cases"]["count"] = ALL_CASES
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))
        file = tmp_path / f"{name}.yaml"
        space = {"attack.eps": {"choice": [8, 16, 32]}}
        file.write_text(yaml.safe_dump({"name": name, "experiment": "tiny.yaml", "space": space, **fields}))
        sweep = Sweep.load(file)
        store.write_run(sweep.name, SPEC, written(sweep).encode())
        trials = Trials(store, sweep.name)
        for eps, end in zip((8, 16, 32), ends, strict=True):
            settings = {"attack.eps": eps}
            trial = trials.suggested(settings)
            if end is None:
                trials.ended(trial, state="failed", why="FloatingPointError: the training loss is nan")
                continue
            plan, (cases, success) = sweep.plan(settings), end
            runs.record(store, plan, {"": sweep.experiment(settings)})
            part = plan if cases == ALL_CASES else first_cases(plan, cases, "cases")
            for key in needed_steps(part, set()):
                commit(store, plan.steps[key].made_of, key, tmp_path / "nothing")
            figures = {"poison_success": success, "poison_success_se": 0.1, "clean_success": 0.0}
            state = "done" if cases == ALL_CASES else "stopped"
            trials.ended(trial, state=state, cases=cases, figures=figures, run=plan.run)
        return sweep

    return make


def commit(store: Store, made_of: Mapping[str, Any], key: str, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    draft = Manifest(**made_of, key=key, write_id=new_write_id(), provenance={**FACTS, **VERSIONS})
    store.commit(folder, draft)


FULL, STOPPED = [(3, 0.2), (3, 0.9), (3, 0.4)], [(1, 0.0), (3, 0.9), (1, 0.0)]
ASHA = {"scheduler": {"kind": "asha"}}


def test_what_halving_saves_is_kept_beside_full_trials(store: Store, swept: SWEPT, tmp_path: Path) -> None:
    full, halved = swept("full", FULL), swept("halved", STOPPED, **ASHA)
    file = add(store, [full.name, halved.name], "search", tmp_path)
    first, second = json.loads(file.read_text())["sweeps"]
    plans = [full.plan({"attack.eps": eps}) for eps in (8, 16, 32)]
    parts = [first_cases(plans[0], 1, "cases"), plans[1], first_cases(plans[2], 1, "cases")]
    for found, made in ((first, plans), (second, parts)):
        of_trials = [needed_steps(plan, set()) for plan in made]
        assert found["steps"] == len(set().union(*of_trials))
        assert found["steps_shared"] == sum(map(len, of_trials)) - found["steps"] > 0
        assert found["step_seconds"] == 60 * found["steps"], "what it takes alone, though the store is shared"
    assert (first["best"], second["best"], first["victims"]) == ([1], [1], 1)
    assert "runtime" not in first["base"] and "root" not in first["base"]["dataset"]
    text = page(tmp_path)
    lines = [line.split() for line in text.splitlines()]
    (row,) = (line for line in lines if line[:1] == [halved.name])
    minutes, saved = f"{second['step_seconds'] / 60:.1f}", f"{second['step_seconds'] / first['step_seconds']:.2f}"
    counts = [str(second["steps"]), str(second["steps_shared"])]
    assert row[-10:] == ["3", "1", "2", "0", "5", *counts, minutes, saved, "yes"]
    assert f"`brewline results add {full.name} {halved.name} search`" in text
    best = "attack.eps=16: poison_success 90.0 ± 10.0 %, clean_success 0.0 %, 3 cases × 1 victims."
    assert f"The best of {halved.name}: {best}" in text
    assert [line[0] for line in lines if line[-2:] == ["1", "stopped"]] == ["0", "2"]


@pytest.mark.parametrize(("third", "told"), [(0.9, "as good"), (0.4, "no")])
def test_another_best_is_told_from_an_equal_one(
    store: Store, swept: SWEPT, tmp_path: Path, third: float, told: str
) -> None:
    full = swept("full", [(3, 0.9), (3, 0.2), (3, third)])
    other = swept("halved", [(1, 0.0), (1, 0.0), (3, third)], **ASHA)
    add(store, [full.name, other.name], "search", tmp_path)
    (row,) = (line for line in page(tmp_path).splitlines() if line.startswith(other.name))
    assert row.endswith(f"  {told}")


def test_sweeps_of_other_spaces_are_not_compared(store: Store, swept: SWEPT, tmp_path: Path) -> None:
    full, other = swept("full", FULL), swept("halved", STOPPED, settings={"attack.steps": 4}, **ASHA)
    add(store, [full.name, other.name], "search", tmp_path)
    (row,) = (line for line in page(tmp_path).splitlines() if line.startswith(other.name))
    assert row.split()[-2:] == ["-", "-"]


def test_a_sweep_that_is_not_whole_is_not_kept(store: Store, swept: SWEPT, tmp_path: Path) -> None:
    sweep = swept("full", FULL)
    Trials(store, sweep.name).suggested({"attack.eps": 64})
    with pytest.raises(InputError, match="is not finished: of its trials 3 are left; run it again"):
        add(store, [sweep.name], "search", tmp_path)
    other = swept("other", [(3, 0.2), None, (1, 0.0)])
    store.remove("prepare", *store.keys("prepare"))
    with pytest.raises(InputError, match=r"1 of the \d+ steps of sweep other-.* are not in .*; run it again"):
        add(store, [other.name], "search", tmp_path)
    with pytest.raises(InputError, match="no run and no sweep 'othr'"):
        add(store, ["othr"], "search", tmp_path)
    with pytest.raises(InputError, match="is named more than once"):
        add(store, [other.name, other.name], "search", tmp_path)
    run = Trials(store, other.name).all[0].run
    with pytest.raises(InputError, match=f"{run} is a run, .*; name it alone"):
        add(store, [other.name, str(run)], "search", tmp_path)
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda sweep: sweep.update(best=[0]), r"best is \[0\], and that of the trials is \[1\]"),
        (lambda sweep: sweep["trials"].pop(0), "trials are not numbered from 0 on"),
        (lambda sweep: sweep["trials"][0].update(sta="done"), r"sweeps\.0\.trials\.0\.sta: "),
        (lambda sweep: sweep.update(step_second=1), "did you mean 'step_seconds'"),
    ],
)
def test_a_broken_file_of_sweeps_is_told(
    store: Store, swept: SWEPT, tmp_path: Path, change: Callable[[Any], None], told: str
) -> None:
    file = add(store, [swept("full", FULL).name], "search", tmp_path)
    data = json.loads(file.read_text())
    change(data["sweeps"][0])
    file.write_text(json.dumps(data))
    with pytest.raises(InputError, match=f"(?s)search.json.*{told}"):
        page(tmp_path)
