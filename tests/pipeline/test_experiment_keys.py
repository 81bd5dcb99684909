"""Which fields of an experiment make its steps other steps: all but its words, its places and the machine."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from pipeline.experiment import Experiment
from pipeline.experiment_file import load_experiments, parse
from pipeline.plan import plan
from stages.config import InputError

MACHINE = {
    "runtime.device",
    "runtime.cpus",
    "runtime.gpus",
    "runtime.memory_gb",
    "runtime.micro_batch",
    "runtime.resources",
    "runtime.workers",
    "runtime.min_workers",
    "runtime.checkpoint_seconds",
    "runtime.stages",
}
OF_TREES_ALONE = {"shards.images_per_shard"}
NO_PART_OF_ANY_KEY = {
    "name",
    "description",
    "paper",
    "paper_success",
    "dataset.root",
    "dataset.download",
    *OF_TREES_ALONE,
    *MACHINE,
}
NOT_OF_EVERY_NETWORK = ("depth", "batch_norm", "activation", "weights")
ONE_VALUE = {"format", "attack.kind", "attack.schedule.kind"}
"""Fields that have no other valid value."""


def leaves(value: Any, path: str = "") -> set[str]:
    """The paths of the fields of a configuration that hold no configuration."""
    if not isinstance(value, BaseModel):
        return {path}
    return {
        leaf for name in type(value).model_fields for leaf in leaves(getattr(value, name), f"{path}.{name}".lstrip("."))
    }


TRIED: tuple[Any, ...] = (
    *(1, 2, 5, 8, 30, 0.5, 0.01, True, False, "f" * 64, "bf16", {"batch_size": 32}, "float32", "adam", "sgd", "gelu"),
    *("zero", "fine-tuning", "resnet18", "multistep", "constant", "beton", "third-party", [5, 5]),
    *("outlier", "cifar10", "double-backward", "squared-euclidean", "carlini-wagner", "cpu", "cuda", "/elsewhere"),
    *([1], {}, {"name": "resnet20"}, [{"name": "resnet20"}], {"epochs": 3}, {"brew": {"cpus": 3}}, {"spot": 1}, None),
    {"at": [5]},
    {"noise": 0.1},
    ["3", "8"],
)
"""Values to set fields to."""


def others(experiment: Experiment, path: str) -> Iterator[Experiment]:
    """The experiment with one field changed to other valid values; what belongs to a kind or name to defaults."""
    *parents, last = path.split(".")
    for value in TRIED:
        data = experiment.model_dump(mode="json")
        place = data
        whole = last == "kind" or path == "network.name"
        for name in parents[:-1] if whole else parents:
            place = place[name]
        if whole:
            place[parents[-1]] = {last: value}
        else:
            place[last] = value
        try:
            found = parse(data, path)
        except InputError:
            continue
        if found != experiment:
            yield found


@pytest.mark.parametrize("name", ["quickstart", "cifar10-small"])
def test_every_field_but_the_words_and_the_machine_changes_a_key(name: str) -> None:
    experiment = load_experiments(name, ["attack.restarts=2"])[""]  # one alone cannot race
    before = set(plan({"": experiment}).steps)
    no_other, no_change = set(), set()
    for path in leaves(experiment):
        changed = list(others(experiment, path))
        if not changed:
            no_other.add(path)
        elif all(set(plan({"": other}).steps) == before for other in changed):
            no_change.add(path)
    assert no_change == NO_PART_OF_ANY_KEY & leaves(experiment)
    not_of_this_kind = {"shards.jpeg_quality", *(f"network.{name}" for name in NOT_OF_EVERY_NETWORK)}
    assert no_other - not_of_this_kind == ONE_VALUE
