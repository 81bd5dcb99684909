"""Real images for the tests: a folder named by BREWLINE_TEST_DATA, and what is unpacked from it once a session."""

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from stages import prepare, shard
from stages.data.dataset_config import DatasetConfig
from stages.shards.config import SPLITS, Shards
from stages.stage import Checkpoint, Context, Runtime


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data for tests; skips, visibly, where there is none."""
    folder = os.environ.get("BREWLINE_TEST_DATA")
    if not folder:
        pytest.skip("BREWLINE_TEST_DATA is not set: it names the folder with cifar10.tar.xz")
    return Path(folder)


@pytest.fixture(scope="session")
def cifar10_folder(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of CIFAR-10 as a tree of JPEGs, {train,test}/CLASS/NNNN.jpg, unpacked once a session; never write into it."""
    return _unpacked(test_data / "cifar10.tar.xz", tmp_path_factory) / "cifar10"


@pytest.fixture(scope="session")
def tiny_imagenet_folder(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 classes of Tiny ImageNet, {train,val}/WNID/*.JPEG, unpacked once a session; never write into it."""
    return _unpacked(test_data / "tiny-imagenet-20.tar.xz", tmp_path_factory) / "tiny-imagenet-20"


@pytest.fixture(scope="session")
def imagenet_sample_folder(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 full-size ImageNet JPEGs of as many classes, WNID/*.JPEG, unpacked once a session; never write into it."""
    return _unpacked(test_data / "imagenet-sample-60.tar", tmp_path_factory) / "imagenet-sample-60"


@pytest.fixture(scope="session")
def prepared() -> Callable[..., Path]:
    """Prepares a resolved dataset in an empty folder as the pipeline does, shard by shard; gives the base's folder."""

    def prepare_all(config: DatasetConfig, folder: Path, shards: Shards | None = None, cpus: int = 2) -> Path:
        chosen, inputs = shards or Shards(), {}
        context = Context(0, Runtime(device="cpu", cpus=cpus), Checkpoint(folder / "checkpoint"))
        for split, count in zip(SPLITS, getattr(config, "images", None) or (), strict=False):
            for index in range(chosen.of(count)):
                inputs[f"{split}.{index}"] = part = folder / f"{split}.{index}"
                part.mkdir(parents=True)
                params = shard.Params(dataset=config, shards=chosen, split=split, index=index)
                shard.run(params, {}, part, context)
        out = folder / "base"
        out.mkdir(parents=True)
        prepare.run(prepare.Params(dataset=config, shards=chosen), inputs, out, context)
        return out

    return prepare_all


def _unpacked(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not archive.exists():
        pytest.skip(f"{archive} does not exist")
    folder = tmp_path_factory.mktemp("data")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder
