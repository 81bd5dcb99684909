"""How long a step takes on a node: as long as such steps took; else what its work tells, corrected by how long other
steps of its stage took; else what its work tells under the prices file's assumptions."""

import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from pydantic import ValidationError

from pipeline.cost.prices import Assumptions, Node, Prices, peak_of
from pipeline.cost.room import Demand
from pipeline.cost.work import Data, Work, Works
from pipeline.step import Ref, Step, canonical
from pipeline.store import Manifest, Store
from stages.stage import STAGES, load_stage
from stages.training.config import Precision

FIXED_SECONDS: Mapping[str, float] = defaultdict(lambda: 0.5, summarize=5)
"""What a step of a stage takes besides its work, assumed: files are opened, pictures drawn."""

Source = Literal["stated", "measured", "scaled", "assumed"]


@dataclass(frozen=True)
class Rate:
    """Seconds of a step, and where they come from.

    seconds: the median of n.  low, high: the quartiles; None where there are less than two to tell.
    """

    seconds: float
    source: Source
    n: int = 0
    low: float | None = None
    high: float | None = None

    @staticmethod
    def of(source: Source, found: list[float]) -> "Rate":
        """The rate that some measured seconds give."""
        low, middle, high = statistics.quantiles(found, n=4, method="inclusive") if len(found) > 1 else (None,) * 3
        return Rate(found[0] if middle is None else middle, source, len(found), low, high)


@dataclass(frozen=True)
class Kind:
    """Steps that take equally long: of one stage and the same work, alike but for seeds, indices and cases."""

    stage: str
    params: bytes
    work: Work

    @staticmethod
    def of(step: Step, works: Works) -> "Kind":
        """The kind of a step."""
        return Kind(step.stage, canonical(_without_draws(step.made_of["params"])), works.of(step))


@dataclass(frozen=True)
class Sample:
    """A committed step: its kind, the seconds it computed, the hardware that did, and what it took of it."""

    kind: Kind
    seconds: float
    hardware: str
    demand: Demand

    @property
    def gpu(self) -> str:
        """The name of the GPU that the step saw; empty where it saw none."""
        return self.hardware.partition(" cores, ")[2]


def _without_draws(value: Any) -> Any:
    """Params without what only says which draw a step is, or which of many: seeds, indices, restarts, epochs, and a
    case's cases."""
    if isinstance(value, dict):
        draws = ("seed", "index", "restart", "place", "step", "epoch")
        drawn = {name for name, item in value.items() if name in draws or (name == "cases" and isinstance(item, dict))}
        return {name: _without_draws(item) for name, item in value.items() if name not in drawn}
    return value


def samples(store: Store) -> list[Sample]:
    """Every step in the store whose work can still be told: its stage is of today's version, its inputs are there."""
    manifests = {manifest.key: manifest for manifest in store.manifests() if manifest.stage in STAGES}
    steps = {key: step for key, manifest in manifests.items() if (step := _step(manifest)) is not None}
    data = {key: _data(manifests[key]) for key, step in steps.items() if step.stage == "prepare"}
    shards = {key: manifests[key].metrics["images"] for key, step in steps.items() if step.stage == "shard"}
    works = Works(steps, data, shards)
    found = []
    for key, step in steps.items():
        facts = manifests[key].provenance
        try:
            found.append(Sample(Kind.of(step, works), facts["seconds"], facts["hardware"], taken_of(facts)))
        except KeyError:  # an input was taken out of the store, or an early brewline wrote no hardware
            continue
    return found


def taken_of(facts: Mapping[str, Any]) -> Demand:
    """What a committed step took; before it was written down, a CPU. A GPU that was seen and not counted is one."""
    seen = 1.0 if " cores, " in facts["hardware"] else 0.0
    gpus = seen if facts.get("gpus") is None else facts["gpus"]
    return Demand((("CPU", facts.get("cpus", 1)),), gpus, facts.get("workers", 1))


def _step(manifest: Manifest) -> Step | None:
    module = load_stage(manifest.stage)
    if manifest.version != module.VERSION:
        return None
    try:
        params = module.Params.model_validate(manifest.params)
    except ValidationError:  # from before a field was renamed
        return None
    return Step(manifest.stage, params, {role: Ref("", key) for role, key in manifest.inputs.items()})


def _data(manifest: Manifest) -> Data:
    found = manifest.metrics
    height, width, channels = found["shape"]
    return Data(found["train_images"], found["test_images"], (height, width, channels), found["classes"])


class Rates:
    """How long steps take on the nodes of a prices file, by what a store has measured."""

    def __init__(self, prices: Prices, measured: list[Sample]) -> None:
        self._prices = prices
        self._by_stage: dict[str, list[Sample]] = defaultdict(list)
        for sample in measured:
            self._by_stage[sample.kind.stage].append(sample)
        self.of = cache(self._of)

    def _of(self, kind: Kind, node: str, demand: Demand) -> Rate:
        """The rate of a step of this kind that takes `demand` of a node of this name."""
        if (stated := self._prices.rates.get(kind.stage)) is not None:
            return Rate(stated, "stated")
        here, on_gpu = self._prices.nodes[node], demand.gpus > 0 and kind.work.operations > 0
        alike = [sample for sample in self._by_stage[kind.stage] if _on(sample, here, on_gpu)]
        if same := [sample.seconds for sample in alike if sample.kind == kind and _as_wide(sample.demand, demand)]:
            return Rate.of("measured", same)
        assumed = self._assumed(kind, here.peak if on_gpu else None, demand)
        # One that hardly did more than open its files tells nothing of one that computes.
        least, factors = min(2 * FIXED_SECONDS[kind.stage], assumed / 2), []
        for sample in alike:
            # Its own GPU's peak: a node that takes any GPU is told by steps on several.
            peak = (peak_of(sample.gpu) or (here.peak if here.gpu else None)) if on_gpu else None
            if on_gpu and peak is None:
                continue
            if (expected := self._assumed(sample.kind, peak, sample.demand)) >= least:
                factors.append(sample.seconds / expected)
        return Rate.of("scaled", [assumed * factor for factor in factors]) if factors else Rate(assumed, "assumed")

    def _assumed(self, kind: Kind, peak: dict[Precision, float] | None, demand: Demand) -> float:
        """Seconds under the assumptions; peak: of the GPU that computes, None where the CPU does."""
        take, work = self._prices.assumptions, kind.work
        passes = work.passes * take.seconds_per_pass
        return (
            FIXED_SECONDS[kind.stage]
            + max(passes, work.operations / (_speed(take, work.precision, peak, demand) * demand.workers))
            + work.pixels / (take.megapixels_per_second_per_cpu * 1e6 * demand.cpus)
            + work.bytes / (take.megabytes_per_second * 1e6)
        )


def _speed(take: Assumptions, precision: Precision, peak: dict[Precision, float] | None, demand: Demand) -> float:
    if peak is None:
        return take.gigaflops_per_cpu * 1e9 * demand.cpus
    return take.utilisation[precision] * peak[precision] * 1e12 * demand.gpus


def _as_wide(one: Demand, other: Demand) -> bool:
    """Whether two steps take as many CPUs, GPUs and workers."""
    return (one.cpus, one.gpus, one.workers) == (other.cpus, other.gpus, other.workers)


def _on(sample: Sample, node: Node, on_gpu: bool) -> bool:
    """Whether a step that was measured ran on what it would run on here."""
    if on_gpu:
        return bool(sample.gpu) and (node.gpu or "").casefold() in sample.gpu.casefold()
    computed_on_cpu = not (sample.gpu and sample.kind.work.operations)
    return computed_on_cpu and (node.cpu or "").casefold() in sample.hardware.partition(",")[0].casefold()
