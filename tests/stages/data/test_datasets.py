"""What is said of a dataset before it is read: identity, fingerprint, classes, counts, and what is refused by name."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from stages.config import InputError, identity
from stages.data.canonical import CANONICAL, IDX_NAMES
from stages.data.dataset_config import (
    Cifar10,
    Cifar100,
    DatasetConfig,
    Digits,
    FashionMnist,
    ImageFolder,
    ImageNet,
    Mnist,
    TinyImageNet,
)
from stages.data.datasets import describe, resolve
from stages.data.sources import read
from stages.shards import base_shards


@pytest.fixture
def small_tree(cifar10_folder: Path, tmp_path: Path) -> Path:
    """The first three train images and first test image of each CIFAR-10 class, as a tree that may be changed."""
    root = tmp_path / "tree"
    for split, count in (("train", 3), ("test", 1)):
        for folder in sorted((cifar10_folder / split).iterdir()):
            (root / split / folder.name).mkdir(parents=True)
            for file in sorted(folder.iterdir())[:count]:
                shutil.copy(file, root / split / folder.name)
    return root


def test_identity_ignores_where_the_files_are_but_not_what_they_are() -> None:
    plain = Cifar10()
    assert identity(plain) == identity(Cifar10(root=Path("/somewhere"), download=False))
    assert identity(plain) != identity(Cifar10(fingerprint="0" * 64))
    assert identity(plain) != identity(Cifar10(per_class=5))
    assert identity(plain)["kind"] == "cifar10"
    assert identity(plain) != identity(Cifar100())
    assert identity(ImageFolder(name="a", size=224)) == identity(ImageFolder(name="a", size=224, resize=256))


def test_the_kind_chooses_the_configuration_and_unknown_fields_are_refused() -> None:
    adapter: TypeAdapter[DatasetConfig] = TypeAdapter(DatasetConfig)
    assert adapter.validate_python({"kind": "mnist", "per_class": 7}) == Mnist(per_class=7)
    assert adapter.validate_python({"kind": "imagenet"}) == ImageNet(size=224, resize=256)
    assert adapter.validate_python({"kind": "tiny-imagenet"}) == TinyImageNet(size=64, resize=64)
    for wrong in (
        {"kind": "image-folder", "size": 8},
        {"kind": "digits", "root": "/x"},
        {"kind": "cifar10", "per_class": 0},
    ):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)


@pytest.mark.parametrize(("size", "resize"), [(224, 256), (64, 73), (63, 63), (32, 32)])
def test_the_resize_follows_the_papers(size: int, resize: int) -> None:
    assert ImageFolder(name="x", size=size).resize == resize


def test_a_resize_that_leaves_too_little_to_crop_is_refused() -> None:
    with pytest.raises(ValidationError, match="less than size 64"):
        ImageFolder(name="x", size=64, resize=50)


def test_digits_are_a_fixed_stratified_split() -> None:
    described = describe(resolve(Digits()))
    assert described.shape == (8, 8, 1)
    assert described.train_labels is not None
    assert described.test_labels is not None
    assert (len(described.train_labels), len(described.test_labels)) == (1347, 450)
    assert described.train_counts == tuple(np.bincount(described.train_labels).tolist())
    assert described.test_counts == tuple(np.bincount(described.test_labels).tolist())
    shares = np.array(described.test_counts) / (np.array(described.train_counts) + described.test_counts)
    assert np.abs(shares - 450 / 1797).max() < 0.005
    # golden: the split may never change under anyone's results
    dataset = read(Digits())
    assert hashlib.sha256(dataset.test.images.tobytes()).hexdigest() == DIGITS_TEST_SHA256
    assert (dataset.train.images.min(), dataset.train.images.max()) == (0, 255)


DIGITS_TEST_SHA256 = "731140bca6d89f5c3ebe69f74dccb68cdad22d23e20123c1a56781c554581f6a"


def test_some_classes_alone_are_numbered_anew_and_keep_their_names() -> None:
    config = resolve(Digits(classes=("7", 2, "4"), per_class=30, test_per_class=4))
    described, dataset, whole = describe(config), read(config), read(Digits())
    assert described.classes == dataset.info.classes == ("2", "4", "7")
    assert described.train_counts == (30,) * 3 and described.test_counts == (4,) * 3
    assert described.train_labels is not None
    assert np.array_equal(described.train_labels, dataset.train.labels)
    for label, digit in enumerate((2, 4, 7)):
        of = dataset.train.images[dataset.train.labels == label]
        assert np.array_equal(of, whole.train.images[whole.train.labels == digit][:30])
    assert dataset.train.ids.tolist() == list(range(90))
    assert identity(config) != identity(Digits()) and "classes" not in identity(Digits())


def test_some_classes_of_a_tree_are_its_images_under_its_fingerprint(small_tree: Path, prepared: Any) -> None:
    config = resolve(Cifar10(root=small_tree, classes=("frog", "bird")))
    assert isinstance(config, Cifar10)
    assert config.images == (6, 2) and config.fingerprint == resolve(Cifar10(root=small_tree)).fingerprint  # type: ignore[union-attr]
    some, whole = (
        base_shards.load(prepared(of, small_tree.parent / name))
        for name, of in (("some", config), ("whole", resolve(Cifar10(root=small_tree))))
    )
    assert some.info.classes == ("bird", "frog") and some.train.labels.tolist() == [0] * 3 + [1] * 3
    for label, row in ((0, 2), (1, 6)):
        assert np.array_equal(
            some.train.array[some.train.labels == label], whole.train.array[whole.train.labels == row]
        )


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        (("3", "x"), "dataset.classes: no class is called 'x'; known are 0, 1"),
        ((3, 10), "dataset.classes names 10, expected 0 to 9, or a class name"),
        ((3, "3"), "names a class by its name and by its index"),
    ],
)
def test_classes_that_are_not_there_are_told(classes: tuple[int | str, ...], told: str) -> None:
    with pytest.raises(InputError, match=told):
        resolve(Digits(classes=classes))


@pytest.mark.parametrize("classes", [(), ("3",), ("3", "3")])
def test_fewer_than_two_classes_are_refused(classes: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="name two or more, each once"):
        Digits(classes=classes)


def test_a_tree_is_described_without_being_decoded(small_tree: Path) -> None:
    (small_tree / "train" / "cat" / "0000.jpg").write_bytes(b"not decoded")
    config = resolve(Cifar10(root=small_tree, per_class=2))
    described = describe(config)
    assert isinstance(config, Cifar10)
    assert config.fingerprint is not None
    assert config.images == (20, 10)
    assert described.classes == CANONICAL["cifar10"].classes
    assert described.shape == (32, 32, 3)
    assert described.train_counts == (2,) * 10
    assert described.train_labels is not None
    assert described.train_labels.tolist() == np.repeat(np.arange(10), 2).tolist()
    assert described.test_counts == (1,) * 10
    assert resolve(config) == config


def test_the_fingerprint_is_of_names_and_sizes_wherever_the_tree_lies(small_tree: Path, tmp_path: Path) -> None:
    def fingerprint(root: Path) -> str | None:
        config = resolve(ImageFolder(name="x", size=32, root=root))
        assert isinstance(config, ImageFolder)
        return config.fingerprint

    first = fingerprint(small_tree)
    copy = shutil.copytree(small_tree, tmp_path / "copy")
    (copy / "train" / "cat" / "notes.txt").write_text("ignored, as torchvision does")
    assert fingerprint(copy) == first
    victim = next((copy / "train" / "cat").glob("*.jpg"))
    with victim.open("ab") as file:
        file.write(b"\0")
    changed = fingerprint(copy)
    assert changed != first
    victim.rename(victim.with_name("zzz.jpg"))
    assert fingerprint(copy) not in (first, changed)
    with pytest.raises(InputError, match=f"{copy}.*{first}"):
        resolve(ImageFolder(name="x", size=32, root=copy, fingerprint=first))


def test_the_labels_of_a_fashion_mnist_tree_are_the_published_ones(small_tree: Path, tmp_path: Path) -> None:
    published = CANONICAL["fashion-mnist"].classes
    image = next((small_tree / "test" / "cat").iterdir())
    for split in ("train", "val"):
        for number, name in enumerate(published):
            folder = tmp_path / "fashion" / split / name.replace("/", "-")
            folder.mkdir(parents=True)
            for copy in range(number + 1):
                shutil.copy(image, folder / f"{copy}.jpg")
    described = describe(resolve(FashionMnist(root=tmp_path / "fashion")))
    assert described.classes == published
    assert described.train_counts == tuple(range(1, 11))


def test_what_is_wrong_with_a_folder_is_named(small_tree: Path, tmp_path: Path) -> None:
    def refused(match: str, config: DatasetConfig) -> None:
        with pytest.raises(InputError, match=match):
            resolve(config)

    nowhere = tmp_path / "nowhere"
    refused(f"{nowhere}: does not hold cifar10.*download: true", Cifar10(root=nowhere, download=False))
    refused(f"{nowhere / 'typo'}: there is no such folder. Make it to download cifar10", Cifar10(root=nowhere / "typo"))
    nowhere.mkdir()
    refused(f"{nowhere}: does not hold flowers", ImageFolder(name="flowers", size=8, root=nowhere))
    refused("expected the image tree.*found no image tree", Cifar10(root=nowhere, fingerprint="0" * 64))
    refused("dataset.per_class is 4, but class airplane of cifar10 has 3", Cifar10(root=small_tree, per_class=4))
    refused("use at most 5421", Mnist(root=nowhere, per_class=5500))
    refused("not the 100 classes", Cifar100(root=small_tree))

    moved = (small_tree / "test" / "cat").rename(small_tree / "test" / "kitten")
    refused(f"{small_tree / 'test'}.*Missing: cat. Not a class: kitten", ImageFolder(name="x", size=8, root=small_tree))
    moved.rename(small_tree / "test" / "cat")
    for file in (small_tree / "train" / "dog").iterdir():
        file.unlink()
    refused(f"{small_tree / 'train' / 'dog'}: the class has no images", Cifar10(root=small_tree))
    shutil.copytree(small_tree / "test", small_tree / "val")
    refused("both test and val", Cifar10(root=small_tree))
    shutil.rmtree(small_tree / "val")
    shutil.rmtree(small_tree / "test")
    refused("neither test nor val", Cifar10(root=small_tree))


def test_a_part_of_the_published_files_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"")
    with pytest.raises(InputError, match=r"missing: data_batch_2.*batches\.meta"):
        resolve(Cifar10(root=tmp_path))


def test_published_files_are_never_unpickled_when_a_checksum_fails(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in CANONICAL["cifar10"].names:
        (folder / name).write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(InputError, match=f"{folder}: fails torchvision's checksums"):
        read(Cifar10(root=tmp_path))


def test_counts_are_known_before_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BREWLINE_DATA", str(tmp_path))
    for config in (Cifar10(test_per_class=3), Cifar100(test_per_class=3), Mnist(test_per_class=3)):
        resolved = resolve(config)
        described = describe(resolved)
        assert resolved == config
        assert described.train_labels is None
        assert sum(described.train_counts) in (50_000, 60_000)
        assert described.test_counts == (3,) * len(described.classes)


def test_mnist_test_labels_agree_with_the_known_counts(test_data: Path) -> None:
    with np.load(test_data / "mnist-17k.npz") as arrays:
        assert tuple(np.bincount(arrays["test_labels"]).tolist()) == CANONICAL["mnist"].test_counts


def debian_fashion_mnist() -> Path:
    """Where Debian's dataset-fashion-mnist is installed, or unpacked: BREWLINE_FASHION_MNIST."""
    folder = Path(os.environ.get("BREWLINE_FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
    if not (folder / f"{IDX_NAMES[0]}.gz").exists():
        pytest.skip(
            f"{folder} holds no idx files; install Debian's dataset-fashion-mnist, or set BREWLINE_FASHION_MNIST"
        )
    return folder


def test_debians_flat_fashion_mnist_is_the_published_one() -> None:
    root = debian_fashion_mnist()
    config = resolve(FashionMnist(root=root, download=False, per_class=7))
    assert identity(config) == identity(FashionMnist(per_class=7))
    dataset = read(config)
    assert dataset.train.images.shape == (70, 28, 28, 1)
    assert dataset.test.images.shape == (10_000, 28, 28, 1)
    assert tuple(np.bincount(dataset.test.labels).tolist()) == CANONICAL["fashion-mnist"].test_counts
    described = describe(config)
    assert described.train_labels is not None
    assert np.array_equal(described.train_labels, dataset.train.labels)
    whole = describe(FashionMnist(root=root))
    assert whole.train_labels is not None
    assert tuple(np.bincount(whole.train_labels).tolist()) == CANONICAL["fashion-mnist"].train_counts


def test_a_damaged_idx_file_is_named(tmp_path: Path) -> None:
    root = shutil.copytree(debian_fashion_mnist(), tmp_path / "fashion")
    file = root / f"{IDX_NAMES[3]}.gz"
    content = file.read_bytes()
    for damaged in (content[:-100], content[:100] + b"\0" + content[101:]):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=file.name):
            describe(FashionMnist(root=root))


def test_planning_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'torchvision', 'sklearn', 'pyarrow'}"
    code = f"import sys, stages.prepare; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
