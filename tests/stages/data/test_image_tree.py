"""Layouts of image trees, Tiny ImageNet's own among them, and reading a file only while it is the listed one."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stages.config import InputError
from stages.data.dataset_config import TinyImageNet
from stages.data.datasets import describe, resolve
from stages.data.image_tree import Tree, list_tree

CHOSEN = ("n01644900", "n02106662", "n04507155")
READABLE = ("tailed frog", "German shepherd", "umbrella")


@pytest.fixture
def plain(tiny_imagenet_folder: Path, tmp_path: Path) -> Path:
    """Three classes of Tiny ImageNet as {train, val}/WNID/*.JPEG, twelve train and five val images each."""
    for split, count in (("train", 12), ("val", 5)):
        for name in CHOSEN:
            (tmp_path / "plain" / split / name).mkdir(parents=True)
            for file in sorted((tiny_imagenet_folder / split / name).iterdir())[:count]:
                shutil.copy(file, tmp_path / "plain" / split / name)
    return tmp_path / "plain"


@pytest.fixture
def published(plain: Path, tmp_path: Path) -> Path:
    """The same images as Stanford's zip has them."""
    root = tmp_path / "published"
    (root / "val" / "images").mkdir(parents=True)
    (root / "test" / "images").mkdir(parents=True)
    lines = []
    for name in CHOSEN:
        shutil.copytree(plain / "train" / name, root / "train" / name / "images")
        (root / "train" / name / f"{name}_boxes.txt").write_text("")
        for file in (plain / "val" / name).iterdir():
            shutil.copy(file, root / "val" / "images")
            shutil.copy(file, root / "test" / "images" / f"test_{file.name}")
            lines.append(f"{file.name}\t{name}\t0\t0\t62\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(sorted(lines)))
    (root / "wnids.txt").write_text("\n".join(reversed(CHOSEN)))
    return root


def listed(root: Path) -> Tree:
    tree = list_tree(root)
    assert tree is not None
    return tree


def test_tiny_imagenet_is_the_same_as_published_and_as_a_plain_tree(plain: Path, published: Path) -> None:
    from torchvision.datasets import ImageFolder

    first, second = listed(plain), listed(published)
    assert first.fingerprint == second.fingerprint
    assert (first.classes, first.train_files, first.test_files) == (CHOSEN, second.train_files, second.test_files)
    for split, files, labels in (
        ("train", first.train_files, first.train_labels),
        ("val", second.test_files, second.test_labels),
    ):
        reference = ImageFolder(str(plain / split)).samples
        assert [(str(plain / file), label) for file, label in zip(files, labels, strict=True)] == reference
    for name in (*first.train_files[::5], *first.test_files[::5]):
        assert first.read(name) == second.read(name) == (plain / name).read_bytes()
    assert second.where(first.test_files[0]).startswith(str(published / "val" / "images"))


def test_tiny_imagenet_is_described_by_readable_names(published: Path) -> None:
    config = resolve(TinyImageNet(root=published, per_class=4))
    assert isinstance(config, TinyImageNet)
    assert (config.size, config.resize, config.images) == (64, 64, (12, 15))
    described = describe(config)
    assert described.classes == READABLE
    assert described.shape == (64, 64, 3)
    assert (described.train_counts, described.test_counts) == ((4,) * 3, (5,) * 3)
    assert TinyImageNet(size=32).resize == 32


def test_folders_that_are_no_word_net_ids_keep_their_names(plain: Path) -> None:
    for split in ("train", "val"):
        (plain / split / CHOSEN[0]).rename(plain / split / "frog")
    assert describe(TinyImageNet(root=plain)).classes == ("frog", *CHOSEN[1:])


def remove_an_image(root: Path) -> None:
    next((root / "val" / "images").iterdir()).unlink()


def add_an_image(root: Path) -> None:
    file = next((root / "val" / "images").iterdir())
    shutil.copy(file, file.with_name("val_9999.JPEG"))


def add_a_class(root: Path) -> None:
    with (root / "val" / "val_annotations.txt").open("a") as file:
        file.write("val_9999.JPEG\tn00000000\t0\t0\t1\t1\n")
    add_an_image(root)


def take_a_class(root: Path) -> None:
    shutil.rmtree(root / "train" / CHOSEN[1])


def empty_a_class(root: Path) -> None:
    annotations = root / "val" / "val_annotations.txt"
    annotations.write_text(annotations.read_text().replace(CHOSEN[1], CHOSEN[2]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_an_image, "val/val_annotations.txt: names images that val/images lacks: val_"),
        (add_an_image, "val/val_annotations.txt: has no line on images of val/images: val_9999.JPEG;"),
        (add_a_class, "val/val_annotations.txt: names other classes than train has, of the images: val_9999.JPEG"),
        (take_a_class, f"train: its folders are not the 3 classes. Missing: {CHOSEN[1]}"),
        (empty_a_class, f"val/{CHOSEN[1]}: the class has no images"),
    ],
)
def test_a_part_of_tiny_imagenet_is_refused(published: Path, change: Callable[[Path], None], message: str) -> None:
    listed(published)
    change(published)
    with pytest.raises(InputError, match=f"{published}/{message}"):
        list_tree(published)


def test_only_a_test_folder_without_classes_is_ignored_beside_val(plain: Path) -> None:
    before = listed(plain)
    (plain / "test").mkdir()
    shutil.copy(plain / before.test_files[0], plain / "test" / "ILSVRC2012_test_00000001.JPEG")
    assert listed(plain).fingerprint == before.fingerprint
    (plain / "test" / "images").mkdir()
    assert listed(plain).fingerprint == before.fingerprint
    (plain / "test" / CHOSEN[0]).mkdir()
    with pytest.raises(InputError, match="both test and val"):
        list_tree(plain)


def test_a_file_is_read_only_while_it_is_the_listed_one(plain: Path) -> None:
    tree = listed(plain)
    name = tree.train_files[7]
    content = (plain / name).read_bytes()
    assert tree.read(name) == content
    (plain / name).write_bytes(content + b"\0")
    with pytest.raises(InputError, match=f"{plain / name}: was {len(content)} bytes .* now {len(content) + 1}"):
        tree.read(name)
    (plain / name).unlink()
    with pytest.raises(InputError, match=f"{plain / name}: cannot be read"):
        tree.read(name)


def test_images_are_in_torchvisions_order_in_folders_within_a_class_too(plain: Path) -> None:
    from torchvision.datasets import ImageFolder

    image = plain / listed(plain).train_files[0]
    for folder in ("b", "a-b", "a", "a/b", "A"):
        (image.parent / folder).mkdir()
        shutil.copy(image, image.parent / folder / "0.JPEG")
    tree = listed(plain)
    reference = ImageFolder(str(plain / "train"))
    assert [str(plain / file) for file in tree.train_files] == [file for file, _ in reference.samples]
    assert np.array_equal(tree.train_labels, reference.targets)
