"""The one form in which images travel between stages: uint8 images with labels and ids."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from stages.data.pixels import Images, joined, pixels_of


@dataclass(frozen=True)
class ImageSet:
    """Labelled images in the dataset's canonical order of ids.

    images: uint8 [N, H, W, C], C is 1 or 3.  labels: int64 [N].  ids: int64 [N], unique; in a whole split, ids[i] == i.
    """

    images: Images
    labels: np.ndarray
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def rows_of(self, ids: Iterable[int] | np.ndarray) -> np.ndarray:
        """The rows, int64, of the images with these ids. Raises KeyError that names an id that is not there."""
        wanted = np.fromiter(ids, np.int64) if not isinstance(ids, np.ndarray) else ids
        order = np.argsort(self.ids)
        places = np.searchsorted(self.ids, wanted, sorter=order)
        rows = order[np.minimum(places, len(self) - 1)]
        if len(strangers := wanted[self.ids[rows] != wanted]):
            raise KeyError(int(strangers[0]))
        return rows

    @property
    def array(self) -> np.ndarray:
        """The images as one array, which is a copy unless they are one."""
        return np.asarray(self.images)

    def of(self, ids: Iterable[int] | np.ndarray) -> "ImageSet":
        """The images with these ids, as an array in the order asked for. Raises KeyError as `rows_of`."""
        rows = self.rows_of(ids)
        return ImageSet(self.images[rows], self.labels[rows], self.ids[rows])

    def rows(self, rows: np.ndarray) -> "ImageSet":
        """The images of these rows (int64 [n]), in this order, without copying one."""
        return ImageSet(pixels_of(self.images).rows(rows), self.labels[rows], self.ids[rows])

    def overlaid(self, ids: np.ndarray, images: np.ndarray) -> "ImageSet":
        """The set with the images of these ids replaced (labels stay): base + overlay, and none of the base copied."""
        return replace(self, images=pixels_of(self.images).overlaid(self.rows_of(ids), images))

    def appended(self, images: np.ndarray, labels: np.ndarray) -> "ImageSet":
        """A whole split with these images (uint8 [P, H, W, C]) and labels (int64 [P]) behind it, under the next ids;
        none of the base copied."""
        every = np.arange(len(self) + len(labels), dtype=np.int64)
        behind = joined([pixels_of(self.images), pixels_of(images)])
        return ImageSet(behind, np.concatenate([self.labels, labels]), every)


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
