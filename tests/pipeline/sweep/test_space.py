"""What a sweep file may say, and what is suggested from it."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.experiment_file import named_experiments
from pipeline.sweep.base import Sweep
from pipeline.sweep.space import check_space, corners, grid
from pipeline.sweep.spec import METRICS, Spec, load_spec, named_sweeps
from pipeline.sweep.suggest import Suggester
from pipeline.sweep.trials import Trial
from stages import evaluate
from stages.config import InputError

PLAIN: dict[str, Any] = {
    "name": "plain",
    "experiment": "quickstart",
    "space": {"attack.eps": {"choice": [8, 16]}, "attack.steps": {"integers": [2, 3]}},
}


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(**changes: Any) -> Path:
        file = tmp_path / "sweep.yaml"
        file.write_text(yaml.safe_dump({**PLAIN, **changes}, sort_keys=False))
        return file

    return write


def test_a_grid_is_all_combinations_the_last_parameter_fastest() -> None:
    spec = Spec.model_validate(PLAIN)
    assert [tuple(one.values()) for one in grid(spec, {}, everything=True)] == [(8, 2), (8, 3), (16, 2), (16, 3)]
    assert list(corners(spec, {})) == grid(spec, {}, everything=True)


def test_a_parameter_is_there_when_others_are_as_it_says() -> None:
    space = {
        "attack.derivative.kind": {"choice": ["finite-difference", "double-backward"]},
        "attack.derivative.h_rel": {"choice": [0.1, 0.01], "when": {"attack.derivative.kind": "finite-difference"}},
        "attack.steps": {"integers": [1, 2], "when": {"network.width": [16, 32]}},
    }
    spec, base = Spec.model_validate({**PLAIN, "space": space}), {"network": {"width": 32}}
    found = grid(spec, base, everything=True)
    assert len(found) == 3 * 2
    assert all(("attack.derivative.h_rel" in one) == (one["attack.derivative.kind"][0] == "f") for one in found)
    assert not any("attack.steps" in one for one in grid(spec, {"network": {"width": 8}}, everything=True))
    assert {tuple(one) for one in corners(spec, base)} == {tuple(one) for one in found}


def test_what_depends_on_what_is_not_there_is_not_there() -> None:
    space = {
        "attack.kind": {"choice": ["gradient-matching", "external"]},
        "attack.format": {"choice": ["npz", "folder"], "when": {"attack.kind": "external"}},
        "attack.eps": {"choice": [4, 8], "when": {"attack.format": "npz"}},
    }
    spec = Spec.model_validate({**PLAIN, "space": space})
    found = grid(spec, {"attack": {"kind": "gradient-matching"}}, everything=True)
    assert [len(one) for one in found] == [1, 3, 3, 2]


def test_a_condition_sees_into_a_mapping_that_was_chosen() -> None:
    both = [{"kind": "gradient-matching"}, {"kind": "external", "eps": None}]
    space = {"attack": {"choice": both}, "attack.eps": {"choice": [4, 8], "when": {"attack.kind": "external"}}}
    spec = Spec.model_validate({**PLAIN, "space": space})
    base = {"attack": {"kind": "gradient-matching", "eps": 16}}
    check_space(spec, base)
    found = grid(spec, base, everything=True)
    assert [one.get("attack.eps") for one in found] == [None, 4, 8]


def test_importance_takes_enough_trials_for_its_parameters() -> None:
    space = {name: {"uniform": [0, 1]} for name in "abc"}
    spec = Spec.model_validate({**PLAIN, "space": space, "searcher": {"kind": "random"}, "budget": {"trials": 12}})
    suggester = Suggester(spec, {})
    for number in range(12):
        found = suggester.ask()
        assert found is not None
        assert suggester.importance() is None
        suggester.tell(Trial(number, found, "done", figures={"poison_success": found["b"]}))
    found = suggester.importance()
    assert found is not None and max(found, key=found.__getitem__) == "b"


KINDS = {
    "choice": {"choice": ["a", None, [1, 2], 0.5]},
    "uniform": {"uniform": [-1, 3]},
    "log_uniform": {"log_uniform": [1e-4, 1]},
    "integers": {"integers": [-3, 3]},
}


@pytest.mark.parametrize("kind", ["random", "optuna"])
@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_suggestions_are_of_the_space_and_the_same_from_the_same_seed(kind: str, name: str, seed: int) -> None:
    space = {"x": KINDS[name], "y": {"grid": [1, 2, 3]}}
    spec = Spec.model_validate(
        {**PLAIN, "space": space, "searcher": {"kind": kind, "seed": seed}, "budget": {"trials": 9}}
    )
    one, two = Suggester(spec, {}), Suggester(spec, {})
    drawn = [one.ask() for _ in range(9)]
    assert drawn == [two.ask() for _ in range(9)]
    assert [settings["y"] for settings in drawn if settings] == [1, 2, 3] * 3, "each value of a grid in turn"
    parameter = spec.space["x"]
    for found in drawn:
        assert found is not None
        if parameter.choice:
            assert found["x"] in [list(value) if isinstance(value, tuple) else value for value in parameter.choice]
        else:
            low, high = parameter.ends
            assert low <= found["x"] <= high
            assert isinstance(found["x"], int) == (name == "integers")


def test_a_mapping_that_was_chosen_stays_as_it_was_given() -> None:
    both = [{"kind": "gradient-matching"}, {"kind": "external", "eps": None}]
    when = {"when": {"attack.kind": "external"}}
    space = {"attack": {"choice": both}, "attack.eps": {"choice": [4, 8], **when}, "x": {"choice": [1, 2], **when}}
    spec = Spec.model_validate({**PLAIN, "space": space})
    base = {"attack": {"kind": "gradient-matching", "eps": 16}}
    suggester = Suggester(spec, base)
    found = [suggester.ask() for _ in range(6)]
    assert [one and one["attack"] for one in found] == [both[0]] + 4 * [both[1]] + [None]
    assert list(corners(spec, base)) == found[:5]


def test_optuna_looks_where_it_was_good() -> None:
    spec = Spec.model_validate(
        {**PLAIN, "space": {"x": {"uniform": [0, 1]}}, "searcher": {"kind": "optuna"}, "budget": {"trials": 60}}
    )
    suggester, drawn = Suggester(spec, {}), []
    for number in range(60):
        found = suggester.ask()
        assert found is not None
        drawn.append(abs(found["x"] - 0.8))
        suggester.tell(Trial(number, found, "done", figures={"poison_success": -drawn[-1]}))
    assert sum(drawn[40:]) < sum(drawn[:20]) / 2
    assert suggester.importance() == {"x": 1.0}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "another version": ({"format": 2}, "format is 2, expected 1: it was written for another version"),
    "an unknown field": ({"serchers": {}}, "unknown field 'serchers', did you mean 'searcher'"),
    "an unknown metric": (
        {"metrics": ["poison_sucess"]},
        r"'poison_sucess', did you mean 'poison_success'\?$",
    ),
    "no budget": ({"budget": {"trials": 0}}, r"budget\.trials: .* greater than or equal to 1, found 0"),
    "no hours": ({"budget": {"hours": 0}}, r"budget\.hours: .* greater than 0, found 0"),
    "an empty space": ({"space": {}}, "space: expected 1 at least, found none"),
    "no values": ({"space": {"attack.eps": {"choice": []}}}, r"space\.attack\.eps: choice is empty"),
    "two kinds": ({"space": {"x": {"choice": [1], "grid": [2]}}}, "give one of .* found choice and grid"),
    "an interval the wrong way": (
        {"space": {"x": {"uniform": [2, 1]}}},
        "uniform is .2, 1.; expected .* smaller one",
    ),
    "a logarithm of 0": ({"space": {"x": {"log_uniform": [0, 1]}}}, "log_uniform .* expected numbers above 0"),
    "a grid without end": ({"space": {"x": {"uniform": [0, 1]}}}, "x has endlessly many values"),
    "no end": ({"searcher": {"kind": "random"}}, "never ends by itself; give budget.trials"),
    "both": ({"settings": {"attack.eps": 4}}, "attack.eps stands in settings and in space"),
    "a field without results": (
        {"space": {"runtime.cpus": {"choice": [1, 2]}}},
        "runtime.cpus, which changes no result",
    ),
    "one in another's place": (
        {"settings": {"attack.steps": 4}, "space": {"attack": {"choice": [{}]}}},
        "attack takes the place of attack.steps, which is set before it; keep one",
    ),
    "too many combinations": (
        {"space": {"attack.eps": {"integers": [1, 255]}, "attack.steps": {"integers": [1, 10**12]}}},
        "space has 255,000,000,000,000 combinations to try, and 100,000 are the most",
    ),
    "no list": ({"metrics": "brew_loss"}, "metrics: expected a list, found 'brew_loss'"),
    "an unknown searcher": ({"searcher": {"kind": "optunna"}}, "did you mean 'optuna'"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_file_is_said(written: Any, name: str) -> None:
    changes, message = BAD[name]
    with pytest.raises(InputError, match=message):
        load_spec(written(**changes))


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown parameter": ({"space": {"attack.epps": {"choice": [1]}}}, "unknown field 'epps', did you mean 'eps'"),
    "values out of range": (
        {"space": {"attack.eps": {"choice": [8, 300]}}},
        "{'attack.eps': 300}, which is no experiment",
    ),
    "more than there is": ({"space": {"attack.budget": {"choice": [0.01, 0.9]}}}, "'attack.budget': 0.9}, which is no"),
    "when of nothing": (
        {"space": {"attack.eps": {"choice": [8], "when": {"atack.kind": 1}}}},
        "did you mean 'attack.kind'",
    ),
    "when of no value": (
        {"space": {"attack.eps": {"choice": [8], "when": {"attack.objective": "cosin"}}}},
        'attack.objective is never "cosin"; give values that it has',
    ),
    "when of one below": (
        {
            "space": {
                "attack.eps": {"choice": [8, 16], "when": {"attack.steps": 4}},
                "attack.steps": {"choice": [4, 8]},
            }
        },
        "attack.steps stands below it; put attack.steps above attack.eps",
    ),
    "a grid for some draws": (
        {
            "space": {
                "attack.budget": {"choice": [0.02, 0.05]},
                "attack.eps": {"grid": [8, 16], "when": {"attack.budget": 0.02}},
            },
            "searcher": {"kind": "random"},
            "budget": {"trials": 4},
        },
        "a grid goes through its values in turn",
    ),
    "a setting of nothing": ({"settings": {"attack.stps": 4}}, r"sweep\.yaml: .*\n.*'stps', did you mean 'steps'"),
    "B of what nobody brews": (
        {
            "settings": {
                "attack": {"kind": "external", "format": "arrow", "folders": ["here"], "eps": 8},
                "cases": {"kind": "random", "count": 1},
            },
            "space": {"victims.seed": {"choice": [1, 2]}},
            "metrics": ["brew_loss"],
        },
        "B is looked at, and attack external brews nothing",
    ),
    "no such experiment": ({"experiment": "quikstart"}, "did you mean 'quickstart'"),
    "a table": ({"experiment": "witches-brew-table1"}, "has variants, and a sweep has one base"),
    "one case": ({"scheduler": {}, "settings": {"cases": {"kind": "random", "count": 1}}}, "they have 1; add cases"),
    "cases in the space": (
        {"scheduler": {}, "space": {"cases.count": {"choice": [2, 3]}}},
        "asha compares trials case by case, and space has cases.count",
    ),
}


@pytest.mark.parametrize("name", named_sweeps())
def test_the_sweeps_that_ship_can_run(name: str) -> None:
    assert Sweep.load(name).spec.name == name


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_space_that_contradicts_the_experiment_is_refused(written: Any, name: str) -> None:
    changes, message = CONTRADICTIONS[name]
    with pytest.raises(InputError, match=message):
        Sweep.load(written(**changes))


def test_a_sweep_is_called_by_what_it_searches(written: Any) -> None:
    name = Sweep.load(written()).name
    assert Sweep.load(written(budget={"trials": 3}, concurrency=1)).name == name
    assert Sweep.load(written(settings={"runtime.cpus": 2})).name == name
    assert Sweep.load(written(searcher={"seed": 1})).name != name
    assert Sweep.load(written(settings={"attack.step_size": 0.5})).name != name
    turned = dict(reversed(PLAIN["space"].items()))
    assert Sweep.load(written(space=turned)).name != name, "other suggestions in another order"


class LaterSpec(Spec):
    """The sweep file of a later brewline, which has one field more."""

    patience: int = 3


def test_a_later_brewline_renames_a_sweep_when_its_results_change(
    written: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(scheduler={})
    name, later = Sweep.load(file).name, LaterSpec.model_validate(load_spec(file).model_dump())
    assert Sweep(later, file.parent).name == name
    assert Sweep(later.model_copy(update={"patience": 4}), file.parent).name != name
    monkeypatch.setattr(evaluate, "VERSION", evaluate.VERSION + 1)
    assert Sweep.load(file).name != name


def test_metrics_have_a_mode_of_their_own(written: Any) -> None:
    spec = load_spec(written(metrics=["brew_loss", {"name": "poison_success", "mode": "min"}]))
    assert [(metric.name, metric.mode) for metric in spec.metrics] == [("brew_loss", "min"), ("poison_success", "min")]
    assert set(METRICS.values()) == {"max", "min"}


def test_the_base_that_is_written_down_gives_the_trials_of_the_file(tmp_path: Path) -> None:
    """What the victims' training leaves out is as in `training`, in the file as in what is kept of it."""
    asked = yaml.safe_load(named_experiments()["quickstart"].read_text())
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**asked, "victims": {"training": {"batch_size": 32}}}))
    searched = {**PLAIN, "experiment": "own.yaml", "space": {"training.epochs": {"choice": [25, 26]}}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(searched))
    sweep = Sweep.load(tmp_path / "sweep.yaml")
    (tmp_path / "kept.yaml").write_text(yaml.safe_dump(sweep.written_base(), sort_keys=False))
    (tmp_path / "again.yaml").write_text(yaml.safe_dump({**searched, "experiment": "kept.yaml"}))
    again = Sweep.load(tmp_path / "again.yaml")
    assert again.name == sweep.name
    for epochs in (25, 26):
        settings = {"training.epochs": epochs}
        assert again.experiment(settings).victims.training == sweep.experiment(settings).victims.training
        assert again.plan(settings).run == sweep.plan(settings).run


def test_a_metric_that_an_attack_without_targets_lacks_is_refused(written: Any, tmp_path: Path) -> None:
    asked = yaml.safe_load(named_experiments()["gradient-canceling-digits"].read_text())
    del asked["variants"]
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(asked))
    searched = {"experiment": "own.yaml", "space": {"attack.eps_d": {"choice": [0.1, 0.5]}}}
    with pytest.raises(InputError, match="metrics names poison_success, and an attack without targets has none"):
        Sweep.load(written(**searched))
    assert Sweep.load(written(**searched, metrics=[{"name": "poisoned_accuracy", "mode": "min"}])).cases == 1
