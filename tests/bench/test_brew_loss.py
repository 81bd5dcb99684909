"""Whether the quicker derivative brews as well: the B that it leaves after as many steps as double-backward takes."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from stages import models
from stages.brew.config import BrewAugmentation, DoubleBackward, FiniteDifference, GradientMatching
from stages.brew.craft import craft
from stages.brew.task import Task
from stages.data.dataset_config import Cifar10, Digits
from stages.data.datasets import resolve
from stages.data.images import Dataset
from stages.data.sources import read
from stages.models.config import Network
from stages.shards import base_shards
from stages.stage import Checkpoint, Context, Runtime
from stages.training.config import Augmentation, Cosine, Training
from stages.training.loop import train

if TYPE_CHECKING:
    from conftest import Figures
    from stages.models.classifier import Classifier

pytestmark = pytest.mark.bench

CASES = 5
DERIVATIVES = {"two-sided": FiniteDifference(), "double-backward": DoubleBackward()}


def context(folder: Path, name: str, seed: int = 0) -> Context:
    return Context(seed, Runtime(device="cpu", micro_batch=64), Checkpoint(folder / name))


def losses(
    model: "Classifier", dataset: Dataset, poisons: int, attack: GradientMatching, folder: Path
) -> dict[str, np.ndarray]:
    """B of the quantised poisons for each derivative, one a case; the pairs share target, start and augmentation.

    Case i: the first test image of class i, to be called class i + 1, by that class's first train images.
    """
    found: dict[str, list[float]] = {name: [] for name in DERIVATIVES}
    for case in range(CASES):
        base = dataset.train.of(dataset.train.ids[dataset.train.labels == case + 1][:poisons])
        target = dataset.test.of(dataset.test.ids[dataset.test.labels == case][:1])
        for name, derivative in DERIVATIVES.items():
            brewed = craft(
                Task([model], base, target, case + 1, dataset.info.std),
                attack.model_copy(update={"derivative": derivative}),
                context(folder, f"{name}-{case}", seed=case),
            )
            found[name].append(brewed.loss)
    return {name: np.array(values) for name, values in found.items()}


def compare(network: str, poisons: int, found: dict[str, np.ndarray], figures: "Figures") -> None:
    """The mean B of two-sided is at most that of double-backward plus the standard error of the paired difference."""
    for name, values in found.items():
        figures.mean(f"B after as many steps, {name}", network, poisons, values)
    difference = found["two-sided"] - found["double-backward"]
    error = float(difference.std(ddof=1) / np.sqrt(CASES))
    what = "two-sided B less double-backward B"
    figures.check(figures.mean(what, network, poisons, difference, at_most=error))


def test_two_sided_brews_as_well_on_digits(figures: "Figures", tmp_path: Path) -> None:
    dataset = read(Digits())
    model = models.build(Network(name="convnet", depth=3, width=32), dataset.info, 0)
    training = Training(
        epochs=8, batch_size=64, schedule=Cosine(warmup=0.2), augmentation=Augmentation(flip=False, pad=1)
    )
    train(model, dataset.train, training, 0.05, context(tmp_path, "training"))
    attack = GradientMatching(eps=64, steps=100, augmentation=BrewAugmentation(flip=False, shift=1))
    compare("convnet", 64, losses(model, dataset, 64, attack, tmp_path), figures)


def test_two_sided_brews_as_well_on_cifar10(
    figures: "Figures", tmp_path: Path, cifar10_folder: Path, prepared: Callable[..., Path]
) -> None:
    config = resolve(Cifar10(root=cifar10_folder, per_class=200, test_per_class=10, download=False))
    dataset = base_shards.load(prepared(config, tmp_path / "prepared"))
    model = models.build(Network(name="resnet18", width=16), dataset.info, 0)
    training = Training(epochs=4, batch_size=64, schedule=Cosine(warmup=0.3), precision="bf16")
    train(model, dataset.train, training, 0.1, context(tmp_path, "training"))
    compare("resnet18/16", 64, losses(model, dataset, 64, GradientMatching(steps=20), tmp_path), figures)
