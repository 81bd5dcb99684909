"""Poison sets of real digits: kept losslessly, and refused where they break their bound."""

from dataclasses import replace

import numpy as np
import pytest

from stages.config import InputError
from stages.data.images import ImageSet
from stages.shards import base_shards, poisons
from stages.shards.poisons import PoisonSet


@pytest.fixture
def base(digits_folder) -> ImageSet:
    return base_shards.load(digits_folder).train


def brewed(base: ImageSet, count: int, eps: int, seed: int = 0) -> PoisonSet:
    rng = np.random.default_rng(seed)
    chosen = base.of(rng.choice(len(base), count, replace=False))
    noise = rng.integers(-eps, eps + 1, chosen.images.shape)
    images = np.clip(chosen.images.astype(int) + noise, 0, 255).astype(np.uint8)
    return PoisonSet(chosen.ids, images, chosen.labels, {"eps": eps, "brew_loss": 0.25})


def test_poisons_survive_their_files(base, tmp_path):
    made = brewed(base, 17, 16)
    poisons.save(made, tmp_path)
    read = poisons.load(tmp_path)
    assert np.array_equal(read.ids, made.ids) and np.array_equal(read.labels, made.labels)
    assert np.array_equal(read.images, made.images) and read.images.dtype == np.uint8
    assert read.info == made.info and read.sha256() == made.sha256()


def test_a_loss_that_is_not_finite_becomes_null(base, tmp_path):
    poisons.save(replace(brewed(base, 2, 1), info={"brew_loss": float("nan"), "all": [1.0, float("inf")]}), tmp_path)
    assert poisons.load(tmp_path).info == {"brew_loss": None, "all": [1.0, None]}


def test_files_of_two_sets_or_damaged_ones_are_refused(base, tmp_path):
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        poisons.save(brewed(base, 3, 16, seed), tmp_path / str(seed))
    (tmp_path / "0" / "poisons.json").write_bytes((tmp_path / "1" / "poisons.json").read_bytes())
    with pytest.raises(InputError, match=r"poisons\.arrow: its sha256"):
        poisons.load(tmp_path / "0")
    (tmp_path / "1" / "poisons.json").write_text("{")
    with pytest.raises(InputError, match=r"poisons\.json"):
        poisons.load(tmp_path / "1")


def test_check_gives_the_largest_change(base):
    for eps in (0, 1, 16, 255):
        made = brewed(base, 40, eps)
        largest = np.abs(made.images.astype(int) - base.of(made.ids).images).max()
        assert poisons.check(made, base, eps) == poisons.check(made, base, None) == largest <= eps


def test_one_pixel_beyond_eps_is_named_with_its_difference(base):
    made = brewed(base, 10, 16)
    images = made.images.copy()
    original = base.of(made.ids).images
    pixel = np.unravel_index(np.flatnonzero(original[4] <= 255 - 17)[0], original[4].shape)
    images[4][pixel] = original[4][pixel] + 17
    with pytest.raises(
        InputError, match=rf"poison {made.ids[4]}: differs .* by 17/255, more than eps = 16/255 \(1 of 10"
    ):
        poisons.check(replace(made, images=images), base, 16)
    with pytest.raises(InputError, match=f"poison {made.ids[4]}: differs"):
        poisons.check(replace(made, images=images), base, 16.9)
    assert poisons.check(replace(made, images=images), base, 17) == 17


def test_a_change_is_not_taken_modulo_256(base):
    made = brewed(base, 5, 0)
    white = replace(made, images=np.where(made.images == 0, 255, made.images).astype(np.uint8))
    with pytest.raises(InputError, match="by 255/255"):
        poisons.check(white, base, 16)


def test_what_does_not_fit_the_base_is_named(base):
    made = brewed(base, 6, 4)
    wrong_label = made.labels.copy()
    wrong_label[2] = (wrong_label[2] + 1) % 10
    repeated, unknown = made.ids.copy(), made.ids.copy()
    repeated[1], unknown[3] = repeated[0], 5000
    for bad, message in (
        (replace(made, labels=wrong_label), f"poison {made.ids[2]}: its label is {wrong_label[2]}"),
        (replace(made, ids=repeated), f"poison {made.ids[0]}: there 2 times"),
        (replace(made, ids=unknown), "poison 5000: no such train image"),
        (replace(made, images=made.images[:, :, :4]), "expected uint8"),
        (replace(made, images=made.images.astype(np.float32)), "the poisons are float32"),
    ):
        with pytest.raises(InputError, match=message):
            poisons.check(bad, base, 4)
