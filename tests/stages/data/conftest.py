"""Real ImageNet images for the tests of data, unpacked once a session, and a way to write tars of them."""

import io
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest


def unpacked(archive: Path, folder: Path) -> Path:
    """The one folder in an archive, unpacked into `folder`."""
    if not archive.exists():
        pytest.skip(f"{archive} does not exist")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (inside,) = folder.iterdir()
    return inside


@pytest.fixture(scope="session")
def imagenet_sample(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One full-size ImageNet JPEG in each of 60 folders named by WordNet id; never write into it."""
    return unpacked(test_data / "imagenet-sample-60.tar", tmp_path_factory.mktemp("imagenet"))


@pytest.fixture(scope="session")
def tiny_imagenet(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 classes of Tiny ImageNet as {train, val}/WNID/*.JPEG, 500 + 50 images each; never write into it."""
    return unpacked(test_data / "tiny-imagenet-20.tar.xz", tmp_path_factory.mktemp("tiny-imagenet"))


def _tar_of(files: Iterable[tuple[str, bytes]], kind: int = tarfile.USTAR_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1_300_000_000.25
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


@pytest.fixture
def tar_of() -> Callable[..., bytes]:
    """Makes a tar of files, given as pairs of name and bytes, in one of tarfile's formats; their times have a fraction,
    for which the pax format needs headers of its own."""
    return _tar_of
