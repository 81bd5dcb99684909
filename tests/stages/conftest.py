"""Prepared digits for the tests of what comes after `prepare`: real images that need no download."""

from pathlib import Path

import pytest

from stages import prepare
from stages.data.dataset_config import Digits
from stages.stage import Checkpoint, Context, Runtime


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's digits as base shards; never write into it."""
    folder = tmp_path_factory.mktemp("digits")
    ctx = Context(0, Runtime(device="cpu"), Checkpoint(tmp_path_factory.mktemp("checkpoint")))
    prepare.run(prepare.Params(dataset=Digits()), {}, folder, ctx)
    return folder
