"""What every network is to the rest of brewline: pixels in, features, and one linear layer on top.

Attacks and defenses need the three apart: feature collision and spectral signatures read the features, transfer
learning trains only the head, and an epsilon in pixels means the same for every network only if each normalises inside.
"""

from collections.abc import Sequence

import torch
from torch import nn

from stages.data.images import DatasetInfo


class Classifier(nn.Module):
    """A network that normalises its input: float images [B, C, H, W] in [0, 1] -> logits [B, classes].

    body: normalised images -> features [B, d].  head: the last linear layer, features -> logits.
    mean, std: the normalisation, in place of the dataset's. Three values for a dataset of one channel repeat that
    channel three times, for networks that are made for colour.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        body: nn.Module,
        head: nn.Linear,
        info: DatasetInfo,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.channels = info.shape[2]
        self.frozen = False
        self.register_buffer("mean", torch.tensor(mean or info.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std or info.std).view(1, -1, 1, 1))

    def freeze_body(self) -> None:
        """From here on training moves the head alone: no weight and no running statistic of the body."""
        self.frozen = True
        self.body.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "Classifier":
        """Training or evaluation mode, in which a frozen body always is."""
        super().train(mode)
        if self.frozen:
            self.body.eval()
        return self

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """The input of the last linear layer, [B, d]. Raises ValueError for images of another number of channels."""
        # Said here because one channel would otherwise broadcast against three means without a word.
        if images.shape[1] != self.channels:
            raise ValueError(
                f"images have {images.shape[1]} channels (dimension 1); this network takes {self.channels}"
            )
        features: torch.Tensor = self.body((images - self.mean) / self.std)
        return features

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [B, classes]."""
        logits: torch.Tensor = self.head(self.features(images))
        return logits
