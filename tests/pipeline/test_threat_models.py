"""Threat models end to end: the steps of tiny experiments, each run by its stage, from the dataset to the summary."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.experiment import prepare_experiments
from pipeline.experiment_file import load_experiments, parse
from pipeline.plan import Plan
from pipeline.plan import plan as plan_of
from pipeline.report.tables import of_cases
from pipeline.result_file import Case as KeptCase
from stages.config import InputError
from stages.data.cases import load_case, resolve_cases
from stages.shards import base_shards, overlay, poisons
from stages.stage import Checkpoint, Context, Runtime, load_stage

Planner = Callable[[Mapping[str, Any]], Plan]
Done = Callable[[Mapping[str, Any]], dict[str, Path]]
CONCEALED = {"cases.threat_model": "self-concealment", "attack.adversarial_loss": "self-concealment"}


@pytest.fixture(scope="module")
def done(plan_tiny: Planner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """Runs what is not done yet of the tiny experiment with {field.path: value} set; gives each step's folder."""
    folders: dict[str, Path] = {}

    def run(changes: Mapping[str, Any]) -> dict[str, Path]:
        plan = plan_tiny(changes)
        for key, step in plan.steps.items():
            if key not in folders:
                folders[key] = tmp_path_factory.mktemp(step.stage)
                scratch = Checkpoint(tmp_path_factory.mktemp("checkpoint"))
                ctx = Context(getattr(step.params, "seed", 0), Runtime(device="cpu"), scratch)
                inputs = {role: folders[ref.key] for role, ref in step.inputs.items()}
                load_stage(step.stage).run(step.params, inputs, folders[key], ctx)
        return {step.label: folders[key] for key, step in plan.steps.items()}

    yield run


def rows(found: Mapping[str, Path]) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = json.loads((found["summarize"] / "summary.json").read_text())["cases"]
    for row in written:
        KeptCase.model_validate(row)
    return written


@pytest.mark.parametrize("threat", ["third-party", "random-subset", "multi-class"])
def test_poisons_of_other_classes_keep_their_labels(done: Done, threat: str) -> None:
    found = done({"cases.threat_model": threat, "cases.targets": 2})
    dataset, case = base_shards.load(found["prepare digits"]), load_case(found["case 0"])
    made = poisons.load(found["export case 0"], overlay.STEM)
    assert np.array_equal(made.ids, case.poison_ids)
    assert np.array_equal(made.labels, dataset.train.labels[made.ids])
    assert (made.images != dataset.train.of(made.ids).images).any((1, 2, 3)).all()
    assert (len(set(made.labels.tolist())) == 1) == (threat == "third-party")
    (row,) = rows(found)
    assert row["poison_class"] == (None if case.poison_class is None else str(case.poison_class))
    assert len(row["target_ids"]) == 2 and (row["poison_class"] is None) == (threat != "third-party")


def test_who_conceals_himself_is_called_anything_else(done: Done) -> None:
    found = done(CONCEALED)
    case = load_case(found["case 0"])
    told = json.loads((found["evaluate case 0 poisoned victim 0"] / "evaluation.json").read_text())
    (target,) = told["targets"]
    assert target["success"] == (target["prediction"] != case.target_class)
    assert target["p_intended"] == pytest.approx(1 - target["p_true"])
    assert target["loss_intended"] == pytest.approx(-np.log(1 - target["p_true"]))
    assert told["curves"]["p_intended"][-1] == pytest.approx(target["p_intended"], abs=2e-3)
    (row,) = rows(found)
    assert row["intended_class"] is None and row["poison_class"] == row["target_class"]
    assert f"{row['target_class']} → not {row['target_class']}" in (found["summarize"] / "table.txt").read_text()
    summary = json.loads((found["summarize"] / "summary.json").read_text())
    cells = of_cases(summary, "").bodies[0][0]
    assert cells[1].text == f"{row['target_class']} → not {row['target_class']}"


def test_victims_of_another_network_and_of_a_part_share_what_was_brewed(done: Done) -> None:
    plain = done({})
    network = {"name": "convnet", "depth": 3, "width": 6}
    for changes in ({"victims.network": network}, {"victims.part": 0.5}):
        other = done(changes)
        assert other["export case 0"] == plain["export case 0"], "the same poisons"
        for of in ("clean", "case 0"):
            assert other[f"retrain {of} victim 0"] != plain[f"retrain {of} victim 0"]
        assert len(rows(other)) == 1


def test_an_attacker_of_partial_knowledge_has_other_surrogates_alone(done: Done) -> None:
    plain, partial = done({}), done({"surrogates.part": 0.5})
    assert partial["pretrain surrogate 0"] != plain["pretrain surrogate 0"]
    assert partial["case 0"] == plain["case 0"] and partial["retrain clean victim 0"] == plain["retrain clean victim 0"]
    assert partial["export case 0"] != plain["export case 0"]


def test_parts_are_drawn_as_they_are_documented(plan_tiny: Planner) -> None:
    plan = plan_tiny({"surrogates": {"count": 2, "part": 0.4}, "victims": {"count": 2, "part": 0.4}})
    parts: dict[str, Any] = {step.label: getattr(step.params, "part", None) for step in plan.steps.values()}
    assert parts["pretrain surrogate 0"] == parts["pretrain surrogate 1"] != parts["retrain clean victim 0"]
    assert parts["retrain clean victim 0"] == parts["retrain case 0 victim 0"] != parts["retrain clean victim 1"]


def test_what_the_attack_cannot_be_after_is_refused(tiny: dict[str, Any]) -> None:
    concealed = {"kind": "random", "count": 1, "threat_model": "self-concealment"}
    weights = {"name": "torchvision/resnet18", "weights": "IMAGENET1K_V1"}
    for changes, message in (
        ({"cases": concealed}, "threat_model is self-concealment.* adversarial_loss is cross-entropy; set"),
        ({"attack": {"adversarial_loss": "self-concealment"}}, "threat_model single-class wants them called another"),
        (
            {
                "cases": concealed,
                "attack": {"adversarial_loss": "self-concealment"},
                "victims": {"record_alignment": True},
            },
            "record_alignment",
        ),
        ({"network": weights, "surrogates": {"part": 0.5}}, "surrogates.part: pretrained weights"),
        ({"victims": {"part": 1.5}}, "victims.part"),
    ):
        with pytest.raises(InputError, match=message):
            parse(tiny | changes, "tiny")


def test_table_7_trains_on_parts_what_the_table_says() -> None:
    variants = load_experiments("witches-brew-table7", ["cases.count=1", "attack.restarts=1"])
    steps = counted(plan_of(prepare_experiments(variants, absent_ok=True)))
    assert steps["pretrain"] == steps["brew"] == 3, "of the whole, and of parts of 30 and 50 %"
    assert steps["retrain"] == 2 + 4, "clean ones of two parts; of three poison sets one meets both parts"


def test_table_3_brews_once_for_all_networks(test_data: Path) -> None:
    file = test_data / "benchmark-cifar10-from-scratch.pickle"
    variants = load_experiments("witches-brew-table3", [f"cases.file={file}", "cases.count=1", "attack.restarts=1"])
    resolved = {name: one.model_copy(update={"cases": resolve_cases(one.cases)}) for name, one in variants.items()}
    steps = counted(plan_of(resolved))
    assert steps["brew"] == 3 and steps["pretrain"] == 4 + 4, "four ResNets, of which the mixed ensemble has two"
    assert steps["retrain"] == 3 + 9


def counted(plan: Plan) -> dict[str, int]:
    return {stage: len(steps) for stage, steps in plan.by_stage()}
