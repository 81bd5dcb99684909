"""From published data and image trees to base shards, through stages `shard` and `prepare` as the pipeline does it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages import shard
from stages.config import InputError
from stages.data.canonical import CANONICAL
from stages.data.dataset_config import Cifar10, DatasetConfig, Digits, ImageFolder, TinyImageNet
from stages.data.datasets import resolve
from stages.data.images import Dataset
from stages.data.sources import channel_statistics
from stages.prepare import Params, run
from stages.shards import base_shards
from stages.shards.config import SPLITS, Shards
from stages.stage import Checkpoint, Context, Runtime

ARROW, BETON = Shards(), Shards(format="beton")


def context(folder: Path, cpus: int, seen: list[tuple[int, int]]) -> Context:
    checkpoint = Checkpoint(folder / "checkpoint")
    return Context(0, Runtime(cpus=cpus), checkpoint, lambda done, total, _: seen.append((done, total)))


def prepare(
    config: DatasetConfig, folder: Path, shards: Shards = ARROW, cpus: int = 2
) -> tuple[dict[str, Any], Path, list[tuple[int, int]]]:
    """Metrics and output folder of stage `prepare`, after the shards it needs, and their progress."""
    seen: list[tuple[int, int]] = []
    inputs = {}
    for split, count in zip(SPLITS, getattr(config, "images", None) or (), strict=False):
        for index in range(shards.of(count)):
            inputs[f"{split}.{index}"] = out = folder / f"{split}.{index}"
            out.mkdir(parents=True)
            params = shard.Params(dataset=config, shards=shards, split=split, index=index)
            shard.run(params, {}, out, context(folder, cpus, seen))
    out = folder / "out"
    out.mkdir(parents=True)
    return run(Params(dataset=config, shards=shards), inputs, out, context(folder, cpus, seen)), out, seen


def both(dataset: Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return ((split.array, split.labels) for split in (dataset.train, dataset.test))


@pytest.fixture(scope="session")
def tiny_imagenet(tiny_imagenet_folder: Path) -> DatasetConfig:
    return resolve(TinyImageNet(root=tiny_imagenet_folder, per_class=6, test_per_class=2))


def test_digits_become_shards_that_every_stage_can_load(tmp_path: Path) -> None:
    metrics, out, _ = prepare(resolve(Digits()), tmp_path)
    dataset = base_shards.load(out)
    assert dataset.info.shape == (8, 8, 1)
    assert (len(dataset.train), len(dataset.test)) == (1347, 450) == (metrics["train_images"], metrics["test_images"])
    assert dataset.info.mean[0] == pytest.approx(dataset.train.array.mean() / 255, abs=1e-12)
    assert dataset.info.std[0] == pytest.approx(dataset.train.array.std() / 255, abs=1e-12)


def test_a_jpeg_tree_becomes_the_pixels_that_torchvision_reads(cifar10_folder: Path, tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder as Torchvision

    metrics, out, seen = prepare(resolve(Cifar10(root=cifar10_folder, per_class=5, test_per_class=2)), tmp_path)
    dataset = base_shards.load(out)
    assert (metrics["train_images"], metrics["test_images"], metrics["classes"]) == (50, 20, 10)
    reference = Torchvision(str(cifar10_folder / "train"))
    assert dataset.info.classes == tuple(reference.classes)
    for label in (0, 3, 9):
        first = reference.targets.index(label)
        for offset in range(5):
            image, target = reference[first + offset]
            row = label * 5 + offset
            assert dataset.train.labels[row] == target
            assert np.array_equal(dataset.train.images[row], np.asarray(image))
    assert seen[-1] == (20, 20) and (50, 50) in seen
    assert sorted(file.name for file in out.iterdir()) == [
        "dataset.json",
        "test-00000-of-00001.arrow",
        "train-00000-of-00001.arrow",
    ]


@pytest.mark.parametrize("shards", [ARROW, BETON], ids=lambda shards: shards.format)
def test_however_it_is_cut_the_dataset_is_the_same(
    tiny_imagenet: DatasetConfig, tmp_path: Path, shards: Shards
) -> None:
    metrics, whole, _ = prepare(tiny_imagenet, tmp_path / "whole")
    few = shards.model_copy(update={"images_per_shard": 50})
    cut_metrics, cut, _ = prepare(tiny_imagenet, tmp_path / "cut", few)
    assert (metrics["train_images"], metrics["test_images"]) == (120, 40)
    assert cut_metrics["train_images"] == 120 and len(list(cut.glob("train-*"))) == 3
    one, other = base_shards.load(whole), base_shards.load(cut)
    assert one.info == other.info
    for (images, labels), (same_images, same_labels) in zip(both(one), both(other), strict=True):
        assert np.array_equal(images, same_images) and np.array_equal(labels, same_labels)
    mean, std = channel_statistics(one.train.array)
    assert (one.info.mean, one.info.std) == (mean, std)


def test_shards_are_linked_not_copied(tiny_imagenet: DatasetConfig, tmp_path: Path) -> None:
    _, out, _ = prepare(tiny_imagenet, tmp_path, Shards(images_per_shard=50))
    shards = sorted(out.glob("*.arrow"))
    assert len(shards) == 4 and all(file.is_symlink() for file in shards)
    assert sum(file.lstat().st_size for file in out.iterdir()) < 10_000


def test_shards_in_another_order_are_refused(tiny_imagenet: DatasetConfig, tmp_path: Path) -> None:
    shards = Shards(images_per_shard=60)
    prepare(tiny_imagenet, tmp_path, shards)
    given = {role: tmp_path / role for role in ("train.0", "train.1", "test.0")}
    for one, other in (("train.0", "train.1"), ("train.1", "test.0")):
        swapped = {**given, one: given[other], other: given[one]}
        (out := tmp_path / one / "out").mkdir()
        with pytest.raises(InputError, match=r"holds shard \{.*expected \{.*give the shards in their order"):
            run(Params(dataset=tiny_imagenet, shards=shards), swapped, out, context(tmp_path, 1, []))


def test_a_shard_beyond_the_last_is_refused(tiny_imagenet: DatasetConfig, tmp_path: Path) -> None:
    params = shard.Params(dataset=tiny_imagenet, shards=Shards(images_per_shard=60), split="train", index=2)
    with pytest.raises(InputError, match="index is 2, but the train split has shards 0 to 1"):
        shard.run(params, {}, tmp_path, context(tmp_path, 1, []))


def test_each_shard_costs_itself(tiny_imagenet: DatasetConfig, tmp_path: Path) -> None:
    """A shard is a function of its params, whichever others were made before, and whoever makes it."""
    params = shard.Params(dataset=tiny_imagenet, shards=Shards(images_per_shard=50), split="train", index=2)
    made = []
    for cpus in (1, 3):
        out, seen = tmp_path / str(cpus), []
        out.mkdir()
        assert shard.run(params, {}, out, context(tmp_path, cpus, seen))["images"] == 20
        assert seen[-1] == (20, 20)
        made.append({file.name: file.read_bytes() for file in out.iterdir()})
    assert made[0] == made[1]
    assert set(made[0]) == {"shard.json", "train-00002-of-00003.arrow"}


def test_a_bad_file_ends_its_shard_by_name_and_nothing_is_written(cifar10_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(3):
                shutil.copy(cifar10_folder / split / name / f"{number:04d}.jpg", root / split / name)
    whole = (root / "train/dog/0001.jpg").read_bytes()
    (root / "train/dog/0001.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "train/dog/text.jpg").write_text("this is no image\n" * 50)
    config = resolve(ImageFolder(name="pets", size=32, root=root))
    with pytest.raises(InputError) as raised:
        prepare(config, tmp_path, Shards(images_per_shard=4))
    message = str(raised.value)
    assert "2 of 3 images cannot be used" in message, "the first shard, of four images, is whole"
    assert "dog/0001.jpg" in message and "dog/text.jpg" in message and "0000.jpg" not in message
    assert (tmp_path / "train.0/shard.json").exists() and not list((tmp_path / "train.1").iterdir())


def test_a_long_list_of_bad_files_is_cut_with_a_count(tmp_path: Path) -> None:
    for split, count in (("train", 24), ("val", 1)):
        (tmp_path / "tree" / split / "a").mkdir(parents=True)
        for number in range(count):
            (tmp_path / "tree" / split / "a" / f"{number}.jpg").touch()
    with pytest.raises(InputError, match="and 4 more"):
        prepare(resolve(ImageFolder(name="a", size=32, root=tmp_path / "tree")), tmp_path)


def test_a_tree_that_changed_since_it_was_planned_is_refused(cifar10_folder: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "tree" / split).mkdir(parents=True)
        shutil.copytree(cifar10_folder / "test/cat", tmp_path / "tree" / split / "cat")
    config = resolve(ImageFolder(name="a", size=32, root=tmp_path / "tree"))
    (tmp_path / "tree/train/cat/0000.jpg").unlink()
    with pytest.raises(InputError, match="expected the image tree with the fingerprint"):
        prepare(config, tmp_path)


def test_a_published_dataset_of_another_image_size_is_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in CANONICAL["cifar10"].classes:
            (tmp_path / "tree" / split / name).mkdir(parents=True)
            Image.new("RGB", (40, 32)).save(tmp_path / "tree" / split / name / "0.png")
    with pytest.raises(InputError, match=r"is 40×32 pixels; expected 32×32"):
        prepare(resolve(Cifar10(root=tmp_path / "tree")), tmp_path)


def test_a_tree_is_never_stored_as_the_published_dataset(cifar10_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="planned without its fingerprint"):
        prepare(Cifar10(root=cifar10_folder, per_class=1), tmp_path)
    assert list((tmp_path / "out").iterdir()) == []


def test_digits_have_no_place_in_beton_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"hold colour images only"):
        prepare(resolve(Digits()), tmp_path, BETON)


def test_a_shards_description_is_what_prepare_joins(tiny_imagenet: DatasetConfig, tmp_path: Path) -> None:
    _, out, _ = prepare(tiny_imagenet, tmp_path)
    facts = json.loads((tmp_path / "train.0/shard.json").read_text())
    assert np.array(facts["levels"]).sum() == 120 * 64 * 64 * 3
    assert json.loads((out / "dataset.json").read_text())["splits"]["train"]["per_class"] == facts["per_class"]
