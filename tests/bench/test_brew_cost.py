"""What a brew step costs: against a training pass, against double-backward, and against another toolbox's attack.

The contenders of a network take turns, round after round, and a ratio is between two of the same round. A step is
measured as `craft` makes it, augmentation, derivative, signed Adam and projection together, in CPU seconds of one
thread. Images and weights are random: the time that they take does not depend on what they show.
"""

import contextlib
import copy
import importlib.util
import io
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from stages import models
from stages.brew.augment import Draw, augment
from stages.brew.config import BrewAugmentation, DoubleBackward, FiniteDifference, GradientMatching
from stages.brew.craft import craft
from stages.brew.task import Task
from stages.data.images import DatasetInfo, ImageSet
from stages.models.config import Network
from stages.stage import Checkpoint, Context, Runtime
from stages.training.batches import pixels, to_tensor

if TYPE_CHECKING:
    from conftest import Figures

pytestmark = pytest.mark.bench

CIFAR = DatasetInfo("random", tuple("0123456789"), (32, 32, 3), (0.5,) * 3, (0.25,) * 3)
INTENDED = 3
PARTS = 4


class StepTaken(Exception):
    """Ends `craft` after its first step: the closing evaluation is not what is measured."""


class Stopwatch(Context):
    """Measures the first step: from the draw of its augmentation, with which it begins, to its report of progress."""

    def __init__(self, folder: Path, micro_batch: int) -> None:
        super().__init__(0, Runtime(device="cpu", micro_batch=micro_batch), Checkpoint(folder))
        self._began = float("nan")
        self.seconds = float("nan")

    def torch_rng(self, *role: object) -> torch.Generator:
        """The same, and note the time at which the augmentation is drawn."""
        if role == ("augment", 0):
            self._began = time.process_time()
        return super().torch_rng(*role)

    def progress(self, done: int, total: int, **metrics: float) -> None:
        """Note the time, and end."""
        self.seconds = time.process_time() - self._began
        raise StepTaken


class NotingLoss(torch.nn.CrossEntropyLoss):
    """Cross-entropy that notes when it is worked out."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[float] = []

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The mean cross-entropy."""
        self.calls.append(time.process_time())
        return super().forward(input, target)


@dataclass(frozen=True)
class Setting:
    """A network with its P base images and one target."""

    network: str
    model: torch.nn.Module
    base: ImageSet
    target: ImageSet
    folder: Path

    def training_pass(self) -> float:
        """Seconds of a forward pass and a backward pass in the weights, over the P augmented images."""
        draw = Draw.random(BrewAugmentation(), len(self.base), torch.Generator().manual_seed(0))
        inputs = augment(pixels(to_tensor(self.base.images)), draw)
        labels = torch.from_numpy(self.base.labels)
        began = time.process_time()
        torch.autograd.grad(cross_entropy(self.model(inputs), labels), list(self.model.parameters()))
        return time.process_time() - began

    def brew_step(self, attack: GradientMatching, parts: int) -> float:
        """Seconds of a step with the poisons in so many micro-batches."""
        watch = Stopwatch(self.folder, len(self.base) // parts)
        with contextlib.suppress(StepTaken):
            craft(
                Task([self.model], self.base, self.target, INTENDED, CIFAR.std),
                attack,
                watch,
            )
        return watch.seconds

    def toolbox_step(self) -> float:
        """Seconds of a step of the Adversarial Robustness Toolbox's gradient matching, which augments nothing.

        With all poisons in one batch it works out the loss once for the target, once a step and once at the end:
        from one step's loss to the next, or to the last, is a step. Its data loader's process is left out.
        """
        from art.attacks.poisoning.gradient_matching_attack import GradientMatchingAttack
        from art.estimators.classification import PyTorchClassifier

        model = copy.deepcopy(self.model).to(memory_format=torch.contiguous_format)
        loss = NotingLoss()
        classifier = PyTorchClassifier(model, loss, (3, 32, 32), len(CIFAR.classes), clip_values=(0, 1))
        attack = GradientMatchingAttack(
            classifier, 1.0, epsilon=16 / 255, max_trials=1, max_epochs=2, batch_size=len(self.base), verbose=0
        )
        images = [
            np.ascontiguousarray(s.images.transpose(0, 3, 1, 2) / np.float32(255)) for s in (self.target, self.base)
        ]
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            attack.poison(images[0], np.array([INTENDED]), images[1], self.base.labels)
        assert len(loss.calls) == 4, f"expected target, two steps and end, found {len(loss.calls)} losses"
        return (loss.calls[3] - loss.calls[1]) / 2


TRAINING, TOOLBOX = "training pass", "toolbox"
TWO_SIDED, EXACT = GradientMatching(), GradientMatching(derivative=DoubleBackward())
ON_FEATURES = GradientMatching(objective="bullseye")
CONTENDERS: Mapping[str, Callable[[Setting], float]] = {
    TRAINING: Setting.training_pass,
    "two-sided": lambda setting: setting.brew_step(TWO_SIDED, 1),
    "one-sided": lambda setting: setting.brew_step(GradientMatching(derivative=FiniteDifference(sides=1)), 1),
    "double-backward": lambda setting: setting.brew_step(EXACT, 1),
    "bullseye": lambda setting: setting.brew_step(ON_FEATURES, 1),
    "two-sided in parts": lambda setting: setting.brew_step(TWO_SIDED, PARTS),
    "double-backward in parts": lambda setting: setting.brew_step(EXACT, PARTS),
    "bullseye in parts": lambda setting: setting.brew_step(ON_FEATURES, PARTS),
    TOOLBOX: Setting.toolbox_step,
}


@dataclass(frozen=True)
class Timing:
    """Seconds of each contender, one a round: [rounds]."""

    network: str
    poisons: int
    seconds: Mapping[str, np.ndarray]

    def of(self, contender: str, reference: str) -> np.ndarray:
        """How many times the reference's seconds the contender took, round by round."""
        return self.seconds[contender] / self.seconds[reference]


@pytest.fixture(scope="module", params=[("convnet", 128), ("resnet18", 32)], ids=lambda param: param[0])
def timing(request: pytest.FixtureRequest, figures: "Figures", tmp_path_factory: pytest.TempPathFactory) -> Timing:
    """All contenders in turn on one network, after a round that is not counted."""
    network, poisons = request.param
    rng = np.random.default_rng(0)

    def images(count: int, label: int) -> ImageSet:
        drawn = rng.integers(0, 256, (count, *CIFAR.shape), dtype=np.uint8)
        return ImageSet(drawn, np.full(count, label), np.arange(count))

    model = models.build(Network(name=network), CIFAR, 0).to(memory_format=torch.channels_last).eval()
    setting = Setting(network, model, images(poisons, INTENDED), images(1, 5), tmp_path_factory.mktemp("checkpoint"))
    contenders = {name: run for name, run in CONTENDERS.items() if name != TOOLBOX or _toolbox_runs()}
    seconds = np.array([[run(setting) for run in contenders.values()] for _ in range(figures.rounds + 1)])[1:]
    for name, of_rounds in zip(contenders, seconds.T, strict=True):
        micro_batch = poisons // PARTS if name.endswith("in parts") else poisons
        figures.ratio(f"{name}, CPU seconds", network, poisons, micro_batch, of_rounds)
    return Timing(network, poisons, dict(zip(contenders, seconds.T, strict=True)))


def _toolbox_runs() -> bool:
    # Where there is a GPU it computes there, whatever its classifier is told.
    return importlib.util.find_spec("art") is not None and not torch.cuda.is_available()


@pytest.mark.parametrize(("sides", "limit"), [("two-sided", 2.7), ("one-sided", 2.0)])
def test_a_step_costs_little_more_than_two_training_passes(
    timing: Timing, figures: "Figures", sides: str, limit: float
) -> None:
    ratios = timing.of(sides, TRAINING)
    size = timing.poisons
    figures.check(figures.ratio(f"{sides} step / training pass", timing.network, size, size, ratios, at_most=limit))


@pytest.mark.parametrize(("parts", "limit"), [(1, 1.0), (PARTS, 1.3)])
def test_a_step_on_features_costs_no_more_than_a_training_pass(
    timing: Timing, figures: "Figures", parts: int, limit: float
) -> None:
    """A forward and input-backward pass are two thirds of one; in parts all features come first, a third more."""
    ratios = timing.of("bullseye" if parts == 1 else "bullseye in parts", TRAINING)
    what, size = "bullseye step / training pass", timing.poisons
    figures.check(figures.ratio(what, timing.network, size, size // parts, ratios, at_most=limit))


@pytest.mark.parametrize(("parts", "limit"), [(1, 1.2), (PARTS, 1.5)])
def test_two_sided_is_faster_than_double_backward(timing: Timing, figures: "Figures", parts: int, limit: float) -> None:
    """In micro-batches, which bound the memory, double-backward takes a pass more: B's direction must be known first.

    With all poisons in one graph it takes 3 to 3.4 training passes and two-sided 2.4, of which 2.33 are what two
    forward and input-backward passes and one training pass must take: little is left to gain.
    """
    suffix = "" if parts == 1 else " in parts"
    ratios = timing.of(f"double-backward{suffix}", f"two-sided{suffix}")
    what, size = "double-backward step / two-sided step", timing.poisons
    figures.check(figures.ratio(what, timing.network, size, size // parts, ratios, at_least=limit))


def test_two_sided_is_faster_than_the_toolbox(timing: Timing, figures: "Figures") -> None:
    if TOOLBOX not in timing.seconds:
        pytest.skip("needs adversarial-robustness-toolbox (make bench installs it) and CUDA_VISIBLE_DEVICES= on a GPU")
    # A step of the toolbox takes about 4 training passes, so no step that takes one pass is 4 times faster.
    ratios = timing.of(TOOLBOX, "two-sided")
    what, size = "toolbox step / two-sided step", timing.poisons
    figures.check(figures.ratio(what, timing.network, size, size, ratios, at_least=1.4))
