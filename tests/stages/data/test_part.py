"""Parts of a train set: which images they are, and that they are views of what lies there."""

import numpy as np
import pytest

from stages.data.images import ImageSet
from stages.data.part import Part


@pytest.fixture
def whole() -> ImageSet:
    images = np.random.default_rng(0).integers(0, 256, (400, 4, 4, 1), np.uint8)
    return ImageSet(images, np.arange(400) % 7, np.arange(400))


def test_a_part_is_a_random_one_in_the_order_of_the_whole(whole: ImageSet) -> None:
    part = Part(fraction=0.3, seed=1).of(whole)
    assert len(part) == 120 and (np.diff(part.ids) > 0).all() and part.ids.max() > 300
    assert np.array_equal(part.labels, whole.labels[part.ids])
    assert np.array_equal(part.array, whole.array[part.ids])
    again, other = (Part(fraction=0.3, seed=seed).of(whole).ids for seed in (1, 2))
    assert np.array_equal(again, part.ids)
    assert 15 < len(np.intersect1d(other, part.ids)) < 60, "36 expected of two independent draws"


def test_a_part_of_a_poisoned_set_has_the_poisons_that_fall_into_it(whole: ImageSet) -> None:
    poisons = np.full((200, 4, 4, 1), 7, np.uint8)
    part = Part(fraction=0.5, seed=3).of(whole.overlaid(np.arange(200), poisons))
    poisoned = (part.array == 7).all((1, 2, 3))
    assert np.array_equal(poisoned, part.ids < 200) and 80 < poisoned.sum() < 120


@pytest.mark.parametrize(("fraction", "images", "count"), [(0.07, 100, 7), (0.5, 5, 2), (0.01, 5, 1), (0.7, 10, 7)])
def test_the_count_is_of_the_fraction_as_written(fraction: float, images: int, count: int) -> None:
    assert Part(fraction=fraction, seed=0).count(images) == count
