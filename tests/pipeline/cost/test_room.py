"""What steps take of nodes, and what has no place on any."""

from collections.abc import Mapping
from typing import Any

import pytest

from pipeline.cost.prices import Prices
from pipeline.cost.room import Demand, check_possible, demand_of, places_on
from pipeline.experiment import Runtimes
from stages.config import InputError


def prices(*nodes: Mapping[str, float], count: int = 1) -> Prices:
    kinds = {
        str(n): {"count": count, "resources": own, "price_per_hour": 1, "gpu": "T4"} for n, own in enumerate(nodes)
    }
    return Prices.model_validate({"currency": "USD", "nodes": kinds})


def test_a_demand_is_what_the_runner_asks_ray_for() -> None:
    runtimes = Runtimes.model_validate(
        {
            "cpus": 2,
            "stages": {
                "brew": {"gpus": 0.5, "memory_gb": 4},
                "retrain": {"workers": 4},
                "shard": {"resources": {"x": 1}},
            },
        }
    )
    with_gpu, without = prices({"CPU": 8}, {"CPU": 8, "GPU": 1}), prices({"CPU": 8})
    assert demand_of("brew", runtimes, with_gpu) == Demand((("CPU", 2.0), ("memory_gb", 4.0)), 0.5)
    assert demand_of("retrain", runtimes, with_gpu) == Demand((("CPU", 2.0),), 1, workers=4)
    assert demand_of("retrain", runtimes, without) == Demand((("CPU", 2.0),), 0, workers=4)
    assert demand_of("shard", runtimes, with_gpu) == Demand((("CPU", 2.0), ("x", 1.0)))
    assert demand_of("export", Runtimes(workers=3), with_gpu).workers == 1, "only trainings have workers"


@pytest.mark.parametrize(
    ("runtime", "nodes", "told"),
    [
        ({"cpus": 9}, [{"CPU": 8}], ["stage brew takes 9 CPU", "largest node", "has 8"]),
        ({"gpus": 1}, [{"CPU": 8}], ["stage brew takes 1 GPU", "has 0"]),
        ({"memory_gb": 4}, [{"CPU": 8}], ["stage brew takes 4 memory_gb", "has 0"]),
        ({"resources": {"big": 1}}, [{"CPU": 8}], ["stage brew takes 1 big", "has 0"]),
        # Each resource is somewhere, but not all of them on one node.
        ({"cpus": 8, "gpus": 1}, [{"CPU": 8}, {"CPU": 2, "GPU": 1}], ["stage brew takes 1 × ", "room for 0"]),
        ({"device": "cuda"}, [{"CPU": 8}], ["runtime.device of stage brew is cuda", "no node"]),
    ],
)
def test_a_step_that_no_node_can_take_is_refused(
    runtime: dict[str, Any], nodes: list[dict[str, float]], told: list[str]
) -> None:
    file = prices(*nodes)
    with pytest.raises(InputError) as refused:
        check_possible({"brew": demand_of("brew", Runtimes.model_validate(runtime), file)}, file)
    assert all(text in str(refused.value) for text in told), refused.value


def test_workers_must_fit_together() -> None:
    demand = Demand((("CPU", 3.0),), workers=4)
    check_possible({"retrain": demand}, prices({"CPU": 8}, count=2))
    with pytest.raises(InputError, match=r"4 × .*room for 3"):
        check_possible({"retrain": demand}, prices({"CPU": 4}, count=3))


@pytest.mark.parametrize(("gpus", "places"), [(0.3, 6), (0.5, 4), (0.1, 16), (1, 2), (2, 1), (3, 0)])
def test_places_count_whole_gpus(gpus: float, places: int) -> None:
    node = prices({"CPU": 16, "GPU": 2}).nodes["0"]
    assert places_on(node, Demand((("CPU", 1.0),), gpus=gpus, workers=99)) == places
