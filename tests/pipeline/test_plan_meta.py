"""MetaPoison through the pipeline: which steps it is planned as, and a small one from the experiment to its summary."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline.cost.rates import samples
from pipeline.cost.work import Data, Works, operations
from pipeline.execute import execute
from pipeline.experiment import Experiment, prepare_experiment
from pipeline.experiment_file import load_experiments, parse
from pipeline.plan import Plan
from pipeline.plan import plan as plan_of
from pipeline.report.page import asked
from pipeline.sizes import sizes
from pipeline.step import Step
from pipeline.store import Manifest, Store, open_store
from stages.config import InputError
from stages.models.config import Network
from stages.shards import poisons
from stages.stage import Runtime
from tiny_pipeline import TINY

ATTACK: dict[str, Any] = {"kind": "metapoison", "eps": 32, "color": None, "budget": 0.05, "steps": 2}
META = TINY | {"attack": ATTACK, "surrogates": {"count": 2}}
Planner = Callable[[Mapping[str, Any]], Plan]


def by_label(plan: Plan) -> dict[str, Step]:
    return {step.label: step for step in plan.steps.values()}


class Run(NamedTuple):
    """Two variants, of which one uses a part of its poisons, and what each step left."""

    experiments: Mapping[str, Experiment]
    plan: Plan
    store: Store
    manifests: Mapping[str, Manifest]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    used = {"all": None, "some": 0.02}
    experiments = {name: parse(META | {"attack": ATTACK | {"used_budget": part}}, name) for name, part in used.items()}
    plan, store = plan_of(experiments), open_store(tmp_path_factory.mktemp("meta") / "store")
    done = {key: execute(step, store, Runtime(device="cpu")) for key, step in plan.steps.items()}
    return Run(experiments, plan, store, done)


def test_each_epoch_of_each_network_is_a_step(plan_tiny: Planner) -> None:
    attack = ATTACK | {"steps": 5, "restarts": 2}
    made = plan_tiny({"attack": attack, "surrogates.count": 4, "training.epochs": 3, "cases.count": 2})
    counts = {stage: len(steps) for stage, steps in made.by_stage()}
    assert (counts["unroll"], counts["adapt"], counts["select"]) == (2 * 2 * 5 * 4, 2 * 2 * 6, 2)
    # ⌊m·T/M⌋ for T = 3, M = 4: 0, 0, 1, 2
    assert counts["pretrain"] == 2
    assert [s.params.stop_after for s in made.steps.values() if s.stage == "pretrain"] == [1, 2]  # type: ignore[attr-defined]
    found = by_label(made)
    assert "brew" not in counts and set(found["adapt case 1 restart 1 step 0"].inputs) == {"dataset", "case"}
    lives = []
    for step in range(1, 6):
        one = found[f"unroll case 0 restart 0 step {step} network 2"]
        params: Any = one.params
        before = one.inputs.keys() & {"network", "pretrained"}
        lives.append((params.epoch, params.seed, *before))
        assert one.inputs["poisons"].key == found[f"adapt case 0 restart 0 step {step - 1}"].key
        if before == {"network"}:
            assert one.inputs["network"].key == found[f"unroll case 0 restart 0 step {step - 1} network 2"].key
    first, second = lives[0][1], lives[2][1]
    assert first != second, "after T epochs it begins anew, at other weights"
    assert lives == [
        *((1, first, "pretrained"), (2, first, "network")),
        *((0, second), (1, second, "network"), (2, second, "network")),
    ]
    adapted = found["adapt case 0 restart 0 step 3"].inputs
    assert set(adapted) == {"dataset", "case", "before", *(f"unroll.{m}" for m in range(4))}


def test_stated_epochs_stagger_and_serve_outliers_too(plan_tiny: Planner) -> None:
    own = {"epochs": [1, 2]}
    made = plan_tiny({"attack": ATTACK, "surrogates": own, "cases": {"kind": "outlier", "count": 1}})
    same = plan_tiny({"surrogates": own, "cases": {"kind": "outlier", "count": 1}})
    assert by_label(made)["case 0"].key == by_label(same)["case 0"].key, "the same cases as of gradient matching"
    assert "pretrained" in by_label(made)["unroll case 0 restart 0 step 1 network 0"].inputs
    assert "pretrained" not in by_label(made)["unroll case 0 restart 0 step 1 network 1"].inputs, "it has come to T"


def test_a_run_goes_from_the_experiment_to_its_summary(run: Run, tmp_path: Path) -> None:
    found = {}
    for variant, count in (("all", 15), ("some", 6)):
        folder = tmp_path / variant
        run.store.fetch(run.manifests[run.plan.summaries[variant].key], folder)
        (row,) = json.loads((folder / "summary.json").read_text())["cases"]
        assert row["poisons"] == count and row["brew_loss"] >= 0
        assert (folder / "brew-loss.png").stat().st_size > 1000
        own = [key for key, of in run.plan.variants.items() if of == variant]
        (select,) = (key for key in own if run.plan.steps[key].stage == "select")
        run.store.fetch(run.manifests[select], folder / "poisons")
        found[variant] = poisons.load(folder / "poisons")
    whole, part = found["all"], found["some"]
    assert whole.info["eps"] == 32
    assert {*part.ids.tolist()} < {*whole.ids.tolist()}


def test_a_part_of_the_poisons_needs_no_crafting_anew(run: Run) -> None:
    stages = [step.stage for key, step in run.plan.steps.items() if run.plan.variants[key] == "some"]
    assert "unroll" not in stages and stages.count("adapt") == 1


def test_steps_are_as_large_as_planned(run: Run) -> None:
    planned = sizes(run.plan, run.experiments)
    for key, step in run.plan.steps.items():
        if step.stage == "unroll" or (step.stage == "adapt" and step.params.step == 1):  # type: ignore[attr-defined]
            assert planned[key] == pytest.approx(sum(blob.size for blob in run.manifests[key].blobs), abs=2500)
            assert planned[key] > 10_000


def test_the_steps_of_a_crafting_are_of_few_kinds(run: Run) -> None:
    """What the time of an epoch that was measured is worth for the others."""
    kinds: dict[str, set[bytes]] = {"unroll": set(), "adapt": set()}
    for sample in samples(run.store):
        if sample.kind.stage in kinds:
            kinds[sample.kind.stage].add(sample.kind.params)
    assert {stage: len(found) for stage, found in kinds.items()} == {"unroll": 1, "adapt": 2}


def test_the_work_of_an_epoch_is_its_training_and_its_looks_ahead(plan_tiny: Planner) -> None:
    made = plan_tiny({"attack": ATTACK | {"budget": 0.99}, "surrogates.count": 1})
    key = next(key for key, step in made.steps.items() if step.stage == "prepare")
    works = Works(made.steps, {key: Data(300, 100, (8, 8, 1), 10)}, {})
    work = works.of(by_label(made)["unroll case 0 restart 0 step 1 network 0"])
    _, once = operations(Network(name="convnet", depth=3, width=4), (8, 8, 1), 10)
    assert work.parts == 3 and work.passes == pytest.approx(3 * (1 + 4)), "3 batches, all with poisons, and K = 2"
    assert work.operations == pytest.approx(work.passes * 128 * once)
    assert works.of(by_label(made)["adapt case 0 restart 0 step 1"]).bytes > 0


REFUSED = {
    r"attack\.color: the images of digits have 1 channel": {"attack": {"kind": "metapoison", "budget": 0.05}},
    r"attack\.learning_rate is missing: .* not that of adam": {"attack": ATTACK, "training": {"optimizer": "adam"}},
    r"network\.weights: the networks of metapoison are trained from random weights": {
        "attack": ATTACK,
        "network": {"name": "torchvision/resnet18", "weights": "DEFAULT"},
        "victims": {"count": 1, "network": {"name": "resnet18"}},
    },
    r"attack\.learning_rate is missing: the surrogates' schedule warms up": {
        "attack": ATTACK,
        "training": {"schedule": {"kind": "cosine", "warmup": 0.3}},
    },
    r"cases are outlier, and all networks of metapoison begin at random weights": {
        "attack": ATTACK,
        "cases": {"kind": "outlier", "count": 1},
    },
    r"victims\.setting is fine-tuning, but the networks of metapoison": {
        "attack": ATTACK,
        "surrogates": {"count": 2},
        "victims": {"count": 1, "setting": {"kind": "fine-tuning"}},
    },
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_crafted_is_refused_before_any_compute(message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepare_experiment(parse(TINY | REFUSED[message], "tiny"))


def test_a_report_says_what_was_sought() -> None:
    asked_for = dict(asked(parse(META, "tiny").model_dump(mode="json")))
    assert asked_for["attack"] == "metapoison, eps 32/255, budget 5 %"
    assert asked_for["brewing"] == "1 restart of 2 steps, carlini-wagner"


def test_the_published_setting_has_1440_epochs_a_case() -> None:
    (experiment,) = load_experiments("metapoison-scratch", ["cases.count=1"]).values()
    made = plan_of({"": experiment})
    counts = {stage: len(steps) for stage, steps in made.by_stage()}
    assert (counts["unroll"], counts["adapt"], counts["pretrain"]) == (24 * 60, 61, 23)
