"""The scaled-down AlexNet for CIFAR-10 that MetaPoison (Huang et al. 2020) brews and trains with."""

from stages.data.images import DatasetInfo
from stages.models.classifier import Classifier
from stages.models.config import Network
from stages.models.convnet import plain_network


def alexnet(network: Network, info: DatasetInfo) -> Classifier:
    """Five 3×3 convolutions of w, 2w, 2w, 4w, 4w channels (w = 16), each followed by ReLU, batch normalisation if asked
    for, and a 2×2 max pool, then a linear layer; as `alexnet_metapoison` in the public code of Witches' Brew
    (poisoning-gradient-matching, forest/victims/models.py)."""
    assert network.width and network.batch_norm is not None
    plan = [(network.width * multiple, 2) for multiple in (1, 2, 2, 4, 4)]
    return plain_network(plan, info, batch_norm=network.batch_norm, norm_last=True)
