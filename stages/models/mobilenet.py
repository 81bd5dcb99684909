"""MobileNetV2 (Sandler et al. 2018) for small images, as the poisoning benchmark of Schwarzschild et al. (2021) and
Witches' Brew train it on CIFAR-10.

torchvision's differs from it in more than strides (ReLU6, no projected shortcuts, dropout), hence this one.
"""

import torch
from torch import nn

from stages.data.images import DatasetInfo
from stages.models.classifier import Classifier
from stages.models.config import Network

_STEM, _LAST = 32, 1280
_BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks and first stride of each stage: Sandler et al., table 2, with stride 1 in the second
stage (and in the stem), for 32×32 images."""


def _convolution(inputs: int, outputs: int, size: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class InvertedResidual(nn.Module):
    """Expand, filter each channel by itself, project. With stride 1 a shortcut is added, itself projected where the
    number of channels changes."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = expansion * inputs
        self.residual = nn.Sequential(
            *_convolution(inputs, hidden),
            nn.ReLU(),
            *_convolution(hidden, hidden, 3, stride, groups=hidden),
            nn.ReLU(),
            *_convolution(hidden, outputs),
        )
        self.shortcut: nn.Module | None = None
        if stride == 1:
            self.shortcut = nn.Identity() if inputs == outputs else nn.Sequential(*_convolution(inputs, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, inputs, H, W] -> [B, outputs, H/stride, W/stride]."""
        residual: torch.Tensor = self.residual(x)
        return residual if self.shortcut is None else residual + self.shortcut(x)


def mobilenet(network: Network, info: DatasetInfo) -> Classifier:
    """MobileNetV2; a `width` other than 32 scales the channels of every layer, the last convolution's too."""
    assert network.width

    def scaled(channels: int) -> int:
        return max(1, channels * width // _STEM)

    width = network.width
    layers = [*_convolution(info.shape[2], width, 3), nn.ReLU()]
    channels = width
    for expansion, outputs, count, first_stride in _BLOCKS:
        for index in range(count):
            layers.append(InvertedResidual(channels, scaled(outputs), expansion, first_stride if index == 0 else 1))
            channels = scaled(outputs)
    last = scaled(_LAST)
    layers += [*_convolution(channels, last), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return Classifier(nn.Sequential(*layers), nn.Linear(last, len(info.classes)), info)
