"""What is collected of a run is what its steps left: the summary's own figures; of an unfinished run, what is there."""

import json

import pytest

from pipeline.report.collect import collect
from pipeline.runs import planned
from pipeline.store import Store, open_store
from stages.config import InputError
from tiny_pipeline import Finished


def test_the_figures_are_the_summarys_own(two_variants):
    found = collect(open_store(two_variants.store), two_variants.run)
    assert [variant.name for variant in found.variants] == ["eps-8", "eps-32"]
    for variant in found.variants:
        told = two_variants.result["variants"][variant.name]
        figures = variant.figures()
        for row, expected in zip(figures["cases"], told["cases"], strict=True):
            for name in row:
                assert row[name] == expected[name], name
        for name, expected in told["summary"].items():
            assert figures["summary"][name] == expected | {"known": 2}


def test_all_curves_are_there(two_variants):
    found = collect(open_store(two_variants.store), two_variants.run)
    for variant in found.variants:
        assert {kind: len(networks) for kind, networks in variant.trained.items()} == {
            "surrogate": 1,
            "poisoned": 4,
            "clean": 2,
        }
        for networks in variant.trained.values():
            assert all(len(curves["loss"]) == 2 for curves in networks.values())
        assert all(len(curves["alignment"]) == 2 for curves in variant.trained["poisoned"].values())
        assert not any("alignment" in curves for curves in variant.trained["clean"].values())
        for case in variant.cases:
            assert {restart: len(losses) for restart, losses in case.restarts.items()} == {0: 3, 1: 3}
            assert case.chosen in (0, 1) and case.B is not None
            assert case.gallery is not None and len(case.gallery.poisons) == 12


def test_a_step_of_another_run_is_cached(two_variants, finished: Finished):
    found = collect(open_store(two_variants.store), two_variants.run)
    before = {step["key"] for step in planned(open_store(finished.store), finished.result["run"])}
    assert {step.key for step in found.steps if step.cached} == before & {step.key for step in found.steps} != set()
    assert all(step.seconds is not None and step.host and step.started for step in found.steps)
    assert not any(step.cached for step in collect(open_store(finished.store), finished.result["run"]).steps)
    shared = [step.label for step in found.steps if step.variants == ("eps-8", "eps-32")]
    assert "pretrain surrogate 0" in shared and "retrain clean victim 1" in shared
    assert {step.variants for step in found.steps if step.stage == "brew"} == {("eps-8",), ("eps-32",)}
    assert found.done and found.provenance is not None and found.provenance["steps"] == len(found.steps)


def test_of_an_unfinished_run_there_is_what_is_done(unfinished: Store, two_variants):
    found = collect(unfinished, two_variants.run)
    assert not found.done and found.count("done") < len(found.steps)
    first, other = found.variants[1].cases
    assert list(first.poisoned) == [0] and list(first.clean) == [0, 1]
    assert first.B is not None and first.gallery is None
    assert other.poisoned == {} and other.B is None and list(other.restarts) == [1]
    one, two = found.variants[1].figures()["cases"]
    assert one["success"] is not None and two["success"] is None and two["clean_success"] is not None
    assert two["poisons"] == one["poisons"]
    summary = found.variants[1].figures()["summary"]["poison_success"]
    assert summary["known"] == 1 and summary["cases"] == 2 and summary["se"] is None


def test_a_run_that_is_not_there_is_told_with_the_nearest(finished: Finished):
    with pytest.raises(InputError, match=f"did you mean '{finished.result['run']}'"):
        collect(open_store(finished.store), finished.result["run"][:-1])


def test_nothing_done_at_all_is_a_run_too(finished: Finished, tmp_path):
    store = open_store(tmp_path / "empty")
    source = open_store(finished.store)
    run = finished.result["run"]
    for name in ("plan.json", "experiment.yaml"):
        store.write_run(run, name, source.read_run(run, name) or b"")
    found = collect(store, run)
    assert found.provenance is None and {step.state for step in found.steps} == {"left"}
    assert found.variants[0].figures()["summary"]["poison_success"]["mean"] is None
    assert json.dumps(found.variants[0].figures())


def test_a_plan_of_an_older_brewline_is_refused(two_variants, tmp_path):
    store = open_store(tmp_path)
    steps = [{**step} for step in planned(open_store(two_variants.store), two_variants.run)]
    for step in steps:
        step.pop("variant", None)
    store.write_run("old", "plan.json", json.dumps(steps).encode())
    with pytest.raises(InputError, match="run old is an older brewline's"):
        collect(store, "old")
