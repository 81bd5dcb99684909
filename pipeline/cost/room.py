"""What a step takes of a node, what is free on one, and whether a step has a place at all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.cost.prices import Node, Prices
from pipeline.experiment import Runtimes
from pipeline.resources import wants, workers_of
from stages.config import InputError

TINY = 1e-9
"""Fractions of a GPU that add up to one must fit into one."""


@dataclass(frozen=True)
class Demand:
    """What a step takes of a node: resources but GPUs by name, GPUs, and on how many places at once."""

    resources: tuple[tuple[str, float], ...]
    gpus: float = 0
    workers: int = 1

    @property
    def cpus(self) -> float:
        """Of each worker."""
        return dict(self.resources).get("CPU", 0)

    def share_of(self, node: Node) -> float:
        """The largest part of a resource of the node that one worker takes."""
        asked = (*self.resources, *([("GPU", self.gpus)] if self.gpus else ()))
        return max(amount / node.resources[name] for name, amount in asked)


def demand_of(stage: str, runtimes: Runtimes, prices: Prices) -> Demand:
    """What a step of a stage takes, as the runner asks Ray for it on the whole cluster of a prices file."""
    runtime = runtimes.of(stage)
    if runtime.device == "cuda" and not prices.resources.get("GPU"):
        raise InputError(f"runtime.device of stage {stage} is cuda, and no node of the prices file has a GPU; add one")
    taken = wants(runtime, stage, gpus=bool(prices.resources.get("GPU")))
    gpus, memory = taken.pop("GPU", 0), taken.pop("memory", 0)
    if memory:
        taken["memory_gb"] = memory / 1e9
    return Demand(tuple(taken.items()), gpus, workers_of(runtime, stage))


class Room:
    """What is free on a node."""

    def __init__(self, node: Node) -> None:
        self.free = {name: amount for name, amount in node.resources.items() if name != "GPU"}
        self.gpus = [1.0] * int(node.resources.get("GPU", 0))

    def take(self, demand: Demand) -> list[int] | None:
        """Take it, and say which GPUs; None where there is no room."""
        if any(self.free.get(name, 0) + TINY < amount for name, amount in demand.resources):
            return None
        chosen: list[int] = []
        if demand.gpus:
            each = min(demand.gpus, 1)
            fitting = [number for number, free in enumerate(self.gpus) if free + TINY >= each]
            chosen = sorted(fitting, key=lambda number: self.gpus[number])[: max(1, int(demand.gpus))]
            if len(chosen) < demand.gpus:
                return None
        self._change(demand, chosen, -1)
        return chosen

    def give_back(self, demand: Demand, gpus: Sequence[int]) -> None:
        """Undo `take`."""
        self._change(demand, gpus, 1)

    def close(self) -> None:
        """Nothing fits any more."""
        self.free, self.gpus = {}, []

    def _change(self, demand: Demand, gpus: Sequence[int], sign: int) -> None:
        for name, amount in demand.resources:
            self.free[name] += sign * amount
        for number in gpus:
            self.gpus[number] += sign * min(demand.gpus, 1)


def check_possible(demands: Mapping[str, Demand], prices: Prices) -> None:
    """Raise InputError where the steps of a stage can never be placed: they would wait for ever."""
    for stage, demand in demands.items():
        asked = {**dict(demand.resources), **({"GPU": demand.gpus} if demand.gpus else {})}
        for name, amount in asked.items():
            most = max(node.resources.get(name, 0) for node in prices.nodes.values())
            if amount > most:
                raise InputError(
                    f"nodes: a step of stage {stage} takes {amount:g} {name}, and the largest node of the prices file "
                    f"has {most:g}; add a node that has it, or ask for less in the experiment's runtime"
                )
        places = sum(node.most * places_on(node, demand) for node in prices.nodes.values())
        if places < demand.workers:
            raise InputError(
                f"nodes: a step of stage {stage} takes {demand.workers} × {asked} at once, and all nodes of the prices "
                f"file have room for {places}; raise a node's count or max, or ask for less in the experiment's runtime"
            )


def places_on(node: Node, demand: Demand) -> int:
    """Workers of a step that an empty node takes, at most all."""
    room, places = Room(node), 0
    while places < demand.workers and room.take(demand) is not None:
        places += 1
    return places
