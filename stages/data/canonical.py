"""The embedded and the downloadable datasets as their authors published them, every byte checked before it is used.

scikit-learn's digits come with the library. CIFAR is read through torchvision, which checks the MD5 of each of its
files before it unpickles them. (Fashion-)MNIST are idx files, read here: torchvision checks only the archives, and
others compress anew, so what is checked is the MD5 of the uncompressed content.
"""

import gzip
import hashlib
import tempfile
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from stages.config import InputError

Arrays = tuple[np.ndarray, np.ndarray]
"""A split: images uint8 [N, H, W, C] and labels int64 [N]."""

Files = dict[str, Path]
"""Where each file of a dataset lies, by its canonical name."""


@dataclass(frozen=True)
class Canonical(ABC):
    """A published dataset: what is known of it before any file is there, and how to get and read its files."""

    title: str
    """Its class in torchvision.datasets."""
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    train_counts: tuple[int, ...]
    test_counts: tuple[int, ...]
    folder: str
    """Where torchvision puts the files, below the root."""
    names: tuple[str, ...]
    """The files that make it whole."""

    suffixes: ClassVar[tuple[str, ...]] = ("",)
    """What may follow a name: nothing, or a compression's suffix."""
    flat: ClassVar[bool] = False
    """Whether the files may lie in the root itself, as a distribution's package lays them."""

    @abstractmethod
    def read(self, files: Files) -> tuple[Arrays, Arrays]:
        """The train and the test split. Raises InputError for a file that is not the published one."""

    @abstractmethod
    def labels(self, files: Files) -> Arrays:
        """The labels alone, int64, of the train and the test split."""

    def find(self, root: Path) -> Files | None:
        """The files below `root`, or None where there are none. Raises InputError for a set with holes in it."""
        for folder in (root / self.folder, root) if self.flat else (root / self.folder,):
            found: Files = {}
            for name in self.names:
                candidates = (folder / f"{name}{suffix}" for suffix in self.suffixes)
                if file := next((candidate for candidate in candidates if candidate.is_file()), None):
                    found[name] = file
            if len(found) == len(self.names):
                return found
            if found:
                missing = ", ".join(name for name in self.names if name not in found)
                raise InputError(
                    f"{folder}: holds a part of {self.title}; missing: {missing}. Add what is missing, or move the "
                    "folder away so that all is downloaded again"
                )
        return None

    def fetch(self, root: Path) -> None:
        """Download the files to below `root`; several processes may do so at once.

        Raises InputError where there is no network or a checksum does not match.
        """
        root.mkdir(parents=True, exist_ok=True)
        top = Path(self.folder).parts[0]
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as scratch:
            try:
                self.torchvision(Path(scratch), train=True, download=True)
            except (OSError, RuntimeError) as error:
                raise InputError(
                    f"{root}: {self.title} could not be downloaded there ({error}). Download it where there is a "
                    "network, and set the dataset's root to its folder"
                ) from error
            try:
                (Path(scratch) / top).rename(root / top)
            except OSError:
                if self.find(root) is None:  # otherwise another process was first, and its files are as good
                    raise

    def torchvision(self, root: Path, train: bool, download: bool = False) -> Any:
        """torchvision's own dataset object."""
        from torchvision import datasets

        return getattr(datasets, self.title)(str(root), train=train, download=download)


class Digits(Canonical):
    """scikit-learn's 1,797 handwritten digits (UCI optdigits, test part), which are in no file of their own.

    Pixels 0..16 are scaled to 0..255 and rounded. 450 images are the test split: of each class its share (largest
    remainders first), drawn by a permutation with a fixed seed. Both splits keep scikit-learn's order.
    """

    def read(self, files: Files) -> tuple[Arrays, Arrays]:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
        labels = bunch.target.astype(np.int64)
        order = np.random.default_rng(0).permutation(len(labels))
        drawn = [order[labels[order] == label][:count] for label, count in enumerate(self.test_counts)]
        test = np.sort(np.concatenate(drawn))
        train = np.setdiff1d(np.arange(len(labels)), test)
        return (images[train], labels[train]), (images[test], labels[test])

    def labels(self, files: Files) -> Arrays:
        (_, train), (_, test) = self.read(files)
        return train, test


class Cifar(Canonical):
    """CIFAR-10 and CIFAR-100 in the authors' Python format (Krizhevsky 2009), read by torchvision."""

    def read(self, files: Files) -> tuple[Arrays, Arrays]:
        root = next(iter(files.values())).parents[1]
        try:
            train, test = self.torchvision(root, train=True), self.torchvision(root, train=False)
        except RuntimeError as error:
            raise InputError(
                f"{root / self.folder}: fails torchvision's checksums ({error}); move it away and download it again"
            ) from error
        return (train.data, np.array(train.targets, np.int64)), (test.data, np.array(test.targets, np.int64))

    def labels(self, files: Files) -> Arrays:
        (_, train), (_, test) = self.read(files)
        return train, test


IDX_NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
IDX_LARGEST = 16 + 60_000 * 28 * 28


@dataclass(frozen=True)
class Idx(Canonical):
    """MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017) in idx files, plain or gzipped."""

    md5: tuple[str, ...]
    """Of the uncompressed contents, in the order of `names`."""

    suffixes = ("", ".gz")
    flat = True

    def read(self, files: Files) -> tuple[Arrays, Arrays]:
        train, test = (
            np.frombuffer(self._content(files, name), np.uint8, offset=16).reshape(-1, *self.shape)
            for name in self.names[::2]
        )
        train_labels, test_labels = self.labels(files)
        return (train, train_labels), (test, test_labels)

    def labels(self, files: Files) -> Arrays:
        train, test = (
            np.frombuffer(self._content(files, name), np.uint8, offset=8).astype(np.int64) for name in self.names[1::2]
        )
        return train, test

    def _content(self, files: Files, name: str) -> bytes:
        file, expected = files[name], self.md5[self.names.index(name)]
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            try:
                content = stream.read(IDX_LARGEST + 1)
            except (OSError, EOFError, zlib.error) as error:
                raise InputError(f"{file}: not a whole gzip file ({error}); get it again") from error
        if (found := hashlib.md5(content, usedforsecurity=False).hexdigest()) != expected:
            raise InputError(
                f"{file}: not {self.title}'s published file: the MD5 of its content is {found}, expected {expected}; "
                "get it again"
            )
        return content


CIFAR10_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"
CIFAR100_CLASSES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm"""
FASHION_CLASSES = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"

CANONICAL: dict[str, Canonical] = {
    "digits": Digits(
        title="digits",
        classes=tuple("0123456789"),
        shape=(8, 8, 1),
        train_counts=(133, 136, 133, 137, 136, 136, 136, 134, 131, 135),
        test_counts=(45, 46, 44, 46, 45, 46, 45, 45, 43, 45),
        folder="",
        names=(),
    ),
    "cifar10": Cifar(
        title="CIFAR10",
        classes=tuple(CIFAR10_CLASSES.split()),
        shape=(32, 32, 3),
        train_counts=(5000,) * 10,
        test_counts=(1000,) * 10,
        folder="cifar-10-batches-py",
        names=(*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"),
    ),
    "cifar100": Cifar(
        title="CIFAR100",
        classes=tuple(CIFAR100_CLASSES.split()),
        shape=(32, 32, 3),
        train_counts=(500,) * 100,
        test_counts=(100,) * 100,
        folder="cifar-100-python",
        names=("train", "test", "meta"),
    ),
    "mnist": Idx(
        title="MNIST",
        classes=tuple("0123456789"),
        shape=(28, 28, 1),
        train_counts=(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
        test_counts=(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
        folder="MNIST/raw",
        names=IDX_NAMES,
        md5=(
            "6bbc9ace898e44ae57da46a324031adb",
            "a25bea736e30d166cdddb491f175f624",
            "2646ac647ad5339dbf082846283269ea",
            "27ae3e4e09519cfbb04c329615203637",
        ),
    ),
    "fashion-mnist": Idx(
        title="FashionMNIST",
        classes=tuple(FASHION_CLASSES.split(",")),
        shape=(28, 28, 1),
        train_counts=(6000,) * 10,
        test_counts=(1000,) * 10,
        folder="FashionMNIST/raw",
        names=IDX_NAMES,
        md5=(
            "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "9018921c3c673c538a1fc5bad174d6f9",
            "8181f5470baa50b63fa0f6fddb340f0a",
            "15d484375f8d13e6eb1aabb0c3f46965",
        ),
    ),
}
"""The published datasets, by their kind in an experiment."""
