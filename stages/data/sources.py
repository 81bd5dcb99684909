"""Published datasets' pixels, downloaded where need be, and the statistics that images are normalised with."""

import numpy as np
from PIL import Image

from stages.data.canonical import CANONICAL
from stages.data.dataset_config import DatasetConfig, Digits, Resized, folder_of, name_of
from stages.data.datasets import held_by, used, whole_of
from stages.data.image_tree import Tree
from stages.data.images import Dataset, DatasetInfo, ImageSet

COUNTED_AT_ONCE = 64


def read(config: DatasetConfig) -> Dataset:
    """A published dataset with its subsets taken; an image tree is read with `stages.data.decode` instead.

    Raises InputError as `resolve` does, and for published files that fail their checksums.
    """
    held = held_by(config)
    if held is None and not isinstance(config, Digits | Resized):
        CANONICAL[config.kind].fetch(folder_of(config))
        held = held_by(config)
    if held is None or isinstance(held, Tree):
        raise ValueError(f"{name_of(config)} is an image tree here, not the published files")
    whole = whole_of(config, held)
    (train_images, train_labels), (test_images, test_labels) = CANONICAL[config.kind].read(held)
    train = _numbered(train_images, *used(config, held, train_labels, "train"))
    test = _numbered(test_images, *used(config, held, test_labels, "test"))
    mean, std = channel_statistics(train.array)
    return Dataset(DatasetInfo(name_of(config), whole.classes, whole.shape, mean, std), train, test)


def channel_counts(images: np.ndarray) -> np.ndarray:
    """How often each grey level is there, int64 [C, 256], of uint8 images [N, H, W, C]; C is 1 or 3.

    Counts of parts add up to those of the whole. Pillow counts, in a third of np.bincount's time.
    """
    _, _, width, channels = images.shape
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(images), COUNTED_AT_ONCE):
        block = np.ascontiguousarray(images[start : start + COUNTED_AT_ONCE])
        rows = Image.fromarray(block.reshape((-1, width, 3) if channels == 3 else (-1, width)))
        counts += np.array(rows.histogram()).reshape(channels, 256)
    return counts


def statistics_of(counts: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation per channel, with pixels scaled to [0, 1], of `channel_counts`.

    Exact but for the last float64 operations. A channel without variance gets 1, so that dividing by it is harmless.
    """
    levels = np.arange(256) / 255
    mean = counts @ levels / counts.sum(axis=1)
    variance = (counts * (levels - mean[:, np.newaxis]) ** 2).sum(axis=1) / counts.sum(axis=1)
    std = np.where(np.count_nonzero(counts, axis=1) > 1, np.sqrt(variance), 1.0)
    return tuple(mean.tolist()), tuple(std.tolist())


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 images [N, H, W, C], as `statistics_of` gives them."""
    return statistics_of(channel_counts(images))


def _numbered(images: np.ndarray, rows: np.ndarray, labels: np.ndarray) -> ImageSet:
    return ImageSet(images[rows], labels, np.arange(len(rows), dtype=np.int64))
