"""Real images for the tests: a folder named by BREWLINE_TEST_DATA, and what is unpacked from it once a session."""

import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from faulty_proxy import FaultyProxy
from s3_server import OTHER_KEYS, S3Server, serving
from shared_work import Once, made_once
from stages import prepare, shard
from stages.data.dataset_config import DatasetConfig
from stages.shards.config import SPLITS, Shards
from stages.stage import Checkpoint, Context, Runtime

pytest_plugins = ["tiny_pipeline", "browser"]


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data for tests; skips, visibly, where there is none."""
    folder = os.environ.get("BREWLINE_TEST_DATA")
    if not folder:
        pytest.skip("BREWLINE_TEST_DATA is not set: it names the folder with cifar10.tar.xz")
    return Path(folder)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Makes something once a session, however many processes test."""
    own = tmp_path_factory.getbasetemp()
    return partial(made_once, own.parent if "PYTEST_XDIST_WORKER" in os.environ else own)


@pytest.fixture(scope="session")
def cifar10_folder(test_data: Path, once: Once) -> Path:
    """All of CIFAR-10 as a tree of JPEGs, {train,test}/CLASS/NNNN.jpg, unpacked once a session; never write into it."""
    return _unpacked(test_data / "cifar10.tar.xz", once) / "cifar10"


@pytest.fixture(scope="session")
def tiny_imagenet_folder(test_data: Path, once: Once) -> Path:
    """20 classes of Tiny ImageNet, {train,val}/WNID/*.JPEG, unpacked once a session; never write into it."""
    return _unpacked(test_data / "tiny-imagenet-20.tar.xz", once) / "tiny-imagenet-20"


@pytest.fixture(scope="session")
def imagenet_sample_folder(test_data: Path, once: Once) -> Path:
    """60 full-size ImageNet JPEGs of as many classes, WNID/*.JPEG, unpacked once a session; never write into it."""
    return _unpacked(test_data / "imagenet-sample-60.tar", once) / "imagenet-sample-60"


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


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One real S3 server a session; each test takes a prefix of its own, and leaves the server running."""
    with serving(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_environment(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What this process, and those that the test starts, need to use the server: keys, and a node's cache."""
    needed = {**s3_server.owner.environment, "BREWLINE_NODE_CACHE": str(tmp_path / "node")}
    for name in OTHER_KEYS:
        monkeypatch.delenv(name, raising=False)
    for name, value in needed.items():
        monkeypatch.setenv(name, value)
    return needed


@pytest.fixture
def s3_url(s3_server: S3Server, s3_environment: dict[str, str]) -> str:
    """The URL of a new, empty store in S3 that this process may use."""
    return s3_server.url()


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultyProxy]:
    """A proxy before the server; it passes everything on until it is told to break things."""
    with FaultyProxy(s3_server.endpoint) as running:
        yield running


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "x", mount], check=False).returncode:
        pytest.skip("no permission to mount a small tmpfs")
    yield mount
    subprocess.run(["umount", "--lazy", mount], check=True)  # this process may hold locks in it until it ends


def _unpacked(archive: Path, once: Once) -> Path:
    if not archive.exists():
        pytest.skip(f"{archive} does not exist")

    def unpack(folder: Path) -> str:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        return str(folder)

    return Path(once(archive.name, unpack))
