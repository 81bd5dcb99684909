"""A smooth network in float64, on which a derivative is exact to many digits, and images for it."""

import torch

from stages import models
from stages.data.images import DatasetInfo
from stages.models import Network
from stages.models.classifier import Classifier

P, CLASSES = 12, 3
INFO = DatasetInfo("tiny", tuple("abc"), (8, 8, 2), (0.4, 0.5), (0.2, 0.3))


def smooth_network(batch_norm: bool = True) -> Classifier:
    """A softplus ConvNet in evaluation mode."""
    network = Network(name="convnet", width=4, depth=4, activation="softplus", batch_norm=batch_norm)
    model = models.build(network, INFO, 0).double()
    if batch_norm:
        # Running statistics as after a training: not the ones every network starts with.
        generator = torch.Generator().manual_seed(5)
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.add_(torch.rand(buffer.shape, generator=generator, dtype=buffer.dtype))
    return model.eval()


def random_images(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images in [0, 1] and labels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 2, 8, 8, generator=generator, dtype=torch.float64)
    return images, torch.randint(0, CLASSES, (count,), generator=generator)


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """How far a tensor is from another, as a part of the other's length."""
    return ((found - expected).norm() / expected.norm()).item()
