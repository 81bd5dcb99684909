"""Batches for training, whatever the images lie in: order, crops and flips are pure functions of seed and epoch, each
image is in exactly one batch of an epoch, and the next batch is read while this one is trained on."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from stages.config import InputError
from stages.data.images import ImageSet
from stages.data.pixels import Crops, Readers, pixels_of
from stages.stage import ONLY, Worker
from stages.training.config import Augmentation


class Batch(NamedTuple):
    """images: uint8 [B, C, H, W] in channels-last memory, valid until the next batch is asked for.  labels, ids:
    int64 [B]. All on the device.  total: images of the batch over all workers; B may be 0 for one of them."""

    images: torch.Tensor
    labels: torch.Tensor
    ids: torch.Tensor
    total: int


def to_tensor(images: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
    """uint8 [N, H, W, C] as a uint8 tensor [N, C, H, W] in channels-last memory, without copying on the CPU."""
    return torch.from_numpy(np.array(images) if not images.flags.writeable else images).to(device).permute(0, 3, 1, 2)


def to_array(images: torch.Tensor) -> np.ndarray:
    """A uint8 tensor [N, C, H, W], of any device and memory order, as images in one block, uint8 [N, H, W, C]."""
    array: np.ndarray = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return array


def pixels(images: torch.Tensor) -> torch.Tensor:
    """uint8 [B, C, H, W] as float32 in [0, 1]."""
    return images.float().div_(255)


class Batches:
    """A training split, cut into shuffled and augmented batches, epoch by epoch."""

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        augmentation: Augmentation,
        device: torch.device,
        *,
        threads: int = 1,
        worker: Worker = ONLY,
        groups: int = 1,
    ) -> None:
        """batch_size: over all workers.  threads: that read.  worker: which of the workers this is; together their
        batches are those of a single worker, each cut into parts that differ by at most one image.  groups: that each
        batch must be large enough for, with two images each. One epoch at a time: they share their memory.

        Raises InputError where the batches are too small for the groups or the workers.
        """
        whole = min(len(images), batch_size)
        if groups > 1 and whole < 2 * groups:
            raise InputError(
                f"training.batch_norm_groups is {groups}, and the batches have {whole} images; each group needs two"
            )
        if worker.count > 1 and whole < 2 * worker.count:
            raise InputError(
                f"runtime.workers: {worker.count} workers train together, and the batches have {whole} images; each "
                "needs two, so let fewer workers train, or set a larger training.batch_size"
            )
        self._pixels = pixels_of(images.images)
        self._labels, self._ids = images.labels, images.ids
        self._augmentation, self._device = augmentation, device
        self._readers = Readers(threads)
        self._worker = worker
        starts = list(range(0, len(images), batch_size))
        if len(starts) > 1 and len(images) - starts[-1] < 2 * groups:
            # Batch normalisation cannot train on a single image: a rest too small joins the batch before it. How many
            # workers there are must not matter: one may get no image of the last batch.
            starts.pop()
        self._bounds = list(zip(starts, [*starts[1:], len(images)], strict=True))
        largest = -(-max(stop - start for start, stop in self._bounds) // worker.count)
        shape = (largest, *self._pixels.shape[1:])
        pinned = device.type == "cuda"
        self._buffers = [torch.empty(shape, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)]

    def __len__(self) -> int:
        return len(self._bounds)

    def epoch(self, rng: np.random.Generator, first: int = 0) -> Iterator[Batch]:
        """All images once, in the order and with the crops of `rng`.  first: the number of the batch to begin with."""
        total, pad = len(self._labels), self._augmentation.pad
        order = rng.permutation(total)
        top = rng.integers(0, 2 * pad + 1, total)
        left = rng.integers(0, 2 * pad + 1, total)
        flip = rng.random(total) < 0.5 if self._augmentation.flip else np.zeros(total, dtype=bool)

        def start(number: int) -> tuple[np.ndarray, Callable[[], None]]:
            begin, end = self._bounds[number]
            rows = order[begin:end][self._worker.rank :: self._worker.count]
            buffer = self._buffers[number % 2][: len(rows)].numpy()
            return rows, self._readers.start(self._pixels, rows, buffer, Crops(top[rows], left[rows], flip[rows], pad))

        rows, wait = start(first)
        try:
            for number in range(first, len(self)):
                wait()
                begin, end = self._bounds[number]
                batch = self._batch(self._buffers[number % 2][: len(rows)], rows, end - begin)
                if number + 1 < len(self):
                    rows, wait = start(number + 1)
                yield batch
        finally:
            wait()  # an epoch that is given up leaves nobody writing to the buffers

    def _batch(self, images: torch.Tensor, rows: np.ndarray, total: int) -> Batch:
        labels, ids = torch.from_numpy(self._labels[rows]), torch.from_numpy(self._ids[rows])
        if self._device.type == "cuda":
            # Waited for: the buffer is filled anew while the batch after this one is trained on.
            images = images.to(self._device)
            labels, ids = labels.to(self._device), ids.to(self._device)
        return Batch(images.permute(0, 3, 1, 2), labels, ids, total)
