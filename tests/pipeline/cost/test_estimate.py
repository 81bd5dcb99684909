"""What a plan is said to cost, against what a run took, and through the command."""

import json
import subprocess
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cost.estimate import Estimate, estimate
from pipeline.cost.prices import Prices
from pipeline.cost.simulate import lengthened
from pipeline.experiment_file import parse
from pipeline.plan import Plan
from pipeline.sizes import sizes
from pipeline.store import Store, open_store
from stages.config import InputError

SAMPLE = Path(__file__).parents[3] / "cluster" / "prices.yaml"
FACTOR = 2
"""How far the schedule of a tiny run may be from the run: its steps take tenths of a second, on a busy machine."""
Brewline = Callable[..., subprocess.CompletedProcess[str]]


def prices(*, around: float = 0, node: Mapping[str, Any] | None = None, **more: Any) -> Prices:
    """One node of two CPUs for 1 an hour, and `more`."""
    common = {"count": 1, "resources": {"CPU": 2}, "price_per_hour": 1, **(node or {})}
    assumptions = {"seconds_around_step": around}
    return Prices.model_validate({"currency": "USD", "nodes": {"n": common}, "assumptions": assumptions, **more})


@pytest.fixture
def cost(plan_tiny: Callable[[Mapping[str, Any]], Plan], tiny: dict[str, Any]) -> Callable[..., Estimate]:
    """Estimates the tiny experiment; all of it, or what `needed` names."""

    def of(
        given: Prices, store: Store, needed: set[str] | None = None, runtime: Mapping[str, Any] | None = None
    ) -> Any:
        tiny["runtime"] |= runtime or {}
        plan, asked = plan_tiny({}), {"": parse(tiny, "tiny")}
        wanted = set(plan.steps) if needed is None else needed
        return estimate(plan, asked, given, store, wanted, sizes(plan, asked))

    return of


def test_measured_rates_give_the_time_that_the_run_took(cost: Callable[..., Estimate], finished: Any) -> None:
    store = open_store(finished.store)
    facts = [manifest.provenance for manifest in store.manifests()]
    began = [datetime.fromisoformat(fact["started"]).timestamp() for fact in facts]
    ended = [start + fact["seconds"] for start, fact in zip(began, facts, strict=True)]
    span = max(ended) - min(began) + 1  # starts are whole seconds
    found = cost(prices(around=0.3), store)
    assert {name for row in found.stages for name in row.sources} == {"measured"}
    assert span / FACTOR < found.hours * 3600 < span * FACTOR
    assert found.critical_path_hours <= found.hours


def test_what_is_cached_costs_nothing(cost: Callable[..., Estimate], finished: Any) -> None:
    found = cost(prices(), open_store(finished.store), needed=set())
    assert (found.hours, found.money, found.gpu_hours, found.written_gb, found.low) == (0, 0, 0, 0, None)
    assert sum(row.steps for row in found.stages) == 12 and not any(row.to_run for row in found.stages)


def test_all_money_is_that_of_a_stage_or_idle(cost: Callable[..., Estimate], tmp_path: Path) -> None:
    found = cost(prices(node={"price_per_hour": 7}), open_store(tmp_path))
    assert found.money == pytest.approx(7 * found.hours)
    assert found.money == pytest.approx(sum(row.money for row in found.stages) + found.idle_money)
    assert found.idle_money > 0 and found.node_hours == {"n": found.hours}
    taken = sum(row.seconds * row.to_run for row in found.stages) / 3600
    assert found.utilisation == {"CPU": pytest.approx(taken / (2 * found.hours))}
    assert sum(row.gpu_hours for row in found.stages) == found.gpu_hours == 0
    assert {name for row in found.stages for name in row.sources} == {"assumed"}


def test_stated_rates_give_a_time_that_can_be_worked_out(cost: Callable[..., Estimate], tmp_path: Path) -> None:
    names = ("prepare", "pretrain", "case", "brew", "select", "export", "retrain", "evaluate", "summarize")
    found = cost(prices(around=1, rates=dict.fromkeys(names, 9)), open_store(tmp_path))
    # One after another: prepare, pretrain, two brews at once, select, export, retrain, evaluate, summarize.
    assert found.critical_path_hours * 3600 == pytest.approx(8 * 10)
    assert found.hours * 3600 == pytest.approx(9 * 10), "two CPUs: pretrain, a clean victim and the case are three"
    assert {row.seconds for row in found.stages} == {10}
    assert "stated: the prices file's rates" in found.table()


def test_the_spread_is_that_of_the_measurements(cost: Callable[..., Estimate], finished: Any, tmp_path: Path) -> None:
    measured = cost(prices(), open_store(finished.store))
    assert measured.low is not None and measured.high is not None
    assert measured.low.hours <= measured.hours <= measured.high.hours
    assert measured.low.money < measured.high.money
    assert measured.spread_unknown == 6, "prepare, pretrain, case, select, export, summarize: one of each"
    assert "6 steps have no known spread" in measured.table()
    assert "no rate has a known spread" in cost(prices(), open_store(tmp_path)).table()


def test_spot_nodes_lengthen_steps_by_the_formula(cost: Callable[..., Estimate], tmp_path: Path) -> None:
    store, rates = open_store(tmp_path), {"retrain": 400, "export": 400}
    spot = prices(rates=rates, node={"spot": True, "interruptions_per_hour": 3, "start_minutes": 2})
    calm, rough = (
        {row.stage: row.seconds for row in cost(given, store).stages} for given in (prices(rates=rates), spot)
    )
    assert rough["retrain"] == pytest.approx(lengthened(400, 400 / 6, 120, 3)), "a checkpoint after each of six batches"
    assert rough["export"] == pytest.approx(lengthened(400, 400, 120, 3)), "no checkpoint at all"
    assert calm["retrain"] == 400


def test_gpu_hours_and_fractions(cost: Callable[..., Estimate], tmp_path: Path) -> None:
    runtime = {"device": "auto", "stages": {"retrain": {"gpus": 0.5}, "pretrain": {"workers": 2, "gpus": 1}}}
    given = prices(node={"resources": {"CPU": 8, "GPU": 2}, "gpu": "L4"}, rates={"retrain": 100, "pretrain": 60})
    found = {row.stage: row for row in cost(given, open_store(tmp_path), runtime=runtime).stages}
    assert found["retrain"].gpu_hours == pytest.approx(2 * 100 * 0.5 / 3600)
    assert found["pretrain"].gpu_hours == pytest.approx(60 * 2 / 3600)
    assert found["export"].gpu_hours == 0


def test_a_step_without_a_node_is_named(cost: Callable[..., Estimate], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a step of stage retrain takes 64 CPU, and the largest node .* has 2"):
        cost(prices(), open_store(tmp_path), runtime={"stages": {"retrain": {"cpus": 64}}})


def test_imagenet_is_priced_without_data_and_without_a_store(brewline: Brewline, tmp_path: Path) -> None:
    places = {"BREWLINE_DATA": str(tmp_path / "data"), "BREWLINE_STORE": str(tmp_path / "store")}
    done = brewline("plan", "witches-brew-imagenet", "--cost", SAMPLE, "--json", **places)
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    found = {row["stage"]: row for row in last["cost"]["stages"]}
    assert {tuple(row["sources"]) for row in found.values()} == {("assumed",)}
    assert last["steps"] == {"total": 591, "cached": 0, "to_run": 591}
    assert (found["retrain"]["steps"], found["brew"]["to_run"]) == (21, 160)
    # ResNet-18, 40 epochs of 1.28 million images: hours a victim on an L4, and not weeks.
    assert 3600 < found["retrain"]["seconds"] < 7 * 86_400
    assert last["cost"]["critical_path_hours"] < last["cost"]["hours"] < last["cost"]["gpu_hours"]
    lines = done.stdout[done.stdout.index("stage              steps") :].splitlines()
    ends = {len(line) for line in lines[:14]}
    assert len(ends) == 1, "the money of every row ends in one column"
    assert f"{last['cost']['money']:,.2f} USD" in done.stdout and "not list prices" in done.stdout


def test_bad_prices_are_told_before_anything_is_planned(brewline: Brewline, tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(yaml.safe_dump({"currency": "USD", "nodes": {"n": {"cuont": 1}}}))
    done = brewline("plan", "no-such-experiment", "--cost", file, "--store", tmp_path / "store")
    assert done.returncode == 2 and not done.stdout
    assert str(file) in done.stderr and "did you mean 'count'?" in done.stderr
    assert not (tmp_path / "store").exists()


def test_a_plan_without_prices_ends_with_json_too(brewline: Brewline, finished: Any, tiny_file: Path) -> None:
    done = brewline("plan", tiny_file, "--json", "--store", finished.store)
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["steps"], last["cost"]) == ({"total": 12, "cached": 12, "to_run": 0}, None)
