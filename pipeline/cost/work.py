"""How much computing a step is: operations and bytes that follow from its params, its inputs and its dataset.

Planned steps and committed ones are described alike, so that the seconds of these tell how long those will take.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import ceil
from typing import Any

from pipeline.cost.passes import MICRO_BATCH, passes_of_derivative, passes_of_lookahead, passes_of_step
from pipeline.experiment import Experiment
from pipeline.step import Step
from stages import brew, export, pretrain, retrain, unroll
from stages.brew.cancel.config import TotalGradientAscent
from stages.brew.frogs.config import PoisonFrogs
from stages.config import InputError
from stages.data.canonical import CANONICAL
from stages.data.cases import ExplicitCases, OutlierCases
from stages.data.dataset_config import Resized
from stages.data.datasets import Description
from stages.data.draw import poison_count
from stages.data.images import DatasetInfo
from stages.models.config import Network
from stages.training.config import Precision
from stages.training.setting import Transfer

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Work:
    """What a step does.

    operations: floating-point operations of networks.  passes: batches that go forward and backward; forward alone is
    a third.  pixels: of image files, once they are decoded and resized.  bytes: of raw images, read and written.
    parts: between which it may checkpoint.
    """

    operations: float = 0
    passes: float = 0
    pixels: int = 0
    bytes: float = 0
    parts: int = 1
    precision: Precision = "float32"


@dataclass(frozen=True)
class Data:
    """A prepared dataset: images of each split, their shape (H, W, C), and the number of classes."""

    train: int
    test: int
    shape: Shape
    classes: int

    @property
    def image(self) -> int:
        """Bytes of one image."""
        height, width, channels = self.shape
        return height * width * channels


def data_of(experiment: Experiment, description: Description) -> Data:
    """The data of an experiment that is only planned."""
    images = getattr(experiment.dataset, "images", None)
    train, test = images or (sum(description.train_counts), sum(description.test_counts))
    return Data(train, test, description.shape, len(description.classes))


def images_in(shard: Step) -> int:
    """The images of a planned shard, whose dataset says how many there are."""
    params: Any = shard.params
    train, test = params.dataset.images
    return len(params.shards.rows(params.index, train if params.split == "train" else test))


@cache
def operations(network: Network, shape: Shape, classes: int) -> tuple[float, float]:
    """Operations for one image (H, W, C): forward, and forward and backward in weights and input, as torch counts them.

    Nothing is computed: the network has no numbers. Raises InputError where it cannot take such images.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from stages.models import outline

    height, width, channels = shape
    info = DatasetInfo("", tuple(map(str, range(classes))), shape, (0.5,) * channels, (0.25,) * channels)
    model = outline(network, info).eval()
    images = torch.empty(2, channels, height, width, device="meta", requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        try:
            logits = model(images)
        except (RuntimeError, AssertionError) as error:
            raise InputError(
                f"network {network.name} cannot take {height}×{width} images: {error}; choose larger images or another"
            ) from error
        forward = counter.get_total_flops()
        logits.sum().backward()
    return forward / len(images), counter.get_total_flops() / len(images)


class Works:
    """The work of steps that stand in one table, through which their inputs are found.

    data: by the key of the `prepare` step.  shards: images in one, by the key of its step. `of` raises KeyError where
    an input, or what is told here, is missing.
    """

    def __init__(self, steps: Mapping[str, Step], data: Mapping[str, Data], shards: Mapping[str, int]) -> None:
        self._steps, self._data, self._shards = steps, data, shards
        self._by_stage: dict[str, Callable[[Step], Work]] = {
            "shard": self._shard,
            "prepare": self._prepare,
            "pretrain": self._pretrain,
            "case": self._case,
            "corrupt": self._corrupt,
            "brew": self._brew,
            "cancel": self._cancel,
            "unroll": self._unroll,
            "adapt": self._adapt,
            "select": self._select,
            "export": self._export,
            "retrain": self._retrain,
            "evaluate": self._evaluate,
            "assess": self._evaluate,
        }

    def of(self, step: Step) -> Work:
        """The work of a step; of one that only sums up, none."""
        found = self._by_stage.get(step.stage)
        return found(step) if found else Work()

    def _input(self, step: Step, role: str) -> Step:
        return self._steps[step.inputs[role].key]

    def _data_of(self, step: Step) -> Data:
        return self._data[step.inputs["dataset"].key]

    def _ensemble(self, step: Step) -> list[Network]:
        roles = [role for role in step.inputs if role.startswith("surrogate.")]
        return [self._params(self._input(step, role)).network for role in roles]

    @staticmethod
    def _params(step: Step) -> Any:
        return step.params  # the stage says of which class

    def _poisons(self, case: Step) -> int:
        params = self._params(case)
        if isinstance(params.cases, ExplicitCases) and (stated := params.cases.cases[params.index].poison_ids):
            return len(stated)
        return poison_count(params.budget, self._data_of(case).train)

    def _shard(self, step: Step) -> Work:
        dataset = self._params(step).dataset
        side = (isinstance(dataset, Resized) and dataset.resize) or CANONICAL[dataset.kind].shape[0]
        return Work(pixels=self._shards[step.key] * side**2)

    def _prepare(self, step: Step) -> Work:
        data = self._data[step.key]
        return Work() if step.inputs else Work(bytes=(data.train + data.test) * data.image)

    def _pretrain(self, step: Step) -> Work:
        params: pretrain.Params = self._params(step)
        data = self._data_of(step)
        new_head = params.network.new_head(data.classes)
        if params.network.weights is not None and not new_head:
            return self._predicting(data, [params.network])
        epochs = min(params.stop_after or params.training.epochs, params.training.epochs)
        work = self._training(step, params, epochs, 1)
        return self._of_head_alone(step, params, epochs, work) if new_head else work

    def _retrain(self, step: Step) -> Work:
        params: retrain.Params = self._params(step)
        epochs = params.training.epochs
        work = self._training(step, params, epochs, ceil(epochs / params.record_every))
        return self._of_head_alone(step, params, epochs, work) if isinstance(params.setting, Transfer) else work

    def _of_head_alone(self, step: Step, params: pretrain.Params | retrain.Params, epochs: int, work: Work) -> Work:
        """The work of a training, less what a frozen body spares: images pass through it forward alone, and but once
        where they are not augmented."""
        data = self._data_of(step)
        forward, training = operations(params.network, data.shape, data.classes)
        times = 1 if params.training.augmentation.none else epochs
        spared = data.train * (epochs * training - times * forward)
        passes = work.parts * (1 - times / epochs / 3)
        return replace(work, operations=work.operations - spared, passes=work.passes - passes)

    def _training(self, step: Step, params: pretrain.Params | retrain.Params, epochs: int, records: int) -> Work:
        """Epochs over the train images, and records of the test images' logits."""
        data = self._data_of(step)
        watched = self._predicting(data, [params.network] * records)
        _, training = operations(params.network, data.shape, data.classes)
        images = data.train if params.part is None else params.part.count(data.train)
        batches = epochs * ceil(images / params.training.batch_size)
        return Work(
            operations=epochs * images * training + watched.operations,
            passes=batches + watched.passes,
            parts=batches,
            precision=params.training.precision,
        )

    def _predicting(self, data: Data, networks: list[Network]) -> Work:
        """The test images through networks, forward."""
        forward = sum(operations(network, data.shape, data.classes)[0] for network in networks)
        return Work(operations=data.test * forward, passes=len(networks) * ceil(data.test / MICRO_BATCH) / 3)

    def _case(self, step: Step) -> Work:
        outliers = isinstance(self._params(step).cases, OutlierCases)
        return self._predicting(self._data_of(step), self._ensemble(step)) if outliers else Work()

    def _evaluate(self, step: Step) -> Work:
        return self._predicting(self._data_of(step), [self._params(self._input(step, "victim")).network])

    def _brew(self, step: Step) -> Work:
        from stages.brew.craft import EVALUATION_DRAWS

        params: brew.Params = self._params(step)
        attack, data = params.attack, self._data_of(step)
        poisons, ensemble = self._poisons(self._input(step, "case")), self._ensemble(step)
        start = 0 if params.place is None else self._params(self._input(step, "raced.0")).until
        steps = (params.until or attack.steps) - start
        if isinstance(attack, PoisonFrogs):
            passes = steps + 2.0  # and of what the steps begin with, and of the quantised poisons
        else:
            # Of the quantised poisons, and at the end also of what they were before.
            evaluations = (2 if params.until is None else 1) * (EVALUATION_DRAWS if attack.augmentation else 1)
            passes = steps * passes_of_step(attack, poisons) + evaluations * (1 / 3 if attack.on_features else 1)
        once = sum(operations(network, data.shape, data.classes)[1] for network in ensemble)
        batches = len(ensemble) * ceil(poisons / MICRO_BATCH)
        return Work(operations=passes * poisons * once, passes=passes * batches, parts=steps)

    def _corrupt(self, step: Step) -> Work:
        corruption = self._params(step).corruption
        network = self._params(self._input(step, "surrogate")).network
        steps = corruption.steps if corruption.kind == "gradient" else 0
        # The train images' logits at the end cost about a third of a step, the test images' little.
        return self._over(step, network, steps + 1 / 3, steps)

    def _cancel(self, step: Step) -> Work:
        attack, data = self._params(step).attack, self._data_of(step)
        target, of_follower = self._input(step, "target"), 0
        if isinstance(attack, TotalGradientAscent):
            of_follower = attack.follower_steps + 1 + 2 * attack.iterations
        network = self._params(target if target.stage == "pretrain" else self._input(target, "surrogate")).network
        poisons = (
            (passes_of_derivative(attack.derivative) + of_follower)
            * poison_count(attack.eps_d, data.train)
            / data.train
        )
        passes = attack.steps * (poisons + of_follower)
        return self._over(step, network, passes + 7 / 3, attack.steps)

    def _over(self, step: Step, network: Network, passes: float, parts: int) -> Work:
        """Training passes over the train images, in micro-batches."""
        data = self._data_of(step)
        _, training = operations(network, data.shape, data.classes)
        batches = ceil(data.train / MICRO_BATCH)
        return Work(operations=passes * data.train * training, passes=passes * batches, parts=parts)

    def _unroll(self, step: Step) -> Work:
        """An epoch of training, and the look-aheads from batches with poisons; as many as poisons if these are few."""
        params: unroll.Params = self._params(step)
        training, data = params.training, self._data_of(step)
        poisons = self._poisons(self._input(step, "case"))
        batches = ceil(data.train / training.batch_size)
        with_poisons = batches * (1 - (1 - 1 / batches) ** poisons)
        _, once = operations(params.network, data.shape, data.classes)
        passes = batches + with_poisons * passes_of_lookahead(params.how.unroll)
        return Work(operations=passes * training.batch_size * once, passes=passes, parts=batches)

    def _adapt(self, step: Step) -> Work:
        """Gradients of the whole ensemble are read, and the state of the poisons read and written, all in float32."""
        poisons = self._poisons(self._input(step, "case")) * self._data_of(step).image
        gradients = sum(role.startswith("unroll.") for role in step.inputs)
        return Work(bytes=4 * poisons * (gradients + 8))

    def _select(self, step: Step) -> Work:
        first = self._input(step, "brew.0")
        poisons = self._poisons(self._input(first, "case")) * self._data_of(first).image
        return Work(bytes=(len(step.inputs) + 1) * poisons)

    def _export(self, step: Step) -> Work:
        params: export.Params = self._params(step)
        if params.made_elsewhere is None and (made := self._input(step, "poisons")).stage == "cancel":
            data = self._data_of(step)
            return Work(bytes=2 * poison_count(self._params(made).attack.eps_d, data.train) * data.image)
        case = self._input(step, "case") if params.made_elsewhere else self._chosen_for(step)
        return Work(bytes=2 * self._poisons(case) * self._data_of(step).image)

    def _chosen_for(self, step: Step) -> Step:
        return self._input(self._input(self._input(step, "poisons"), "brew.0"), "case")
