"""Base + overlay on real digits."""

import json
from dataclasses import replace

import numpy as np
import pytest

from stages.config import InputError
from stages.data.images import Dataset, ImageSet
from stages.shards import base_shards, overlay
from stages.shards.poisons import PoisonSet


@pytest.fixture
def dataset(digits_folder) -> Dataset:
    return base_shards.load(digits_folder)


@pytest.fixture
def poison_set(dataset) -> PoisonSet:
    chosen = dataset.train.of(np.array([900, 3, 77]))
    images = np.clip(chosen.images.astype(int) + 16, 0, 255).astype(np.uint8)
    return PoisonSet(chosen.ids, images, chosen.labels, {"brew_loss": 0.1})


def test_only_the_poisons_differ_and_the_base_stays(dataset, poison_set, tmp_path):
    before = dataset.train.array
    facts = overlay.write(poison_set, dataset.train, 16, tmp_path)
    assert facts["max_difference"] == 16 and facts["eps"] == 16
    poisoned = overlay.apply(dataset, tmp_path)
    changed = np.flatnonzero((poisoned.train.images != before).any((1, 2, 3)))
    assert changed.tolist() == [3, 77, 900]
    assert np.array_equal(poisoned.train.of(poison_set.ids).images, poison_set.images)
    assert np.array_equal(poisoned.train.labels, dataset.train.labels)
    assert np.array_equal(dataset.train.images, before)
    assert poisoned.test is dataset.test


def test_another_base_is_refused(dataset, poison_set, tmp_path):
    overlay.write(poison_set, dataset.train, 16, tmp_path)
    train = dataset.train
    pixels, labels = train.array, train.labels.copy()
    pixels[77, 0, 0, 0] ^= 1
    labels[500] = (labels[500] + 1) % 10
    half = np.arange(900)
    for other in (
        replace(train, images=pixels),
        replace(train, labels=labels),
        ImageSet(train.images[half], train.labels[half], train.ids[half]),
        dataset.test,
    ):
        with pytest.raises(InputError, match=r"overlay\.json: was made for another base than 'digits'"):
            overlay.apply(replace(dataset, train=other), tmp_path)


def test_the_bound_is_checked_when_written_and_when_read(dataset, poison_set, tmp_path):
    with pytest.raises(InputError, match="poison 900: differs from the image by 16/255, more than eps = 15/255"):
        overlay.write(poison_set, dataset.train, 15, tmp_path)
    assert not list(tmp_path.iterdir())
    overlay.write(poison_set, dataset.train, None, tmp_path)
    file = tmp_path / "overlay.json"
    facts = json.loads(file.read_text())
    facts["info"]["eps"] = 8
    file.write_text(json.dumps(facts))
    with pytest.raises(InputError, match="more than eps = 8/255"):
        overlay.apply(dataset, tmp_path)


def test_the_overlay_costs_the_poisons_not_the_dataset(dataset, poison_set, tmp_path):
    overlay.write(poison_set, dataset.train, 16, tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 4096 < dataset.train.images.size
