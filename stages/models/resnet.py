"""ResNets for small images: torchvision's residual blocks behind a 3×3 stem of stride 1 and without its max pool, so
that a 32×32 image is not shrunk to nothing before the first block."""

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from stages.data.images import DatasetInfo
from stages.models.classifier import Classifier
from stages.models.config import Network

_STAGES: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet20": (BasicBlock, (3, 3, 3)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}
"""The block and how many each stage has. resnet20 is the CIFAR network of He et al. (2016), section 4.2."""


def resnet(network: Network, info: DatasetInfo) -> Classifier:
    """A ResNet with stages of w, 2w, 4w, … channels, each but the first halving the image, and a global mean.

    Where the shape changes the shortcut is a 1×1 convolution (He et al. 2016, option B), for resnet20 too, as in the
    public code of Witches' Brew. Convolutions start from a normal distribution scaled by fan-out, as torchvision's.
    """
    assert network.width
    block, counts = _STAGES[network.name]
    channels = network.width
    stem = nn.Conv2d(info.shape[2], channels, kernel_size=3, padding=1, bias=False)
    layers: list[nn.Module] = [stem, nn.BatchNorm2d(channels), nn.ReLU()]
    for stage, count in enumerate(counts):
        planes = network.width * 2**stage
        for index in range(count):
            stride = 2 if stage > 0 and index == 0 else 1
            out = planes * block.expansion
            shortcut = None
            if stride != 1 or channels != out:
                shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
            layers.append(block(channels, planes, stride, shortcut))
            channels = out
    body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return Classifier(body, nn.Linear(channels, len(info.classes)), info)
