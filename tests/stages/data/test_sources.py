"""Published datasets' pixels, and statistics that add up over parts."""

from pathlib import Path

import numpy as np
import pytest

from stages.data.dataset_config import Cifar10, Digits
from stages.data.sources import channel_counts, channel_statistics, read, statistics_of


@pytest.mark.parametrize("channels", [1, 3])
def test_counts_are_numpys_and_add_up_over_parts(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (150, 6, 7, channels), np.uint8)
    counts = channel_counts(images)
    expected = [np.bincount(images[..., channel].ravel(), minlength=256) for channel in range(channels)]
    assert counts.dtype == np.int64
    assert np.array_equal(counts, expected)
    assert np.array_equal(channel_counts(images[:1]) + channel_counts(images[1:]), counts)
    assert np.array_equal(channel_counts(images[::-1, :, ::-1]), counts)
    assert statistics_of(counts) == channel_statistics(images)


def test_statistics_are_numpys_and_a_constant_channel_gets_one() -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 6, 7, 3), np.uint8)
    images[..., 1] = 17
    mean, std = channel_statistics(images)
    scaled = images.astype(np.float64) / 255
    assert mean == pytest.approx(scaled.mean(axis=(0, 1, 2)), abs=1e-12)
    assert std == pytest.approx([scaled[..., 0].std(), 1.0, scaled[..., 2].std()], abs=1e-12)


def test_a_subset_is_the_first_of_each_class_with_the_statistics_of_its_own() -> None:
    whole, part = read(Digits()), read(Digits(per_class=5, test_per_class=2))
    assert (len(whole.train), len(part.train), len(part.test)) == (1347, 50, 20)
    assert part.train.ids.tolist() == list(range(50))
    for label in range(10):
        of_class = whole.train.images[whole.train.labels == label]
        assert np.array_equal(part.train.images[part.train.labels == label], of_class[:5])
    assert part.info.mean == pytest.approx([part.train.images.mean() / 255])
    assert part.info.mean != whole.info.mean


def test_an_image_tree_is_not_read_as_the_published_files(cifar10_folder: Path) -> None:
    with pytest.raises(ValueError, match="cifar10 is an image tree here"):
        read(Cifar10(root=cifar10_folder))
