"""Prices files: the one that ships, and what is refused before anything is planned."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cost.prices import PEAKS, Assumptions, load_prices, peak_of
from stages.config import InputError

SAMPLE = Path(__file__).parents[3] / "cluster" / "prices.yaml"
Changed = Callable[[dict[str, Any]], None]


def test_the_sample_is_read_and_shows_the_defaults_as_they_are() -> None:
    prices = load_prices(SAMPLE)
    assert prices.assumptions == Assumptions()
    assert "assumed" in prices.as_of
    assert prices.resources == {"CPU": 16 * 16, "GPU": 16, "memory_gb": 32 + 16 * 120}


def node(**fields: Any) -> Changed:
    """Sets fields of the node `gpu`; None takes one away."""

    def change(data: dict[str, Any]) -> None:
        data["nodes"]["gpu"].update(fields)
        data["nodes"]["gpu"] = {name: value for name, value in data["nodes"]["gpu"].items() if value is not None}

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: data.update(curency="EUR"), ["unknown field 'curency'", "'currency'"]),
        (lambda data: data.pop("currency"), ["currency: Field required"]),
        (lambda data: data.update(nodes={}), ["nodes: ", "1 at least"]),
        (lambda data: data.update(idle_minutes=-1), ["idle_minutes", "found -1"]),
        (lambda data: data.update(rates={"brwe": 3}), ["rates.brwe", "found 'brwe', did you mean 'brew'?"]),
        (lambda data: data.update(rates={"brew": 0}), ["rates.brew", "found 0"]),
        (lambda data: data.update(assumptions={"utilization": 1}), ["assumptions: ", "'utilisation'"]),
        (lambda data: data.update(assumptions={"utilisation": {"float32": 0.5}}), ["lacks tf32, bf16"]),
        (lambda data: data.update(assumptions={"utilisation": dict.fromkeys(PEAKS["A100"], 2)}), ["found 2"]),
        (node(price_per_hour="1 USD"), ["nodes.gpu.price_per_hour", "found '1 USD'"]),
        (node(price_per_hour=float("nan")), ["nodes.gpu.price_per_hour", "finite"]),
        (node(resources={"CPU": 8, "GPUs": 1}), ["unknown resource 'GPUs', did you mean 'GPU'?"]),
        (node(resources={"cpu": 8}), ["unknown resource 'cpu', did you mean 'CPU'?"]),
        (node(resources={"CPU": 8, "memory": 16}), ["did you mean 'memory_gb'?"]),
        (node(resources={"GPU": 1}), ["a node needs CPU"]),
        (node(resources={"CPU": 8, "GPU": 0.5}), ["whole GPUs, found 0.5"]),
        (node(gpu="Voodoo 2"), ["gpu is 'Voodoo 2'", "A100", "teraflops"]),
        (node(gpu=None), ["gpu is None"]),
        (node(teraflops={"bf16": 10}), ["nodes.gpu.teraflops", "lacks float32, tf32"]),
        (node(count=None), ["either count", "max"]),
        (node(max=3), ["either count", "max"]),
        (node(min=1), ["count and min exclude each other"]),
        (node(count=None, min=3, max=2), ["min is 3, and max is 2"]),
        (node(count=0), ["nodes.gpu.count", "found 0"]),
        (node(interruptions_per_hour=0.1), ["interruptions_per_hour", "spot: true"]),
    ],
)
def test_what_is_wrong_is_named(change: Changed, told: list[str], tmp_path: Path) -> None:
    good: dict[str, Any] = {
        "currency": "USD",
        "nodes": {"gpu": {"count": 2, "resources": {"CPU": 8, "GPU": 1}, "price_per_hour": 1, "gpu": "NVIDIA A100"}},
    }
    file = tmp_path / "prices.yaml"
    file.write_text(yaml.safe_dump(good))
    assert load_prices(file).nodes["gpu"].most == 2
    change(good)
    file.write_text(yaml.safe_dump(good))
    with pytest.raises(InputError) as refused:
        load_prices(file)
    assert all(text in str(refused.value) for text in [str(file), *told]), refused.value


def test_a_file_that_is_not_there_or_no_mapping_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--cost .*nowhere.yaml: there is no such file; cluster/prices.yaml"):
        load_prices(tmp_path / "nowhere.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(InputError, match=r"list.yaml holds list; expected a mapping"):
        load_prices(tmp_path / "list.yaml")


@pytest.mark.parametrize(
    ("text", "name"),
    [("NVIDIA A100-SXM4-80GB", "A100"), ("NVIDIA L40S", "L40S"), ("NVIDIA L4", "L4"), ("Tesla T4", "T4")],
)
def test_a_gpu_is_known_by_its_name(text: str, name: str) -> None:
    assert peak_of(text) == PEAKS[name]


def test_a_gpu_is_not_taken_for_one_of_a_similar_name() -> None:
    assert peak_of("NVIDIA L40") is None and peak_of("NVIDIA A10") is None and peak_of("") is None
