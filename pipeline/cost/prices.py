"""The prices file: the nodes of a cluster, what they cost, and what is assumed where nothing was measured."""

import difflib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from pipeline.user_yaml import invalid, read_yaml
from stages.config import Config, InputError
from stages.stage import STAGES
from stages.training.config import Precision

PEAKS: dict[str, dict[Precision, float]] = {
    "V100": {"float32": 15.7, "tf32": 15.7, "bf16": 15.7},
    "T4": {"float32": 8.1, "tf32": 8.1, "bf16": 8.1},
    "A10G": {"float32": 35, "tf32": 35, "bf16": 70},
    "L4": {"float32": 30.3, "tf32": 60, "bf16": 121},
    "L40S": {"float32": 91.6, "tf32": 183, "bf16": 362},
    "A100": {"float32": 19.5, "tf32": 156, "bf16": 312},
    "H100": {"float32": 67, "tf32": 494, "bf16": 989},
    "H200": {"float32": 67, "tf32": 494, "bf16": 989},
}
"""A GPU's most operations a second, in 10¹², without sparsity, as its makers' data sheets give them (SXM where there
are several forms). V100 and T4 have no bf16 of their own; A10G is the cloud's variant of A10."""

UTILISATION: dict[Precision, float] = {"float32": 0.5, "tf32": 0.15, "bf16": 0.15}
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class Node(Config):
    """One kind of node."""

    count: Annotated[int, Field(ge=1)] | None = None
    """So many, up from the first step to the last. Instead of it, `min` and `max`."""
    min: Annotated[int, Field(ge=0)] = 0
    """Nodes that stay up however idle they are."""
    max: Annotated[int, Field(ge=1)] | None = None
    """Nodes that an autoscaler starts at most, where steps wait, and stops again, where none do."""
    resources: dict[str, NotNegative]
    """What a node has, as Ray counts it: CPU, GPU, memory_gb, and custom resources. What is not named is not there."""
    price_per_hour: NotNegative
    """Of one node, in the file's currency."""
    spot: bool = False
    """Whether the provider may take it away."""
    interruptions_per_hour: NotNegative = 0
    """How often a spot node is expected to be taken away."""
    start_minutes: NotNegative = 0
    """From asking for a node until steps start on it; paid."""
    cpu: str | None = None
    """Text of the processor's name, as in a manifest's `hardware`; only steps measured on such count as measured. Null
    takes any."""
    gpu: str | None = None
    """The same of the GPU. Names of `PEAKS` in it (A100, L4, …) tell how fast it is where nothing was measured."""
    teraflops: dict[Precision, Positive] | None = None
    """The GPU's peak by precision, in 10¹² operations a second, where `gpu` names none that brewline knows."""

    @field_validator("resources")
    @classmethod
    def _meant(cls, resources: dict[str, float]) -> dict[str, float]:
        for name in resources:
            known = {own.casefold(): own for own in ("CPU", "GPU", "memory_gb")}
            close = difflib.get_close_matches(name.casefold(), known, n=1, cutoff=0.75)
            if close and name != known[close[0]]:
                raise ValueError(f"unknown resource {name!r}, did you mean {known[close[0]]!r}?")
        if "CPU" not in resources:
            raise ValueError("a node needs CPU: every step takes some; 0 is for one that no step runs on, as a head")
        if resources.get("GPU", 0) % 1:
            raise ValueError(f"a node has whole GPUs, found {resources['GPU']:g}")
        return resources

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.count is None) == (self.max is None):
            raise ValueError("give either count, for nodes that are always up, or max (and min), for an autoscaler's")
        if self.count is not None and self.min:
            raise ValueError("count and min exclude each other; leave one out")
        if self.max is not None and self.min > self.max:
            raise ValueError(f"min is {self.min}, and max is {self.max}; min is at most max")
        if self.interruptions_per_hour and not self.spot:
            raise ValueError("interruptions_per_hour is of a spot node; set spot: true, or leave it out")
        if self.resources.get("GPU") and self.peak is None:
            raise ValueError(
                f"gpu is {self.gpu!r}, which names none of {', '.join(PEAKS)}; name one, or give its teraflops as "
                "{float32: …, tf32: …, bf16: …}"
            )
        return self

    @property
    def most(self) -> int:
        """The nodes of this kind there can be."""
        return self.count or self.max or 0

    @property
    def least(self) -> int:
        """The nodes of this kind that are always up."""
        return self.count or self.min

    @property
    def peak(self) -> dict[Precision, float] | None:
        """10¹² operations a second of one GPU, by precision; null where nobody says."""
        return self.teraflops or (peak_of(self.gpu) if self.gpu else None)

    @field_validator("teraflops")
    @classmethod
    def _all(cls, teraflops: dict[Precision, float] | None) -> dict[Precision, float] | None:
        if teraflops is not None and (lacking := [name for name in PEAKS["A100"] if name not in teraflops]):
            raise ValueError(f"lacks {', '.join(lacking)}; give float32, tf32 and bf16")
        return teraflops


class Assumptions(Config):
    """What is taken for true where the store has no measurement. Each is a guess to be replaced by what you know."""

    utilisation: dict[Precision, Annotated[float, Field(gt=0, le=1)]] = Field(default_factory=UTILISATION.copy)
    """The part of a GPU's peak that training a convolutional network reaches, by precision."""
    gigaflops_per_cpu: Positive = 70
    """10⁹ operations a second that a core reaches in such a training. ResNet-18 in float32 reaches 70 (width 16) to 127
    (width 64) a core on an AMD EPYC with AVX-512."""
    seconds_per_pass: Positive = 0.01
    """The least that a batch takes to go forward and backward through a network, however small that is."""
    megapixels_per_second_per_cpu: Positive = 15
    """10⁶ pixels of image files that a core reads and resizes, counted after that: 455 photographs with a short side of
    256 a second on two cores (results/bench/shards-cpu.json)."""
    megabytes_per_second: Positive = 100
    """What a step reads and writes of images besides decoding; an export of 193 MB took 1.7 s."""
    seconds_around_step: NotNegative = 2
    """What a step takes besides computing, also one that was measured: its worker starts, inputs come, outputs go.
    Raise it where a node has to bring a large base from far away."""
    checkpoint_seconds: NotNegative = 30
    """A training checkpoints after the first batch, and a brew after the first step, after so long."""

    @field_validator("utilisation")
    @classmethod
    def _all(cls, utilisation: dict[Precision, float]) -> dict[Precision, float]:
        if lacking := [name for name in PEAKS["A100"] if name not in utilisation]:
            raise ValueError(f"lacks {', '.join(lacking)}; give float32, tf32 and bf16")
        return utilisation


class Prices(Config):
    """A prices file."""

    currency: Annotated[str, Field(min_length=1, max_length=8)]
    """As it is shown: USD, EUR."""
    as_of: str = ""
    """When and where the prices were looked up; shown beside the money."""
    nodes: Annotated[dict[str, Node], Field(min_length=1)]
    """The kinds of nodes by name. Of those that can take a step, an autoscaler starts the cheapest."""
    idle_minutes: NotNegative = 5
    """An autoscaled node stops after so long without a step; paid."""
    storage_price_gb_month: NotNegative = 0
    """For keeping 10⁹ bytes a month."""
    rates: dict[Literal[STAGES], Positive] = Field(default_factory=dict)  # type: ignore[valid-type]
    """Seconds a step by stage, on any node; what stands here counts, whatever was measured."""
    assumptions: Assumptions = Assumptions()

    @property
    def resources(self) -> dict[str, float]:
        """What the whole cluster has at its largest."""
        names = {name for node in self.nodes.values() for name in node.resources}
        return {name: sum(n.most * n.resources.get(name, 0) for n in self.nodes.values()) for name in names}


def peak_of(gpu: str) -> dict[Precision, float] | None:
    """The peak of the GPU whose name is a word of this text; null where none is."""
    words = gpu.casefold().replace("-", " ").split()
    return next((peak for name, peak in PEAKS.items() if name.casefold() in words), None)


def load_prices(file: Path) -> Prices:
    """Read a prices file. Raises InputError that names the field, what was found and what was expected."""
    if not file.is_file():
        raise InputError(f"--cost {file}: there is no such file; cluster/prices.yaml is one to begin with")
    try:
        return Prices.model_validate(read_yaml(file))
    except ValidationError as error:
        raise invalid(f"prices {file}", error) from None
