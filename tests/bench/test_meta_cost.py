"""What an epoch of MetaPoison's networks costs, against the training passes that Algorithm 1 makes it contain.

From each batch with poisons there is a step of training, K unrolled steps, and the way back through them: each but the
first asks for the product of a Hessian with a vector, which is two passes by exact means (a backward pass through a
forward and a backward one); the first asks for the derivative at the poisons, which is little beside it where images do
not meet in a batch, and two passes where they do (batch normalisation). By CPU seconds of one thread.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from stages import models
from stages.brew.meta.config import Lookahead
from stages.brew.meta.epoch import Poisons, run_epoch
from stages.brew.meta.lookahead import Labelled
from stages.data.images import DatasetInfo, ImageSet
from stages.models.config import Network
from stages.stage import Checkpoint, Context, Runtime
from stages.training import loop
from stages.training.batches import pixels, to_tensor
from stages.training.config import Augmentation, Training

if TYPE_CHECKING:
    from conftest import Figures

pytestmark = pytest.mark.bench

CIFAR = DatasetInfo("random", tuple("0123456789"), (32, 32, 3), (0.5,) * 3, (0.25,) * 3)
BATCHES = 2


@dataclass(frozen=True)
class Setting:
    """A network with BATCHES batches of images, in each of which a few are poisons."""

    model: torch.nn.Module
    images: ImageSet
    batch: int
    folder: Path

    def training_pass(self) -> float:
        """Seconds of a forward pass and a backward pass in the weights, over one batch."""
        inputs = pixels(to_tensor(self.images.array[: self.batch]))
        labels = torch.from_numpy(self.images.labels[: self.batch])
        self.model.train()
        began = time.process_time()
        torch.autograd.grad(cross_entropy(self.model(inputs), labels), list(self.model.parameters()))
        return time.process_time() - began

    def epoch(self, unroll: int) -> tuple[float, int]:
        """(seconds of an epoch, the batches that had poisons)."""
        ids = self.images.ids[::8]
        training = Training(batch_size=self.batch, augmentation=Augmentation(flip=False, pad=0))
        optimizer = loop.optimizer_of(self.model, training, 1e-4)
        ctx = Context(0, Runtime(device="cpu"), Checkpoint(self.folder))
        targets = Labelled(torch.rand(1, 3, 32, 32), torch.zeros(1, dtype=torch.int64))
        poisons = Poisons(ids, pixels(to_tensor(self.images.of(ids).array)))
        how = Lookahead(unroll=unroll, adversarial_loss="cross-entropy")
        began = time.process_time()
        seen = run_epoch(self.model, optimizer, self.images, poisons, targets, how, training, 1e-4, 0, ctx)
        return time.process_time() - began, len(seen.losses)


NETWORKS: Mapping[str, tuple[Network, int, int]] = {
    "convnet": (Network(name="convnet"), 64, 0),
    "resnet18": (Network(name="resnet18", width=32), 32, 2),
}
"""Network, images in a batch, and passes that the derivative at the poisons is."""


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("unroll", [1, 2, 3])
def test_an_epoch_costs_little_more_than_the_passes_in_it(
    network: str, unroll: int, figures: "Figures", tmp_path: Path
) -> None:
    config, batch, at_poisons = NETWORKS[network]
    model = loop.to_device(models.build(config, CIFAR, 0), torch.device("cpu"))
    size = BATCHES * batch
    drawn = np.random.default_rng(0).integers(0, 256, (size, *CIFAR.shape), dtype=np.uint8)
    setting = Setting(model, ImageSet(drawn, np.arange(size) % 10, np.arange(size)), batch, tmp_path)
    contained, plain = [], []
    for number in range(figures.rounds + 1):
        passes = [setting.training_pass() for _ in range(2)]
        seconds, looked = setting.epoch(unroll)
        passes += [setting.training_pass() for _ in range(2)]
        one = np.median(passes)
        assert looked == BATCHES
        if number:  # the first is not counted
            contained.append(seconds / one / (BATCHES * (1 + unroll + 2 * (unroll - 1) + at_poisons)))
            plain.append(seconds / one / (BATCHES * (1 + unroll)))
    poisons = len(setting.images.ids[::8])
    figures.ratio(f"epoch of K={unroll} / training and unrolled passes alone", network, poisons, batch, plain)
    figures.check(
        figures.ratio(f"epoch of K={unroll} / passes it contains", network, poisons, batch, contained, at_most=1.5)
    )
