"""How much a plan will write, before any of it runs: bytes by stage, from shapes and counts alone."""

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.experiment import Experiment
from pipeline.plan import Plan
from pipeline.step import Step
from stages import retrain, unroll
from stages.data.dataset_config import DatasetConfig, Digits
from stages.data.datasets import Description, describe
from stages.data.draw import poison_count
from stages.data.images import DatasetInfo
from stages.models.config import Network
from stages.shards.beton_layout import ALLOCATION, PAGE_SIZE, pages_start

JPEG_BYTES_A_PIXEL = 0.35
"""Of a photograph at quality 90, about: what the size of JPEG shards is estimated with."""


def sizes(plan: Plan, experiments: Mapping[str, Experiment]) -> dict[str, int]:
    """Bytes that each step of the plan will leave in the store, by key, checkpoints and logs not counted.

    Raw shards, networks, poisons and logits to within a few KB; JPEG shards as an estimate.
    """
    seen: dict[DatasetConfig, Description] = {}  # a listing takes long
    for experiment in experiments.values():
        if experiment.dataset not in seen:
            seen[experiment.dataset] = describe(experiment.dataset, absent_ok=True)
    of = {variant: _Sizes(experiment, seen[experiment.dataset]) for variant, experiment in experiments.items()}
    return {key: of[plan.variants[key]](step) for key, step in plan.steps.items()}


def gigabytes(steps: Iterable[Step], written: Mapping[str, int]) -> str:
    """What the steps write together, in GB of 10⁹ bytes, for people."""
    total = sum(written[step.key] for step in steps) / 1e9
    return f"{total:,.1f}" if total >= 10 else f"{total:.3f}"


FLOAT_BYTES = 4
STATE_BYTES = 3 * FLOAT_BYTES
"""Of a brew on its way, for each number of its poisons: delta and Adam's two moments, in float32."""


class _Sizes:
    """The sizes of one experiment's steps."""

    def __init__(self, experiment: Experiment, description: Description) -> None:
        self._experiment, self._description = experiment, description
        height, width, channels = description.shape
        self._image = height * width * channels + 16
        counted = None if isinstance(experiment.dataset, Digits) else experiment.dataset.images
        self._train, self._test = counted or (sum(description.train_counts), sum(description.test_counts))
        poisons = poison_count(experiment.attack.budget, self._train)
        self._poisons = poisons * self._image
        self._count, self._pixels = poisons, poisons * height * width * channels
        self._state = self._pixels * STATE_BYTES
        self._networks: dict[Network, int] = {}

    def __call__(self, step: Step) -> int:
        params: Any = step.params  # the stage says of which class
        if step.stage in ("brew", "adapt", "cancel") or (step.stage == "export" and params.made_elsewhere is not None):
            return self._crafted(step)
        if step.stage == "shard":
            total = self._train if params.split == "train" else self._test
            return self._images(len(params.shards.rows(params.index, total)))
        if step.stage == "prepare":
            return 0 if step.inputs else self._images(self._train) + self._images(self._test)
        if step.stage in ("pretrain", "corrupt", "unroll"):
            own = self._experiment
            network = own.surrogates.network_of(0, own.network) if step.stage == "corrupt" else params.network
            return self._network(network) + (self._unrolled(params) if step.stage == "unroll" else 0)
        if step.stage == "retrain":
            return self._network(params.network) + self._records(params)
        return 0  # a few KB; select and export write what brew wrote, and the store keeps equal files once

    def _crafted(self, step: Step) -> int:
        """Poisons, or the state of those that are on their way."""
        params: Any = step.params
        if step.stage == "brew" and params.until is not None:
            return self._state
        if step.stage == "adapt" and params.step < params.attack.steps:
            color = params.attack.color  # each poison has a map of its own
            nodes = 0 if color is None else 3 * color.grid**3
            return self._pixels * FLOAT_BYTES + self._state + self._count * nodes * STATE_BYTES
        return self._poisons

    def _unrolled(self, params: unroll.Params) -> int:
        """Beside a network that goes on: its optimizer's moments, and the gradient at the poisons."""
        moments = {"sgd": int(params.training.momentum > 0), "adam": 2}[params.training.optimizer]
        return moments * self._network(params.network) + self._pixels * FLOAT_BYTES

    def _images(self, count: int) -> int:
        shards, (height, width, _) = self._experiment.shards, self._description.shape
        if shards.format == "arrow":
            return count * self._image
        size = self._image - 16 if shards.jpeg_quality is None else height * width * JPEG_BYTES_A_PIXEL
        pages = -(-count // (PAGE_SIZE // size))
        return pages_start(count, PAGE_SIZE) + int(pages) * PAGE_SIZE + count * ALLOCATION.itemsize

    def _records(self, params: retrain.Params) -> int:
        """The test images' logits, float16, at each record."""
        epochs, every = params.training.epochs, params.record_every
        records = epochs // every + (epochs % every > 0)
        return records * self._test * len(self._description.classes) * 2

    def _network(self, network: Network) -> int:
        if network not in self._networks:
            self._networks[network] = _parameter_bytes(network, self._description)
        return self._networks[network]


def _parameter_bytes(network: Network, description: Description) -> int:
    from stages.models import outline

    info = DatasetInfo("", description.classes, description.shape, (0.5,) * 3, (0.25,) * 3)
    tensors = outline(network, info).state_dict().values()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
