"""The one form in which images travel between stages: uint8 arrays with labels and ids."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class ImageSet:
    """Labelled images in the dataset's canonical order of ids.

    images: uint8 [N, H, W, C], C is 1 or 3.  labels: int64 [N].  ids: int64 [N], unique; in a whole split, ids[i] == i.
    """

    images: np.ndarray
    labels: np.ndarray
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, ids: Iterable[int]) -> "ImageSet":
        """The images with these ids, in the order asked for. Raises KeyError that names an id that is not there."""
        position = {int(identifier): index for index, identifier in enumerate(self.ids)}
        rows = np.array([position[int(identifier)] for identifier in ids], dtype=np.int64)
        return ImageSet(self.images[rows], self.labels[rows], self.ids[rows])

    def overlaid(self, ids: np.ndarray, images: np.ndarray) -> "ImageSet":
        """A copy in which the images with these ids are replaced (labels stay): base + overlay."""
        position = {int(identifier): index for index, identifier in enumerate(self.ids)}
        rows = np.array([position[int(identifier)] for identifier in ids], dtype=np.int64)
        copy = np.array(self.images)
        copy[rows] = images
        return replace(self, images=copy)


@dataclass(frozen=True)
class DatasetInfo:
    """What a dataset is: its name, class names, image shape (H, W, C) and the train split's mean and standard
    deviation per channel, of pixels scaled to [0, 1]."""

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Dataset:
    """A dataset as `prepare` leaves it: what it is, its train and its test split."""

    info: DatasetInfo
    train: ImageSet
    test: ImageSet
