"""An attack without targets, whole: planned, and each of its steps run, on digits."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline import results, runs
from pipeline.cost.work import Data, Work, Works, operations
from pipeline.execute import run_stage
from pipeline.experiment import Experiment
from pipeline.experiment_file import parse
from pipeline.plan import Plan, plan
from pipeline.report.collect import collect
from pipeline.report.comparison import comparison
from pipeline.store import open_store
from stages.config import InputError
from stages.models.config import Network
from stages.shards import base_shards, overlay, poisons
from stages.stage import Checkpoint, Runtime

DIGITS: dict[str, Any] = {
    "name": "digits-without-targets",
    "dataset": {"kind": "digits", "per_class": 40},
    "cases": {"kind": "indiscriminate"},
    "network": {"name": "linear"},
    "training": {
        "epochs": 10,
        "batch_size": 64,
        "learning_rate": 0.05,
        "weight_decay": 0,
        "schedule": {"kind": "cosine"},
        "augmentation": {"flip": False, "pad": 0},
    },
    "attack": {
        "kind": "gradient-canceling",
        "eps_d": 0.5,
        "steps": 60,
        "learning_rate": 0.3,
        "corruption": {"eps_w": 0.2},
    },
    "victims": {"count": 2},
}


def planned(**fields: Any) -> tuple[Experiment, Plan]:
    experiment = parse({**DIGITS, **fields}, "a test")
    return experiment, plan({"": experiment})


def done(made: Plan, folder: Path) -> dict[str, Path]:
    """Runs every step, inputs first; gives the output folders by label."""
    places: dict[str, Path] = {}
    for key, step in made.steps.items():
        places[key] = folder / step.key[:12]
        places[key].mkdir(exist_ok=True)
        inputs = {role: places[ref.key] for role, ref in step.inputs.items()}
        if not any(places[key].iterdir()):
            run_stage(
                step.stage, step.params, inputs, places[key], Runtime(device="cpu"), Checkpoint(folder / "c" / key)
            )
    return {step.label: places[key] for key, step in made.steps.items()}


def test_steps() -> None:
    _, made = planned(cases={"kind": "indiscriminate", "count": 3})
    stages = Counter(step.stage for step in made.steps.values())
    assert stages == {
        "prepare": 1,
        "pretrain": 1,
        "corrupt": 1,
        "cancel": 3,
        "export": 3,
        "retrain": 2 + 3 * 2,
        "assess": 2 + 3 * 2,
        "tally": 1,
    }
    clean = [step for step in made.steps.values() if step.stage == "retrain" and "overlay" not in step.inputs]
    assert len(clean) == 2


def test_a_game_needs_no_corrupted_network(tmp_path: Path) -> None:
    attack = {"kind": "tgda", "eps_d": 0.2, "steps": 5, "learning_rate": 30, "follower_steps": 3, "iterations": 3}
    _, made = planned(attack=attack, victims={"count": 1})
    folders = done(made, tmp_path)
    assert "corrupt" not in folders
    summary = json.loads((folders["tally"] / "summary.json").read_text())["summary"]
    assert 0 <= summary["target_accuracy"]["mean"] <= 1 and summary["accuracy_drop"]["se"] is None


def test_what_the_steps_cost() -> None:
    _, made = planned()
    data = Data(400, 450, (8, 8, 1), 10)
    [prepare] = (key for key, step in made.steps.items() if step.stage == "prepare")
    works = Works(made.steps, {prepare: data}, {})
    found = {step.label: works.of(step) for step in made.steps.values()}
    _, training = operations(Network(name="linear"), data.shape, data.classes)
    assert found["corrupt"].operations == pytest.approx((10 + 1 / 3) * 400 * training), "10 steps and the logits"
    assert found["cancel case 0"].operations == pytest.approx((60 * 3.2 * 200 + 400 * 7 / 3) * training)
    assert found["export case 0"].bytes == 2 * 200 * 64
    assert found["assess clean victim 0"].operations > 0 and found["tally"] == Work()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cases": {"kind": "random"}}, "cases.kind is random; use cases: {kind: indiscriminate}"),
        ({"attack": {"eps": 8}}, "the attack gradient-matching needs some"),
        ({"surrogates": {"count": 2}}, "there are 2 surrogates"),
        ({"victims": {"record_alignment": True}}, "record_alignment is about targets"),
        ({"victims": {"part": 0.5}}, "victims.part: victims of gradient-canceling are trained from scratch on all"),
        ({"victims": {"setting": {"kind": "transfer"}}}, "victims.setting: victims of gradient-canceling are trained"),
        ({"cases": {"kind": "random", "threat_model": "self-concealment"}}, "cases.kind is random; use cases"),
        ({"attack": {"kind": "gradient-canceling", "eps_d": 1, "mode": "replace"}}, "leaves no clean image"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        planned(**fields)


def test_digits_lose_accuracy_and_the_figures_agree(tmp_path: Path) -> None:
    found = {}
    for mode in ("add", "replace"):
        _, made = planned(attack={**DIGITS["attack"], "mode": mode})
        folders = done(made, tmp_path)
        dataset = base_shards.load(folders["prepare digits"])
        poison_set = poisons.load(folders["export case 0"], overlay.STEM)
        trained_on = overlay.apply(dataset, folders["export case 0"]).train
        N, P = len(dataset.train), len(poison_set)
        assert len(trained_on) == (N + P if mode == "add" else N) and P == -(-N // 2)
        assert (trained_on.ids == range(len(trained_on))).all()
        changed = [i for i in range(N) if (trained_on.images[i] != dataset.train.images[i]).any()]
        if mode == "add":
            assert not changed and (trained_on.array[N:] == poison_set.images).all()
            assert (trained_on.labels[N:] == dataset.train.of(poison_set.ids).labels).all()
        else:
            assert set(changed) <= set(poison_set.ids.tolist()) and (trained_on.labels == dataset.train.labels).all()
        losses = json.loads((folders["cancel case 0"] / "brew.json").read_text())
        assert losses["losses"][-1] < losses["losses"][0] and losses["left"] < 1
        assert losses["brew_loss"] == pytest.approx(losses["losses"][-1], rel=0.2), "quantising changes little"
        found[mode] = figures = json.loads((folders["tally"] / "summary.json").read_text())
        row, summary = figures["cases"][0], figures["summary"]
        drops = [clean - poisoned for clean, poisoned in zip(row["clean"], row["poisoned"], strict=True)]
        assert (
            summary["accuracy_drop"]["mean"] == pytest.approx(sum(drops) / 2)
            and summary["accuracy_drop"]["mean"] > 0.05
        )
        assert summary["target_accuracy"]["mean"] < 0.7 < summary["clean_accuracy"]["mean"]
        assert "accuracy drop" in (folders["tally"] / "table.txt").read_text()
    assert [line.split()[0] for line in comparison(found).splitlines()[2:]] == ["add", "replace"]


def test_where_such_a_run_has_no_place_it_is_refused_by_name(tmp_path: Path) -> None:
    experiment, made = planned()
    store = open_store(tmp_path / "store")
    runs.record(store, made, {"": experiment})
    for use in (lambda: collect(store, made.run), lambda: results.add(store, [made.run], "digits", tmp_path)):
        with pytest.raises(InputError, match=f"run {made.run} is of an attack without targets, which"):
            use()
