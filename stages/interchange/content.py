"""What is written for other people's tools: a dataset with one case's poisons in it, handed out a batch at a time.

A poisoned ImageNet does not fit into memory, so nobody who writes it ever asks for more than a batch.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages.data.cases import Case
from stages.data.images import Dataset, ImageSet
from stages.shards.config import Split

if TYPE_CHECKING:
    from stages.shards.poisons import PoisonSet

Tell = Callable[[int], None]
"""Told how many more images are done."""

BATCH_BYTES = 1 << 24
"""Pixels in memory at once."""


@dataclass(frozen=True)
class Batch:
    """Some images of a split. ids, labels: int64 [B].  poison: bool [B].  images: uint8 [B, H, W, C]."""

    ids: np.ndarray
    labels: np.ndarray
    poison: np.ndarray
    images: np.ndarray


class Rows:
    """The images of one split in the order in which they are written, poisons in place of those that they replace."""

    def __init__(self, images: ImageSet, poisons: "PoisonSet | None") -> None:
        self.ids, self.labels = images.ids, images.labels
        self._images, self._poisons = images.images, poisons
        self._digits = len(str(images.ids.max()))
        self._poison_of = np.full(len(images), -1)
        if poisons is not None:
            self._poison_of[images.rows_of(poisons.ids)] = np.arange(len(poisons))

    def __len__(self) -> int:
        return len(self.ids)

    def file(self, identifier: int) -> str:
        """What the image with this id is called as a PNG; names are of one length, so that their order is the ids'."""
        return f"{identifier:0{self._digits}d}.png"

    @property
    def poison(self) -> np.ndarray:
        """bool [N]: which are poisons."""
        return self._poison_of >= 0

    def at(self, rows: slice | np.ndarray) -> Batch:
        """The images of some rows."""
        images = np.array(self._images[rows])
        poison_of = self._poison_of[rows]
        poison = poison_of >= 0
        if self._poisons is not None:
            images[poison] = self._poisons.images[poison_of[poison]]
        return Batch(self.ids[rows], self.labels[rows], poison, images)

    @property
    def batch_size(self) -> int:
        """How many images a batch has, but for the last."""
        return max(1, BATCH_BYTES // math.prod(self._images.shape[1:]))

    def batches(self) -> Iterator[Batch]:
        """All rows, in order."""
        return (self.at(slice(start, start + self.batch_size)) for start in range(0, len(self), self.batch_size))


@dataclass(frozen=True)
class Content:
    """A dataset, the poisons of a case that fit it (see `shards.poisons.check`), and which part of it is written.

    only_poisons: the poisons alone, as the split `train`.  prefix: where the files will lie, for a format that says so.
    shards: the dataset's files, in order, for a format that can copy them.
    """

    dataset: Dataset
    poisons: "PoisonSet"
    case: Case
    only_poisons: bool = False
    prefix: str = ""
    shards: Mapping[Split, tuple[Path, ...]] = field(default_factory=dict)

    @cached_property
    def splits(self) -> dict[Split, Rows]:
        """What is written."""
        if self.only_poisons:
            return {"train": Rows(self.poisons.image_set(), self.poisons)}
        return {"train": Rows(self.dataset.train, self.poisons), "test": Rows(self.dataset.test, None)}

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.splits.values())


@dataclass(frozen=True)
class Outside:
    """Poisons as somebody else's folder has them. ids: int64 [P].  images: uint8 [P, H, W, C].
    labels: int64 [P], or None where the format has none.  target: the image that comes with them, and its label, if
    any."""

    ids: np.ndarray
    images: np.ndarray
    labels: np.ndarray | None = None
    target: tuple[np.ndarray, int | None] | None = None


@dataclass(frozen=True)
class Way:
    """The way back from a format: poisons that others made.

    files: the files that are read, from a listing alone; raises InputError for one that is missing or that is refused.
    read: the poisons in a folder; takes the shape (H, W, C) that each image must have. Raises InputError that names the
    file that is no such thing.
    """

    files: Callable[[Path], list[Path]]
    read: Callable[[Path, tuple[int, int, int]], Outside]


@dataclass(frozen=True)
class Format:
    """One form in which datasets travel.

    write: put the content into a folder that is empty; streams.
    read_back: images uint8 [n, H, W, C] and labels int64 [n] of some rows (int64 [n]) of a split that `write` wrote,
    through the reader that the format's users have.
    refuse: raises InputError for content that the format cannot hold; None where it can hold any.
    only_poisons: whether it never holds more than the poisons.
    reads_at_once: whether its reader is so slow to start that all rows are read back together.
    back: how poisons of others are read; None where they are not.
    """

    write: Callable[[Content, Path, Tell], None]
    read_back: Callable[[Content, Path, Split, np.ndarray], tuple[np.ndarray, np.ndarray]]
    refuse: Callable[[Content], None] | None = None
    only_poisons: bool = False
    reads_at_once: bool = False
    back: Way | None = None
