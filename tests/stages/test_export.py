"""From prepared digits and poisons to a poisoned dataset."""

from dataclasses import replace

import numpy as np
import pytest

from stages import export
from stages.config import InputError
from stages.shards import arrow, base_shards, overlay, poisons
from stages.shards.poisons import PoisonSet
from stages.stage import Checkpoint, Context, Runtime


@pytest.fixture
def inputs(digits_folder, tmp_path):
    train = base_shards.load(digits_folder).train
    chosen = train.of(np.flatnonzero(train.labels == 4)[:20])
    images = np.clip(chosen.images.astype(int) - 12, 0, 255).astype(np.uint8)
    (tmp_path / "poisons").mkdir()
    (tmp_path / "out").mkdir()
    poisons.save(PoisonSet(chosen.ids, images, chosen.labels, {"brew_loss": 0.2}), tmp_path / "poisons")
    return {"dataset": digits_folder, "poisons": tmp_path / "poisons"}


def run(inputs, folder, eps):
    return export.run(export.Params(eps=eps), inputs, folder / "out", Context(0, Runtime(), Checkpoint(folder)))


def test_the_overlay_gives_the_poisoned_dataset(inputs, tmp_path):
    metrics = run(inputs, tmp_path, 12)
    assert metrics["poisons"] == 20 and metrics["max_difference"] == 12
    made, dataset = poisons.load(inputs["poisons"]), base_shards.load(inputs["dataset"])
    poisoned = overlay.apply(dataset, tmp_path / "out")
    assert np.array_equal(poisoned.train.of(made.ids).images, made.images)
    clean = replace(poisoned.train, images=dataset.train.images)
    assert arrow.content_sha256(clean) == arrow.content_sha256(dataset.train)
    assert arrow.content_sha256(poisoned.train) != arrow.content_sha256(dataset.train)


def test_poisons_beyond_eps_are_not_exported(inputs, tmp_path):
    with pytest.raises(InputError, match="differs from the image by 12/255, more than eps = 8/255"):
        run(inputs, tmp_path, 8)
    assert not list((tmp_path / "out").iterdir())


def test_an_attack_without_a_bound(inputs, tmp_path):
    assert run(inputs, tmp_path, None)["eps"] is None
