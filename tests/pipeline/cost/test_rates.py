"""Where a step's seconds come from: like steps in a real store, other steps of the stage, or assumptions."""

import json
import shutil
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.cost.prices import Prices
from pipeline.cost.rates import Kind, Rate, Rates, Sample, samples
from pipeline.cost.room import Demand
from pipeline.cost.work import Data, Work, Works
from pipeline.store import open_store
from stages.stage import STAGES

CPU, GPU = Demand((("CPU", 1.0),)), Demand((("CPU", 1.0),), gpus=1)
XEON, EPYC = "Intel Xeon, 8 cores", "AMD EPYC, 2 cores"
TERA = 10**12


def prices(**given: Any) -> Prices:
    nodes = {
        "any": {"resources": {"CPU": 8}},
        "epyc": {"resources": {"CPU": 8}, "cpu": "amd epyc"},
        "l4": {"resources": {"CPU": 8, "GPU": 1}, "gpu": "L4"},
        "own": {"resources": {"CPU": 8, "GPU": 1}, "teraflops": {"float32": 10, "tf32": 10, "bf16": 100}},
    }
    kinds = {name: {"count": 1, "price_per_hour": 1, **fields} for name, fields in nodes.items()}
    return Prices.model_validate({"currency": "USD", "nodes": kinds, **given})


OTHER_ATTACKS = {"corrupt", "cancel", "assess", "tally", "unroll", "adapt"}


def brew(operations: float, params: str = "p") -> Kind:
    return Kind("brew", params.encode(), Work(operations=operations, precision="float32"))


def test_the_samples_of_a_real_store_are_of_every_step(finished: Any) -> None:
    found = samples(open_store(finished.store))
    assert len(found) == len(list(finished.store.glob("steps/*/*.json")))
    assert {sample.kind.stage for sample in found} == set(STAGES) - {"shard", *OTHER_ATTACKS}
    restarts = [sample.kind for sample in found if sample.kind.stage == "brew"]
    assert len(restarts) == 2 and restarts[0] == restarts[1], "restarts differ in their draws alone"
    assert all(sample.hardware and not sample.gpu for sample in found)


def test_a_sample_whose_inputs_are_gone_or_of_another_version_tells_nothing(finished: Any, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(finished.store, store)
    everything = len(samples(open_store(store)))
    pretrain = next(store.glob("steps/pretrain/*.json"))
    pretrain.unlink()
    without = samples(open_store(store))
    assert len(without) == everything - 1 - 2, "it, and two restarts that used it"
    victim = next(store.glob("steps/retrain/*.json"))
    victim.write_text(json.dumps(json.loads(victim.read_text()) | {"version": 99}))
    assert len(samples(open_store(store))) < len(without)


def test_like_steps_are_measured(finished: Any) -> None:
    found = samples(open_store(finished.store))
    kind = next(sample.kind for sample in found if sample.kind.stage == "brew")
    seconds = [sample.seconds for sample in found if sample.kind == kind]
    rate = Rates(prices(), found).of(kind, "any", CPU)
    assert (rate.source, rate.n, rate.seconds) == ("measured", 2, pytest.approx(statistics.median(seconds)))
    assert rate.low is not None and rate.high is not None and min(seconds) <= rate.low <= rate.high <= max(seconds)


def test_measured_goes_before_scaled_before_assumed() -> None:
    kind, other = brew(TERA), brew(4 * TERA)
    assumed = Rates(prices(), []).of(kind, "any", CPU)
    assert assumed == Rate(pytest.approx(0.5 + TERA / 70e9), "assumed")
    four = Rates(prices(), []).of(other, "any", CPU).seconds
    slow = [Sample(other, factor * four, XEON, CPU) for factor in (2.0, 3.0, 4.0)]
    scaled = Rates(prices(), slow).of(kind, "any", CPU)
    assert (scaled.source, scaled.n) == ("scaled", 3)
    assert (scaled.seconds, scaled.low, scaled.high) == pytest.approx(
        (3 * assumed.seconds, 2.5 * assumed.seconds, 3.5 * assumed.seconds)
    )
    one = Rates(prices(), [*slow, Sample(kind, 17, XEON, CPU)]).of(kind, "any", CPU)
    assert one == Rate(17, "measured", 1), "one measurement has no spread"
    wide = Sample(kind, 17, XEON, Demand((("CPU", 2),)))
    assert Rates(prices(), [wide]).of(kind, "any", CPU).source == "scaled", "it took two CPUs, and this takes one"
    stated = Rates(prices(rates={"brew": 5}), [Sample(kind, 17, XEON, CPU)]).of(kind, "any", CPU)
    assert stated == Rate(5, "stated")


def test_a_node_that_names_its_hardware_is_told_by_that_alone() -> None:
    kind = brew(TERA)
    found = [Sample(kind, 10, XEON, CPU), Sample(kind, 30, EPYC, CPU), Sample(kind, 2, f"{XEON}, NVIDIA L4", GPU)]
    rates = Rates(prices(), found)
    assert rates.of(kind, "any", CPU) == Rate(20, "measured", 2, 15, 25), "not the one that a GPU computed"
    assert rates.of(kind, "epyc", CPU) == Rate(30, "measured", 1)
    assert rates.of(kind, "l4", GPU) == Rate(2, "measured", 1)
    assert Rates(prices(), found[:2]).of(kind, "l4", GPU).source == "assumed", "a CPU tells nothing of a GPU"


def test_gpus_are_told_from_one_another_by_their_peak() -> None:
    kind, other = brew(1000 * TERA), brew(2000 * TERA)
    rates = Rates(prices(), [])
    l4, own = rates.of(kind, "l4", GPU).seconds, rates.of(kind, "own", GPU).seconds
    assert (l4, own) == pytest.approx((0.5 + 1000 / (0.5 * 30.3), 0.5 + 1000 / (0.5 * 10)))
    # An A100 took twice what was assumed of it, so this node will as well.
    twice = 2 * (0.5 + 2000 / (0.5 * 19.5))
    scaled = Rates(prices(), [Sample(other, twice, f"{EPYC}, NVIDIA A100-SXM4-80GB", GPU)]).of(kind, "own", GPU)
    assert (scaled.source, scaled.seconds) == ("scaled", pytest.approx(2 * own))
    unknown = Rates(prices(), [Sample(other, twice, f"{EPYC}, Voodoo 2", GPU)]).of(kind, "own", GPU)
    assert unknown.source == "assumed", "a GPU of unknown speed tells nothing of another"


@pytest.mark.parametrize(
    ("demand", "faster"),
    [(Demand((("CPU", 4.0),)), 4), (Demand((("CPU", 1.0),), workers=4), 4)],
)
def test_more_cpus_and_more_workers_are_assumed_to_be_faster(demand: Demand, faster: float) -> None:
    rates, kind = Rates(prices(), []), brew(TERA)
    assert rates.of(kind, "any", CPU).seconds - 0.5 == pytest.approx(
        faster * (rates.of(kind, "any", demand).seconds - 0.5)
    )


def test_a_step_that_hardly_worked_tells_nothing_of_one_that_does() -> None:
    empty, large = Kind("select", b"1", Work(bytes=100)), Kind("select", b"1", Work(bytes=1e10))
    rates = Rates(prices(), [Sample(empty, 0.01, XEON, CPU)])
    assert rates.of(large, "any", CPU).source == "assumed"
    assert rates.of(Kind("select", b"2", Work(bytes=200)), "any", CPU).source == "scaled"


def test_params_are_alike_up_to_what_is_drawn(plan_tiny: Callable[[Mapping[str, Any]], Any], finished: Any) -> None:
    measured = samples(open_store(finished.store))
    rates = Rates(prices(), measured)

    def sources(changes: Mapping[str, Any]) -> dict[str, str]:
        plan = plan_tiny(changes)
        key = next(key for key, step in plan.steps.items() if step.stage == "prepare")
        works = Works(plan.steps, {key: Data(300, 100, (8, 8, 1), 10)}, {})
        kinds = {step.stage: Kind.of(step, works) for step in plan.steps.values()}
        return {stage: rates.of(kind, "any", CPU).source for stage, kind in kinds.items()}

    assert set(sources({}).values()) == {"measured"}
    seeds = {"attack.seed": 5, "surrogates.seed": 6, "victims.seed": 7, "cases.seed": 8, "attack.restarts": 9}
    assert {stage: s for stage, s in sources(seeds).items() if s != "measured"} == {
        "select": "scaled",
        "summarize": "scaled",
    }
    longer = sources({"attack.steps": 6, "training.epochs": 3})
    assert (longer["brew"], longer["pretrain"], longer["retrain"]) == ("scaled",) * 3
    assert longer["evaluate"] == longer["prepare"] == "measured"
