"""From a dataset's configuration to its pixels: published files, downloaded where need be, or an image tree."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from stages.config import InputError
from stages.data.canonical import CANONICAL
from stages.data.datasets import (
    DatasetConfig,
    Digits,
    ImageFolder,
    first_of_each,
    folder_of,
    held_by,
    name_of,
    whole_of,
)
from stages.data.image_tree import Form, Tree, decode, some
from stages.data.images import Dataset, DatasetInfo, ImageSet

Progress = Callable[[int, int], None]
"""Told (images done, all images), now and then."""


def read(config: DatasetConfig, cpus: int, scratch: Path, progress: Progress) -> Dataset:
    """The dataset with its subsets taken.

    scratch: a folder on a disk with room for an image tree's pixels.
    Raises InputError as `resolve` does; for published files that fail their checksums; and, once all images were tried,
    one that names the files of an image tree that are no whole images.
    """
    held = held_by(config)
    if held is None and not isinstance(config, Digits | ImageFolder):
        CANONICAL[config.kind].fetch(folder_of(config))
        held = held_by(config)
    whole = whole_of(config, held)
    if isinstance(held, Tree):
        form = Form(whole.shape, config.resize if isinstance(config, ImageFolder) else None)
        per_class = (config.per_class, config.test_per_class)
        train, test = _read_tree(held, form, per_class, cpus=cpus, scratch=scratch, progress=progress)
    else:
        assert held is not None  # what is not there was downloaded
        (images, labels), (test_images, test_labels) = CANONICAL[config.kind].read(held)
        rows, test_rows = first_of_each(labels, config.per_class), first_of_each(test_labels, config.test_per_class)
        train, test = _numbered(images[rows], labels[rows]), _numbered(test_images[test_rows], test_labels[test_rows])
        progress(len(train) + len(test), len(train) + len(test))
    mean, std = channel_statistics(train.images)
    return Dataset(DatasetInfo(name_of(config), whole.classes, whole.shape, mean, std), train, test)


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation per channel of uint8 images [N, H, W, C], with pixels scaled to [0, 1].

    Exact but for the last float64 operations, as it counts grey levels. A channel without variance gets 1, so that
    dividing by it is harmless.
    """
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for image in images:
        for channel in range(len(counts)):
            counts[channel] += np.bincount(image[..., channel].ravel(), minlength=256)
    levels = np.arange(256) / 255
    mean = counts @ levels / counts.sum(axis=1)
    variance = (counts * (levels - mean[:, np.newaxis]) ** 2).sum(axis=1) / counts.sum(axis=1)
    std = np.where(np.count_nonzero(counts, axis=1) > 1, np.sqrt(variance), 1.0)
    return tuple(mean.tolist()), tuple(std.tolist())


def _read_tree(
    tree: Tree, form: Form, per_class: tuple[int | None, int | None], *, cpus: int, scratch: Path, progress: Progress
) -> tuple[ImageSet, ImageSet]:
    rows = first_of_each(tree.train_labels, per_class[0])
    test_rows = first_of_each(tree.test_labels, per_class[1])
    total = len(rows) + len(test_rows)
    files = [tree.root / tree.train_files[row] for row in rows]
    test_files = [tree.root / tree.test_files[row] for row in test_rows]
    images, faults = decode(files, form, cpus, scratch, lambda done: progress(done, total))
    test_images, more = decode(test_files, form, cpus, scratch, lambda done: progress(len(rows) + done, total))
    if faults := faults + more:
        raise InputError(
            f"{tree.root}: {len(faults)} of {total} images cannot be used:\n{some(faults, between=chr(10))}\n"
            "Replace these files or remove them (either changes the fingerprint), then plan the experiment again"
        )
    return _numbered(images, tree.train_labels[rows]), _numbered(test_images, tree.test_labels[test_rows])


def _numbered(images: np.ndarray, labels: np.ndarray) -> ImageSet:
    return ImageSet(images, labels, np.arange(len(labels), dtype=np.int64))
