"""A plan has exactly the steps that an experiment needs, shared wherever they are equal, and costs no I/O."""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pipeline.experiment_file import load_experiments, parse
from pipeline.plan import Plan, plan
from pipeline.step import Step

Planner = Callable[[Mapping[str, Any]], Plan]


def counts(made: Plan) -> dict[str, int]:
    return {stage: len(steps) for stage, steps in made.by_stage()}


@pytest.mark.parametrize(("K", "R", "V", "C"), [(1, 1, 1, 1), (2, 3, 4, 5), (6, 1, 2, 3)])
def test_step_counts(plan_tiny: Planner, K: int, R: int, V: int, C: int) -> None:
    made = plan_tiny({"surrogates.count": K, "attack.restarts": R, "victims.count": V, "cases.count": C})
    assert counts(made) == {
        "prepare": 1,
        "pretrain": K,
        "case": C,
        "brew": C * R,
        "select": C,
        "export": C,
        "retrain": V + C * V,
        "evaluate": 2 * C * V,
        "summarize": 1,
    }


def test_inputs_come_before_those_who_need_them(plan_tiny: Planner) -> None:
    made = plan_tiny({"cases.count": 3, "victims.count": 2, "cases.kind": "outlier"})
    seen: set[str] = set()
    for key, step in made.steps.items():
        assert step.key == key
        assert {ref.key for ref in step.inputs.values()} <= seen, step.label
        seen.add(key)
    needed = {ref.key for step in made.steps.values() for ref in step.inputs.values()}
    assert seen - needed == {ref.key for ref in made.summaries.values()}, "only the summary is needed by nobody"
    assert Counter(step.label for step in made.steps.values()).most_common(1)[0][1] == 1


def test_clean_victims_are_shared_and_have_the_seeds_of_the_poisoned(plan_tiny: Planner) -> None:
    made = plan_tiny({"cases.count": 3, "victims.count": 2})
    victims = [step for step in made.steps.values() if step.stage == "retrain"]
    clean = [step for step in victims if "overlay" not in step.inputs]
    assert len(clean) == 2
    assert {step.params for step in victims} == {step.params for step in clean}
    users = Counter(ref.key for step in made.steps.values() for role, ref in step.inputs.items() if role == "victim")
    assert all(users[step.key] == 3 for step in clean)


COUNTS = {
    "cases.count": ("cases.count", 1, 3),
    "attack.restarts": ("attack.restarts", 2, 3),
    "victims": ("victims.count", 1, 2),
}


@pytest.mark.parametrize("what", COUNTS)
def test_more_of_something_keeps_every_step_that_was_there(plan_tiny: Planner, what: str) -> None:
    field, few, many = COUNTS[what]
    before, after = plan_tiny({field: few}), plan_tiny({field: many})
    gone = {before.steps[key].stage for key in set(before.steps) - set(after.steps)}
    # The best of more restarts may be another, and so may all that is made of it.
    downstream = {"select", "export", "retrain", "evaluate"} if field == "attack.restarts" else set()
    assert gone == {"summarize"} | downstream
    assert len(after.steps) > len(before.steps)
    if downstream:
        clean = {key for key, step in before.steps.items() if step.label.startswith("retrain clean")}
        assert clean <= set(after.steps)


def test_the_budget_moves_what_depends_on_the_case_alone(plan_tiny: Planner) -> None:
    one, two = plan_tiny({"attack.budget": 0.05}), plan_tiny({"attack.budget": 0.06})
    kept = {one.steps[key].label for key in set(one.steps) & set(two.steps)}
    assert kept == {"prepare digits", "pretrain surrogate 0", "retrain clean victim 0"}
    brews = [next(s for s in made.steps.values() if s.stage == "brew").made_of["params"] for made in (one, two)]
    assert brews[0] == brews[1]


def test_recording_the_alignment_concerns_the_poisoned_victims_alone(plan_tiny: Planner) -> None:
    plain, told = plan_tiny({}), plan_tiny({"victims.record_alignment": True})
    changed = [step for step in told.steps.values() if step.key not in plain.steps]
    assert sorted(step.label for step in changed) == [
        "evaluate case 0 poisoned victim 0",
        "retrain case 0 victim 0",
        "summarize",
    ]
    (victim,) = (step for step in changed if step.stage == "retrain")
    assert set(victim.inputs) == {"dataset", "overlay", "case"}


def test_victims_that_start_from_a_surrogate_say_so_in_their_inputs(plan_tiny: Planner) -> None:
    changes = {"victims.setting": {"kind": "transfer", "surrogate": 1}, "surrogates.count": 2, "victims.count": 2}
    made = plan_tiny(changes)
    start = next(step for step in made.steps.values() if step.label == "pretrain surrogate 1")
    victims = [step for step in made.steps.values() if step.stage == "retrain"]
    assert len(victims) == 4 and {step.inputs["surrogate"] for step in victims} == {start.ref}
    by_label = {step.label: step for step in made.steps.values()}
    poisoned, clean = (by_label[f"evaluate case 0 {kind} victim 1"] for kind in ("poisoned", "clean"))
    assert poisoned.inputs["clean"] == clean.inputs["victim"] and {"clean", "overlay"} <= set(poisoned.inputs)
    assert set(clean.inputs) == {"dataset", "case", "victim"}
    scratch = plan_tiny({**changes, "victims.setting": {"kind": "from-scratch"}})
    assert {key for key in made.steps if made.steps[key].stage == "brew"} <= set(scratch.steps), "brews do not notice"
    external = {"kind": "external", "format": "arrow", "folders": [{"sha256": "a" * 64}], "eps": 8}
    assert counts(plan_tiny({**changes, "attack": external}))["pretrain"] == 2, "there is one to start from"


RACED = {"attack.restarts": 5, "attack.steps": 9, "attack.race": {"at": [3, 6]}}


def brews(made: Plan) -> dict[str, Step]:
    return {step.label: step for step in made.steps.values() if step.stage == "brew"}


def test_a_race_has_a_leg_of_steps_between_its_stops(plan_tiny: Planner) -> None:
    made = plan_tiny(RACED | {"cases.count": 2})
    found = brews(made)
    legs = {"restart {} steps 1-3": 5, "place {} steps 4-6": 3, "place {} steps 7-9": 2}
    wanted = [f"brew case {c} {leg.format(n)}" for c in range(2) for leg, n_of in legs.items() for n in range(n_of)]
    assert list(found) == wanted
    for before, after in pairwise(legs):
        left = [found[f"brew case 1 {before.format(n)}"].key for n in range(legs[before])]
        for n in range(legs[after]):
            step = found[f"brew case 1 {after.format(n)}"]
            assert [step.inputs[f"raced.{place}"].key for place in range(len(left))] == left
            assert f"raced.{len(left)}" not in step.inputs
    by_label = {step.label: step for step in made.steps.values()}
    ends = [f"brew case 1 place {n} steps 7-9" for n in range(2)]
    assert [ref.key for ref in by_label["select case 1"].inputs.values()] == [found[label].key for label in ends]
    summed_up = by_label["summarize"].inputs
    assert [summed_up[f"brew.1.{n}"].key for n in range(10)] == [found[label].key for label in wanted[10:]]


def test_a_race_changes_no_step_but_those_of_brewing_and_after(plan_tiny: Planner) -> None:
    """Params of restarts that are not raced say nothing of races, as before there were any."""
    unraced = {name: value for name, value in RACED.items() if name != "attack.race"}
    full, half, most = (plan_tiny(changes) for changes in (unraced, RACED, RACED | {"attack.race.keep": 0.7}))
    kept = {full.steps[key].stage for key in set(full.steps) & set(half.steps)}
    assert kept == {"prepare", "pretrain", "case", "retrain", "evaluate"}
    assert {tuple(step.made_of["params"]) for step in brews(full).values()} == {("attack", "restart")}
    assert "race" not in next(iter(brews(full).values())).made_of["params"]["attack"]
    shared = [half.steps[key].label for key in set(half.steps) & set(most.steps) if half.steps[key].stage == "brew"]
    first = [f"restart {n} steps 1-3" for n in range(5)]
    assert sorted(shared) == sorted(
        f"brew case 0 {leg}" for leg in (*first, *(f"place {n} steps 4-6" for n in range(3)))
    )


def test_a_staggered_ensemble_of_networks(plan_tiny: Planner) -> None:
    networks = [{"name": "convnet", "depth": 3, "width": 4}, {"name": "resnet20"}]
    made = plan_tiny({"surrogates": {"networks": networks, "count": 4, "epochs": [1, 2]}})
    trained = [step.made_of["params"] for step in made.steps.values() if step.stage == "pretrain"]
    assert [(params["network"]["name"], params["stop_after"]) for params in trained] == [
        ("convnet", 1),
        ("resnet20", 2),
        ("convnet", 1),
        ("resnet20", 2),
    ]
    assert len({params["seed"] for params in trained}) == 4
    brew = next(step for step in made.steps.values() if step.stage == "brew")
    assert [brew.inputs[f"surrogate.{k}"].key for k in range(4)] == [
        step.key for step in made.steps.values() if step.stage == "pretrain"
    ]


def test_variants_are_planned_as_one_and_share_what_is_equal(tiny: dict[str, Any]) -> None:
    other = tiny | {"attack": tiny["attack"] | {"eps": 8}}
    a, b = parse(tiny, "a"), parse(other, "b")
    both = plan({"a": a, "b": b})
    assert set(both.steps) == set(plan({"": a}).steps) | set(plan({"": b}).steps)
    assert counts(both) == {
        "prepare": 1,
        "pretrain": 1,
        "case": 1,
        "brew": 4,
        "select": 2,
        "export": 2,
        "retrain": 3,
        "evaluate": 3,
        "summarize": 2,
    }
    assert both.summaries["a"] != both.summaries["b"]
    assert len({both.run, plan({"": a}).run, plan({"": b}).run}) == 3


def test_the_same_experiment_is_the_same_run(tiny: dict[str, Any], plan_tiny: Planner) -> None:
    assert (
        plan({"": parse(tiny, "x")}).run
        == plan_tiny({}).run
        == plan_tiny({"description": "more", "runtime.cpus": 4}).run
    )
    assert plan_tiny({}).run.startswith("tiny-")
    assert plan_tiny({"attack.eps": 8}).run != plan_tiny({}).run


EXTERNAL = {
    "kind": "external",
    "format": "arrow",
    "folders": [{"path": "/one", "sha256": "1" * 64}, {"path": "/two", "sha256": "2" * 64}],
    "eps": 8,
}


def test_poisons_of_others_need_no_attack(plan_tiny: Planner) -> None:
    """Surrogates only where they choose the cases; victims, clean ones above all, as for our own poisons."""
    made = plan_tiny({"attack": EXTERNAL, "cases.count": 2, "surrogates.count": 3})
    own = plan_tiny({"cases.count": 2})
    after = {"export": 2, "retrain": 3, "evaluate": 4, "summarize": 1}
    assert counts(made) == {"prepare": 1, "case": 2, **after}
    outlier = plan_tiny({"attack": EXTERNAL, "cases.count": 2, "surrogates.count": 3, "cases.kind": "outlier"})
    assert counts(outlier) == {"prepare": 1, "pretrain": 3, "case": 2, **after}
    clean = {key for key, step in own.steps.items() if step.label.startswith("retrain clean")}
    assert clean <= set(made.steps)


def test_poisons_of_others_are_known_by_what_they_are_and_not_by_where_they_lie(plan_tiny: Planner) -> None:
    def exports(**changes: Any) -> list[str]:
        made = plan_tiny({"attack": EXTERNAL | changes, "cases.count": 2})
        return [step.key for step in made.steps.values() if step.stage == "export"]

    one, two = EXTERNAL["folders"]
    before = exports()
    assert exports(folders=[one | {"path": "/moved"}, two]) == before
    assert exports(eps=9)[0] != before[0]
    assert exports(format="image-folder")[0] != before[0]
    other = exports(folders=[one | {"sha256": "3" * 64}, two])
    assert other[0] != before[0] and other[1] == before[1]
    with pytest.raises(TypeError, match="prepare_experiment"):
        exports(folders=["/one", "/two"])


FILE_EVENTS = ("open", "os.listdir", "os.scandir", "os.mkdir", "socket.connect", "subprocess.Popen")


def test_a_plan_touches_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiments = load_experiments("cifar10-small", ["dataset.root=/does/not/exist"])
    plan(experiments)  # once, so that no import is counted
    monkeypatch.delenv("BREWLINE_DATA", raising=False)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    seen: list[str] = []
    watching = True

    def hook(event: str, arguments: Any) -> None:
        if watching and event in FILE_EVENTS:
            seen.append(f"{event} {arguments}")

    sys.addaudithook(hook)  # there is no way to take it out again: it stays, switched off
    try:
        made = plan(experiments)
        touched = list(seen)
        with Path(os.devnull).open():
            pass
    finally:
        watching = False
    assert touched == []
    assert seen, "the hook must see a file that is opened"
    assert len(made.steps) > 50


def test_twenty_thousand_steps_take_seconds(plan_tiny: Planner) -> None:
    plan_tiny({})
    began = time.process_time()
    made = plan_tiny({"cases.count": 210, "attack.restarts": 2, "victims.count": 32})
    seconds = time.process_time() - began
    print(f"\nplanned {len(made.steps):,} steps in {seconds:.2f} s of CPU, {len(made.steps) / seconds:,.0f} a second")
    assert len(made.steps) >= 20_000
    assert seconds < 10
