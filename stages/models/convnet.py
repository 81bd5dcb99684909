"""The plain convolutional networks of the poisoning papers, and the stack of convolutions that VGG shares with them.

No activation works in place: backward hooks (per-sample gradients) and a second backward pass then need no care.
"""

from collections.abc import Sequence

from torch import nn

from stages.data.images import DatasetInfo
from stages.models.classifier import Classifier
from stages.models.config import Network

_ACTIVATIONS = {"relu": nn.ReLU, "softplus": nn.Softplus, "gelu": nn.GELU}


def plain_network(
    plan: Sequence[tuple[int, int]],
    info: DatasetInfo,
    *,
    batch_norm: bool,
    activation: str = "relu",
    norm_last: bool = False,
    global_pool: bool = False,
) -> Classifier:
    """A row of 3×3 convolutions and a linear layer on the flattened result.

    plan: per convolution its channels and the side of the pool after it (1: none). A pool larger than what is left of
    the image is left out, so that any image size works.  norm_last: normalise after the activation instead of before.
    global_pool: average over what is left of the image, so that the head's size does not depend on the image's.
    Pools take maxima after relu, and means after a smooth activation, so that the network as a whole is smooth.
    """
    height, width, channels = info.shape
    layers: list[nn.Module] = []
    for out, window in plan:
        layers.append(nn.Conv2d(channels, out, kernel_size=3, padding=1))
        norm: list[nn.Module] = [nn.BatchNorm2d(out)] if batch_norm else []
        layers += [_ACTIVATIONS[activation](), *norm] if norm_last else [*norm, _ACTIVATIONS[activation]()]
        if 1 < window <= min(height, width):
            layers.append(nn.MaxPool2d(window) if activation == "relu" else nn.AvgPool2d(window))
            height, width = height // window, width // window
        channels = out
    if global_pool:
        layers.append(nn.AdaptiveAvgPool2d(1))
        height = width = 1
    head = nn.Linear(channels * height * width, len(info.classes))
    return Classifier(nn.Sequential(*layers, nn.Flatten()), head, info)


def _pools(info: DatasetInfo) -> tuple[int, int]:
    """The sides of a ConvNet's two pools: 3 as published for images of 24 pixels and more, else 2, and the second is
    left out where at most 4 pixels remain. 32 -> 10 -> 3, 28 -> 9 -> 3, 16 -> 8 -> 4, 8 -> 4."""
    side = min(info.shape[:2])
    window = 3 if side >= 24 else 2
    return window, window if side // window > 4 else 1


def convnet(network: Network, info: DatasetInfo) -> Classifier:
    """The ConvNet of `depth` layers: convolutions of w, 2w, 2w, 4w, 4w, 4w, … channels, a pool after each of the last
    two, and a linear layer. With depth 6, w = 64 and 32×32 images it is the ConvNet of Witches' Brew (Geiping et al.
    2021, section 5, after Finn et al. 2017 and MetaPoison), layer by layer as in its public code
    (poisoning-gradient-matching, forest/victims/models.py, `convnet`)."""
    assert network.width and network.depth and network.activation and network.batch_norm is not None
    multiples = [1, 2, 2, *[4] * network.depth][: network.depth - 1]
    pools = [1] * (len(multiples) - 2) + [*_pools(info)]
    plan = [(network.width * multiple, pool) for multiple, pool in zip(multiples, pools, strict=True)]
    return plain_network(plan, info, batch_norm=network.batch_norm, activation=network.activation)


def convnet_bn(network: Network, info: DatasetInfo) -> Classifier:
    """The ConvNetBN of the same code: eight convolutions with batch normalisation, of w, 2w, 2w, 4w, … channels, a pool
    after the sixth and the eighth, and a linear layer."""
    assert network.width
    first, second = _pools(info)
    multiples = [(1, 1), (2, 1), (2, 1), (4, 1), (4, 1), (4, first), (4, 1), (4, second)]
    return plain_network([(network.width * multiple, pool) for multiple, pool in multiples], info, batch_norm=True)
