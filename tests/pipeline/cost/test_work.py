"""How much work steps are, against what is known of the networks and of the pipeline."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.cost.work import Data, Work, Works, images_in, operations
from pipeline.experiment import prepare_experiments
from pipeline.experiment_file import load_experiments
from pipeline.plan import Plan
from pipeline.plan import plan as plan_of
from stages.config import InputError
from stages.models.config import Network

DIGITS = Data(300, 100, (8, 8, 1), 10)
Planner = Callable[[Mapping[str, Any]], Plan]


def test_operations_are_those_that_papers_give() -> None:
    forward, training = operations(Network(name="torchvision/resnet18"), (224, 224, 3), 1000)
    assert forward == pytest.approx(2 * 1.814e9, rel=0.01), "1.8 billion multiply-adds (He et al. 2016, table 1)"
    assert training == pytest.approx(3 * forward, rel=0.01), "a backward pass costs two forward ones"


def test_a_network_that_cannot_take_the_images_is_refused() -> None:
    with pytest.raises(InputError, match=r"network torchvision/alexnet cannot take 8×8 images"):
        operations(Network(name="torchvision/alexnet"), (8, 8, 3), 10)


def works_of(plan: Plan) -> dict[str, Work]:
    key = next(key for key, step in plan.steps.items() if step.stage == "prepare")
    works = Works(plan.steps, {key: DIGITS}, {})
    return {step.label: works.of(step) for step in plan.steps.values()}


def test_work_is_in_proportion_to_what_the_experiment_asks_for(plan_tiny: Planner) -> None:
    base = works_of(plan_tiny({}))
    forward, training = operations(Network(name="convnet", depth=3, width=4), DIGITS.shape, DIGITS.classes)
    retrain = base["retrain clean victim 0"]
    assert retrain.operations == 2 * 300 * training + 2 * 100 * forward
    assert retrain.passes == 2 * 3 + 2 / 3 and retrain.parts == 2 * 3
    assert base["evaluate case 0 clean victim 0"].operations == 100 * forward
    brew = base["brew case 0 restart 0"]
    assert brew.operations == pytest.approx((3 * 2.4 + 2 * 4) * 15 * training), "3 steps and B before and after"
    assert base["select case 0"].bytes == 3 * 15 * 64 and base["export case 0"].bytes == 2 * 15 * 64
    assert base["case 0"] == base["summarize"] == Work()
    exact = works_of(plan_tiny({"attack.derivative": {"kind": "double-backward"}}))["brew case 0 restart 0"]
    assert exact.operations / brew.operations == pytest.approx((3 * 3.2 + 8) / (3 * 2.4 + 8))
    on_features = works_of(plan_tiny({"attack.objective": "bullseye"}))["brew case 0 restart 0"]
    assert on_features.operations == pytest.approx((3 * 0.7 + 8 / 3) * 15 * training), "no gradient of the weights"
    ensemble = works_of(plan_tiny({"surrogates.count": 3, "surrogates.epochs": [1, 2, 2]}))
    assert ensemble["brew case 0 restart 0"].operations == pytest.approx(3 * brew.operations)
    assert ensemble["pretrain surrogate 0"].parts == 3
    outlier = works_of(plan_tiny({"cases": {"kind": "outlier", "count": 1}, "surrogates.count": 2}))["case 0"]
    assert outlier.operations == 2 * 100 * forward
    half = works_of(plan_tiny({"victims.part": 0.5}))["retrain clean victim 0"]
    assert half.operations == 2 * 150 * training + 2 * 100 * forward and half.parts == 2 * 2
    bf16 = works_of(plan_tiny({"training.precision": "bf16"}))
    assert bf16["pretrain surrogate 0"].precision == "bf16" and bf16["brew case 0 restart 0"].precision == "float32"


def test_transfer_passes_forward_alone(plan_tiny: Planner) -> None:
    transfer = {"victims.setting": {"kind": "transfer"}}
    found = works_of(plan_tiny(transfer))["retrain clean victim 0"]
    forward, _ = operations(Network(name="convnet", depth=3, width=4), DIGITS.shape, DIGITS.classes)
    assert found.operations == pytest.approx(2 * (300 + 100) * forward)
    assert found.passes == pytest.approx(2 * 3 / 3 + 2 / 3) and found.parts == 2 * 3
    still = works_of(plan_tiny(transfer | {"training.augmentation.pad": 0}))["retrain clean victim 0"]
    assert still.operations == pytest.approx((300 + 2 * 100) * forward) and still.passes == pytest.approx(1 + 2 / 3)


def test_a_collision_costs_a_pass_a_step(plan_tiny: Planner) -> None:
    frogs = {"attack": {"kind": "poison-frogs", "steps": 10, "budget": 0.05}, "surrogates.count": 2}
    _, training = operations(Network(name="convnet", depth=3, width=4), DIGITS.shape, DIGITS.classes)
    assert works_of(plan_tiny(frogs))["brew case 0 restart 0"].operations == (10 + 2) * 15 * 2 * training


def test_a_race_saves_the_steps_of_those_that_are_dropped(plan_tiny: Planner) -> None:
    raced = {"attack.restarts": 4, "attack.steps": 10, "attack.race": {"at": [2, 5]}}
    found = works_of(plan_tiny(raced))
    unraced = works_of(plan_tiny(raced | {"attack.race": None}))
    _, training = operations(Network(name="convnet", depth=3, width=4), DIGITS.shape, DIGITS.classes)
    one = 15 * training
    assert unraced["brew case 0 restart 0"].operations == pytest.approx((10 * 2.4 + 2 * 4) * one)
    legs = {"restart 3 steps 1-2": 2 * 2.4 + 4, "place 1 steps 3-5": 3 * 2.4 + 4, "place 0 steps 6-10": 5 * 2.4 + 2 * 4}
    for leg, passes in legs.items():
        assert found[f"brew case 0 {leg}"].operations == pytest.approx(passes * one), leg
    assert [found[f"brew case 0 {leg}"].parts for leg in legs] == [2, 3, 5]
    assert found["select case 0"].bytes == 2 * 15 * 64 and unraced["select case 0"].bytes == 5 * 15 * 64


def test_the_race_that_ships_brews_as_many_steps_as_its_file_says() -> None:
    def steps(variant: str) -> int:
        key = {"": load_experiments("race-digits")[variant]}
        brews = {label: work for label, work in works_of(plan_of(key)).items() if label.startswith("brew case 0 ")}
        return sum(work.parts for work in brews.values())

    assert {variant: steps(variant) for variant in ("full", "half", "quarter")} == {
        "full": 640,
        "half": 304,
        "quarter": 216,
    }


def test_pretrained_weights_are_not_trained_and_shards_count_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BREWLINE_DATA", str(tmp_path))
    plan = plan_of(prepare_experiments(load_experiments("witches-brew-imagenet"), absent_ok=True))
    shards = {key: images_in(step) for key, step in plan.steps.items() if step.stage == "shard"}
    assert sum(shards.values()) == 1_281_167 + 50_000
    key = next(key for key, step in plan.steps.items() if step.stage == "prepare")
    works = Works(plan.steps, {key: Data(1_281_167, 50_000, (224, 224, 3), 1000)}, shards)
    by_label = {step.label: works.of(step) for step in plan.steps.values()}
    forward, training = operations(Network(name="torchvision/resnet18"), (224, 224, 3), 1000)
    assert by_label["pretrain surrogate 0"] == Work(50_000 * forward, passes=pytest.approx(98 / 3))
    assert by_label["shard train 0"].pixels == 4096 * 256**2
    assert by_label["prepare imagenet"] == Work()
    assert by_label["retrain clean victim 0"].operations > 40 * 1_281_167 * training
