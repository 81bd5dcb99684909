"""VGG for small images: the convolutions of Simonyan and Zisserman (2015, table 1, columns A, B and D) with batch
normalisation, and one linear layer in place of three, as the poisoning papers use it on CIFAR-10."""

from stages.data.images import DatasetInfo
from stages.models.classifier import Classifier
from stages.models.config import Network
from stages.models.convnet import plain_network

_CONVOLUTIONS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3)}
"""Convolutions in each of the five blocks; a block ends in a 2×2 max pool."""


def vgg(network: Network, info: DatasetInfo) -> Classifier:
    """VGG-11, -13 or -16: blocks of w, 2w, 4w, 8w, 8w channels (w = 64), then a global mean, which at 32×32 pixels has
    a single pixel to average. Images below 32 pixels go without the pools they have no room for."""
    assert network.width
    plan: list[tuple[int, int]] = []
    for multiple, count in zip((1, 2, 4, 8, 8), _CONVOLUTIONS[network.name], strict=True):
        channels = network.width * multiple
        plan += [(channels, 1)] * (count - 1) + [(channels, 2)]
    return plain_network(plan, info, batch_norm=True, global_pool=True)
