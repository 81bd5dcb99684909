"""Networks without convolutions, of which the indiscriminate attacks say most (Lu, Kamath & Yu 2023, section 5)."""

from itertools import pairwise
from math import prod

from torch import nn

from stages.data.images import DatasetInfo
from stages.models.classifier import Classifier
from stages.models.config import Network


def linear(network: Network, info: DatasetInfo) -> Classifier:
    """Multi-class logistic regression: a linear layer on the normalised pixels."""
    return Classifier(nn.Flatten(), nn.Linear(prod(info.shape), len(info.classes)), info)


def mlp(network: Network, info: DatasetInfo) -> Classifier:
    """A fully connected network of `depth` linear layers with ReLU between them, `width` units in each hidden one. The
    paper has three layers and leaves their width open; 512 is ours. Its two-convolution network for MNIST is our
    `convnet` of depth 3."""
    assert network.width and network.depth
    units = [prod(info.shape), *[network.width] * (network.depth - 1)]
    layers = [layer for a, b in pairwise(units) for layer in (nn.Linear(a, b), nn.ReLU())]
    return Classifier(nn.Sequential(nn.Flatten(), *layers), nn.Linear(network.width, len(info.classes)), info)
