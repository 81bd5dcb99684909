"""Gradient Canceling on images: what it may not depend on, and what every way to it must do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from small_brew import Interrupted, context
from stages import models
from stages.brew.cancel.config import GradientCanceling
from stages.brew.cancel.craft import craft, left_over
from stages.brew.config import DoubleBackward, FiniteDifference
from stages.brew.derivatives import gradient_over
from stages.brew.task import Brew
from stages.data.images import Dataset, ImageSet
from stages.models import Network
from stages.shards import base_shards

ATTACK = GradientCanceling(eps_d=0.05, steps=12, learning_rate=0.02)


@pytest.fixture(scope="module")
def dataset(digits_folder: Path) -> Dataset:
    return base_shards.load(digits_folder)


def made(dataset: Dataset, folder: Path, attack: GradientCanceling = ATTACK, **of: Any) -> Brew:
    model = models.build(Network(name="mlp", width=16), dataset.info, 1)
    return craft(model, dataset.train, dataset.train.of(range(0, 1300, 20)), attack, context(folder, **of))


def test_a_killed_brew_goes_on_to_the_same_bytes(dataset: Dataset, tmp_path: Path) -> None:
    whole = made(dataset, tmp_path / "whole")
    with pytest.raises(Interrupted):
        made(dataset, tmp_path / "killed", stop_at=5)
    resumed = made(dataset, tmp_path / "killed")
    assert (resumed.images == whole.images).all() and resumed.losses == whole.losses


def test_micro_batches_bound_the_memory_alone(dataset: Dataset, tmp_path: Path) -> None:
    whole = made(dataset, tmp_path / "whole")
    parts = made(dataset, tmp_path / "parts", micro_batch=17)
    np.testing.assert_allclose(parts.losses, whole.losses, rtol=1e-3)
    assert np.abs(parts.images.astype(int) - whole.images).max() <= 2


@pytest.mark.parametrize("derivative", [DoubleBackward(), FiniteDifference()], ids=lambda one: one.kind)
@pytest.mark.parametrize("mode", ["add", "replace"])
@pytest.mark.parametrize("objective", ["cancel", "cosine"])
def test_the_objective_falls(
    objective: str, mode: str, derivative: DoubleBackward | FiniteDifference, dataset: Dataset, tmp_path: Path
) -> None:
    rate = 0.2 if objective == "cancel" else 1.0
    fields = {"objective": objective, "mode": mode, "derivative": derivative, "learning_rate": rate}
    brew = made(dataset, tmp_path, ATTACK.model_copy(update=fields))
    assert brew.losses[-1] < 0.9 * brew.losses[0]
    assert brew.loss == pytest.approx(brew.loss_before, rel=0.05) and brew.loss < brew.losses[0]


def test_what_is_left_is_the_gradient_of_the_set_that_is_trained_on(dataset: Dataset, tmp_path: Path) -> None:
    ids = np.arange(0, 1300, 20)
    for mode in ("add", "replace"):
        model = models.build(Network(name="mlp", width=16), dataset.info, 1)
        attack = ATTACK.model_copy(update={"mode": mode})
        base = dataset.train.of(ids)
        brew = craft(model, dataset.train, base, attack, context(tmp_path / mode))
        poisons = ImageSet(brew.images, base.labels, ids)
        left = left_over(model, dataset.train, base, poisons, attack, context(tmp_path))
        rest = dataset.train
        if mode == "replace":
            rest = dataset.train.of(np.setdiff1d(dataset.train.ids, ids))
        whole = rest.appended(brew.images, dataset.train.labels[ids]) if mode == "add" else None
        whole = whole or dataset.train.overlaid(ids, brew.images)
        found, clean = (gradient_over(model, images, context(tmp_path)) for images in (whole, rest))
        norms = [torch.cat([tensor.flatten() for tensor in one]).norm().item() for one in (found, clean)]
        assert left == pytest.approx(norms[0] * len(whole) / (norms[1] * len(rest)), rel=1e-4)
