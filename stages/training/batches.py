"""Batches for training from memory: order, crops and flips are pure functions of the step's seed and the epoch."""

from collections.abc import Iterator

import numpy as np
import torch

from stages.data.images import ImageSet
from stages.training.config import Augmentation


def to_tensor(images: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
    """uint8 [N, H, W, C] as a uint8 tensor [N, C, H, W] in channels-last memory, without copying on the CPU."""
    return torch.from_numpy(np.array(images) if not images.flags.writeable else images).to(device).permute(0, 3, 1, 2)


def pixels(images: torch.Tensor) -> torch.Tensor:
    """uint8 [B, C, H, W] as float32 in [0, 1]."""
    return images.float().div_(255)


class Batches:
    """A training split in memory, cut into shuffled and augmented batches, epoch by epoch."""

    def __init__(self, images: ImageSet, batch_size: int, augmentation: Augmentation, device: torch.device) -> None:
        pad = augmentation.pad
        self._height, self._width = images.images.shape[1:3]
        padded = np.pad(images.images, ((0, 0), (pad, pad), (pad, pad), (0, 0))) if pad else images.images
        self._padded = to_tensor(padded, device)
        self._labels = torch.from_numpy(images.labels.copy()).to(device)
        self._augmentation = augmentation
        self._starts = list(range(0, len(images), batch_size))
        if len(self._starts) > 1 and len(images) - self._starts[-1] == 1:
            # Batch normalisation cannot train on a single image: the last one joins the batch before it.
            self._starts.pop()

    def __len__(self) -> int:
        return len(self._starts)

    def epoch(self, rng: np.random.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """All images once: (float32 [B, C, H, W] in [0, 1], int64 [B]), in the order and with the crops of `rng`."""
        total, pad = len(self._labels), self._augmentation.pad
        order = rng.permutation(total)
        top = rng.integers(0, 2 * pad + 1, total)
        left = rng.integers(0, 2 * pad + 1, total)
        flip = rng.random(total) < 0.5 if self._augmentation.flip else np.zeros(total, dtype=bool)
        for start, stop in zip(self._starts, [*self._starts[1:], total], strict=True):
            chosen = order[start:stop]
            yield self._crop(chosen, top[chosen], left[chosen], flip[chosen]), self._labels[chosen]

    def _crop(self, chosen: np.ndarray, top: np.ndarray, left: np.ndarray, flip: np.ndarray) -> torch.Tensor:
        rows = top[:, None] + np.arange(self._height)
        columns = left[:, None] + np.arange(self._width)
        columns = np.where(flip[:, None], columns[:, ::-1], columns)
        device = self._padded.device
        index = [torch.from_numpy(part).to(device) for part in (chosen, rows, columns)]
        channels_last = self._padded.permute(0, 2, 3, 1)
        crops = channels_last[index[0][:, None, None], index[1][:, :, None], index[2][:, None, :]]
        return pixels(crops.permute(0, 3, 1, 2))
