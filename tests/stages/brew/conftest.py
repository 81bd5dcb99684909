"""Digits, two small surrogates and a case, for all that brews."""

import numpy as np
import pytest

from small_brew import INTENDED, NETWORK, context
from stages import models
from stages.data.cases import Case, save_case
from stages.shards import base_shards
from stages.training import loop
from stages.training.config import Augmentation, Training


@pytest.fixture(scope="session")
def dataset(digits_folder):
    return base_shards.load(digits_folder)


@pytest.fixture(scope="session")
def surrogate_folders(dataset, tmp_path_factory):
    folders = []
    training = Training(epochs=3, batch_size=32, augmentation=Augmentation(flip=False, pad=0))
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp(f"surrogate{seed}")
        model = models.build(NETWORK, dataset.info, seed)
        loop.train(model, dataset.train, training, 0.05, context(folder / "checkpoint", seed), stop_after=2)
        models.save(model, folder, NETWORK, dataset.info)
        folders.append(folder)
    return folders


@pytest.fixture(scope="session")
def base(dataset):
    return dataset.train.of(np.flatnonzero(dataset.train.labels == INTENDED)[:20])


@pytest.fixture
def stage_inputs(digits_folder, dataset, base, surrogate_folders, tmp_path):
    """What the stage is given: the dataset, the case and both surrogates."""
    (tmp_path / "case").mkdir()
    case = Case(
        name="4 → 3",
        target_class=4,
        intended_class=INTENDED,
        poison_class=INTENDED,
        target_ids=tuple(np.flatnonzero(dataset.test.labels == 4)[:1].tolist()),
        poison_ids=tuple(base.ids.tolist()),
        seed=None,
    )
    save_case(case, tmp_path / "case")
    surrogates = {f"surrogate.{number}": folder for number, folder in enumerate(surrogate_folders)}
    return {"dataset": digits_folder, "case": tmp_path / "case", **surrogates}
