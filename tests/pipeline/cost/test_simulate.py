"""Schedules whose length and price can be worked out by hand, and what holds for every schedule."""

import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cost.prices import Prices
from pipeline.cost.room import Demand
from pipeline.cost.simulate import Job, critical_path, lengthened, simulate

ONE = Demand((("CPU", 1.0),))


def on(*, idle_minutes: float = 0, **nodes: dict[str, Any]) -> Prices:
    """Prices of these nodes; a node has one CPU, where nothing is said, and costs 3,600 an hour: 1 a second."""
    common = {"resources": {"CPU": 1}, "price_per_hour": 3600, "gpu": "A100"}
    kinds = {name: common | fields for name, fields in nodes.items()}
    return Prices.model_validate({"currency": "X", "nodes": kinds, "idle_minutes": idle_minutes})


def job(seconds: float, *needs: int, demand: Demand = ONE, kinds: Sequence[str] = ("a",), stage: str = "brew") -> Job:
    return Job(stage, needs, demand, dict.fromkeys(kinds, seconds))


@pytest.mark.parametrize(("k", "nodes", "cpus"), [(1, 1, 1), (10, 1, 4), (10, 2, 2), (12, 3, 4), (3, 5, 1)])
def test_equal_steps_go_in_rounds(k: int, nodes: int, cpus: int) -> None:
    found = simulate([job(7.0)] * k, on(a={"count": nodes, "resources": {"CPU": cpus}}))
    assert found.seconds == 7 * -(-k // (nodes * cpus))
    assert [node.stop - node.start for node in found.nodes] == [found.seconds] * nodes


def test_a_chain_takes_the_sum_however_many_nodes() -> None:
    chain = [job(float(n), *([n - 1] if n else [])) for n in range(6)]
    assert simulate(chain, on(a={"count": 9})).seconds == critical_path(chain) == 15
    assert simulate([], on(a={"count": 9})).seconds == critical_path([]) == 0


def test_stages_with_different_resources_do_not_wait_for_each_other() -> None:
    gpu = Demand((("CPU", 1.0),), gpus=1)
    prices = on(a={"count": 1, "resources": {"CPU": 2}}, g={"count": 2, "resources": {"CPU": 1, "GPU": 1}})
    small = [job(10, kinds="ag", stage="shard")] * 4
    large = [job(100, demand=gpu, kinds="g", stage="brew")] * 3
    assert simulate([*large, *small], prices).seconds == 200
    # The CPU-only node is filled first, so the GPUs are free for those that came later.
    assert simulate([*small[:2], *large[:2]], prices).seconds == 100


@pytest.mark.parametrize(("gpus", "at_once"), [(0.25, 8), (0.5, 4), (0.6, 2), (1, 2), (2, 1)])
def test_fractions_share_a_gpu_and_never_span_two(gpus: float, at_once: int) -> None:
    demand = Demand((("CPU", 1.0),), gpus=gpus)
    found = simulate([job(10, demand=demand)] * 8, on(a={"count": 1, "resources": {"CPU": 64, "GPU": 2}}))
    assert found.seconds == 10 * 8 / at_once


def test_workers_take_their_places_at_once() -> None:
    pair = Demand((("CPU", 1.0),), workers=2)
    jobs = [job(10), job(5, demand=pair), job(1)]
    # The pair waits until both nodes are free together; the short step passes it meanwhile.
    assert simulate(jobs, on(a={"count": 2})).seconds == 15
    slow = Job("retrain", (), pair, {"a": 5, "b": 50})
    assert simulate([slow], on(a={"count": 1}, b={"count": 1})).seconds == 50, "the slowest worker is waited for"


def test_what_became_ready_first_begins_first() -> None:
    # Two chains of a long and a short step on one node: by order of readiness a, b, then what a, b made ready.
    jobs = [job(3, stage="shard"), job(4, stage="prepare"), job(1, 0), job(1, 1)]
    found = simulate(jobs, on(a={"count": 1}))
    assert found.seconds == 9
    assert dict(found.nodes[0].shares) == {"shard": 3, "prepare": 4, "brew": 2}


def test_an_autoscaler_starts_what_is_needed_and_stops_what_is_idle() -> None:
    prices = on(idle_minutes=1, a={"max": 3, "start_minutes": 2})
    found = simulate([job(600), job(60)], prices)
    assert found.seconds == 120 + 600, "a node starts for each, and no third"
    assert sorted(node.stop - node.start for node in found.nodes) == [120 + 60 + 60, 120 + 600 + 60]
    late = simulate([job(600), job(30, 0)], prices)
    assert (len(late.nodes), late.seconds) == (1, 120 + 630)
    with_one_up = simulate([job(600)] * 2, on(idle_minutes=1, a={"min": 1, "max": 3, "start_minutes": 0}))
    assert sorted(node.stop - node.start for node in with_one_up.nodes) == [600, 660], "min stays to the end"


def test_the_cheapest_node_that_can_take_a_step_is_started() -> None:
    dear, cheap = {"max": 2, "price_per_hour": 9}, {"max": 1, "price_per_hour": 2}
    found = simulate([job(5, kinds="abc")] * 3, on(a=dear, b=cheap, c={"max": 9, "resources": {"CPU": 0.5}}))
    assert sorted(node.kind for node in found.nodes) == ["a", "a", "b"]


def test_interruptions_cost_half_an_interval_and_a_restart_each() -> None:
    assert lengthened(3600, 600, 100, per_hour=2) == 3600 + 2 * (300 + 100)
    assert lengthened(3600, 1e9, 100, per_hour=1) == 3600 + 1800 + 100, "half of a step that keeps no checkpoint"
    assert lengthened(3600, 600, 100, per_hour=0) == 3600


@st.composite
def graphs(draw: st.DrawFn) -> list[Job]:
    jobs: list[Job] = []
    for number in range(draw(st.integers(1, 25))):
        needs = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        demand = Demand(
            (("CPU", draw(st.sampled_from([0.5, 1.0, 2.0]))),),
            gpus=draw(st.sampled_from([0, 0, 0.5, 1])),
            workers=draw(st.sampled_from([1, 1, 2])),
        )
        kinds = "g" if demand.gpus else "cg"
        seconds = {kind: draw(st.integers(1, 500)) for kind in kinds}
        jobs.append(Job("brew", tuple(sorted(needs)), demand, seconds))
    return jobs


@settings(deadline=None, max_examples=150)
@given(
    graphs(),
    st.sampled_from([{"count": 1}, {"min": 1, "max": 2}, {"max": 2}]),
    st.sampled_from([0, 1, 5]),
    st.sampled_from([0, 0.1, 5]),
)
def test_every_schedule_is_possible(jobs: list[Job], many: dict[str, int], start: float, idle: float) -> None:
    gpu = {"resources": {"CPU": 4, "GPU": 2}, "start_minutes": start, **many}
    prices = on(idle_minutes=idle, c={"count": 1, "resources": {"CPU": 4}}, g=gpu)
    found = simulate(jobs, prices)
    assert simulate(jobs, prices) == found
    assert found.seconds >= critical_path(jobs)
    last = 60 * start * len(jobs) + sum(max(j.seconds.values()) for j in jobs)
    assert found.seconds <= last, "never slower than one after another, each with a node of its own"
    paid = {kind: sum(n.stop - n.start for n in found.nodes if n.kind == kind) for kind in "cg"}
    gpu_seconds = sum(
        j.seconds[on] * j.demand.gpus * j.demand.workers for j, on in zip(jobs, found.ran_on, strict=True)
    )
    assert gpu_seconds <= 2 * paid["g"] + 1e-6
    assert paid["c"] == found.seconds


def test_100000_steps_take_seconds() -> None:
    prices = on(
        c={"count": 4, "resources": {"CPU": 16}},
        g={"max": 100, "start_minutes": 3, "resources": {"CPU": 8, "GPU": 4}},
    )
    half = Demand((("CPU", 1.0),), gpus=0.5)
    jobs: list[Job] = []
    for i in range(25_000):
        first = len(jobs)
        jobs += [
            job(20 + i % 7, kinds="cg"),
            job(500 + i % 13, first, demand=half, kinds="g"),
            job(900 + i % 11, first + 1, demand=half, kinds="g"),
            job(5, first + 2, kinds="cg"),
        ]
    began = time.monotonic()
    found = simulate(jobs, prices)
    assert time.monotonic() - began < 30, "2 s on one core; generous for a busy machine"
    least = 25_000 * 1400 / (100 * 4 / 0.5)
    assert least < found.seconds < 1.1 * least
