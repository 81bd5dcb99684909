"""Shards come back as they were written, without a copy, and a damaged or foreign one is refused by name."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from stages.config import InputError
from stages.data.images import DatasetInfo, ImageSet
from stages.shards import arrow

INFO = DatasetInfo("tiny", ("a", "b", "c"), (4, 5, 3), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))


def tiny(count: int, seed: int = 0) -> ImageSet:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, *INFO.shape), np.uint8)
    return ImageSet(pixels, rng.integers(0, 3, count), np.arange(count))


def equal(one: ImageSet, other: ImageSet) -> bool:
    pairs = ((one.images, other.images), (one.labels, other.labels), (one.ids, other.ids))
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def written(folder: Path, images_per_shard: int = 100) -> Path:
    folder.mkdir()
    arrow.write(folder, "test", tiny(7, seed=1), INFO, images_per_shard)
    arrow.write(folder, "train", tiny(20), INFO, images_per_shard)
    return folder


def test_one_file_keeps_images_in_any_order_of_ids_and_its_facts(tmp_path: Path) -> None:
    poisons = tiny(20).of(np.array([17, 3, 5]))
    arrow.write_images(tmp_path / "poisons.arrow", poisons, {"eps": 16, "case": "a→b"})
    found, facts = arrow.read_images(tmp_path / "poisons.arrow")
    assert equal(found, poisons)
    assert facts == {"eps": 16, "case": "a→b"}


def test_a_single_shard_is_a_read_only_view_of_the_file(tmp_path: Path) -> None:
    before = pa.total_allocated_bytes()
    train = arrow.load(written(tmp_path / "shards")).train
    assert pa.total_allocated_bytes() == before
    assert not train.images.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        train.images[0] = 0


def test_several_shards_hold_the_same_dataset_as_one(tmp_path: Path) -> None:
    one, many = written(tmp_path / "one"), written(tmp_path / "many", images_per_shard=6)
    assert len(list(many.glob("train-*-of-00004.arrow"))) == 4
    first, second = arrow.load(one), arrow.load(many)
    assert first.info == second.info == INFO
    assert equal(first.train, second.train)
    assert equal(first.train, tiny(20))
    assert equal(first.test, second.test)
    assert arrow.content_sha256(first.train) == arrow.content_sha256(second.train)


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = written(tmp_path / "one"), written(tmp_path / "two")
    assert {file.name for file in one.iterdir()} == {
        "dataset.json",
        "train-00000-of-00001.arrow",
        "test-00000-of-00001.arrow",
    }
    for file in one.iterdir():
        if file.name != "dataset.json":
            assert file.read_bytes() == (two / file.name).read_bytes()
    assert (one / "dataset.json").read_bytes() == (two / "dataset.json").read_bytes()


def test_content_changes_with_one_pixel_one_label_or_the_order() -> None:
    base = tiny(5)
    pixels, labels = base.images.copy(), base.labels.copy()
    pixels[4, 3, 4, 2] ^= 1
    labels[0] = (labels[0] + 1) % 3
    sets = [
        base,
        ImageSet(pixels, base.labels, base.ids),
        ImageSet(base.images, labels, base.ids),
        base.of(base.ids[::-1]),
    ]
    assert len({arrow.content_sha256(images) for images in sets}) == 4


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_shard_is_named(tmp_path: Path, kept: float) -> None:
    file = written(tmp_path / "shards") / "train-00000-of-00001.arrow"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(InputError, match=r"train-00000-of-00001\.arrow"):
        arrow.load(file.parent)


def test_a_missing_shard_and_a_missing_description_are_named(tmp_path: Path) -> None:
    folder = written(tmp_path / "shards", images_per_shard=6)
    (folder / "train-00002-of-00004.arrow").unlink()
    with pytest.raises(InputError, match=r"train-00002-of-00004\.arrow"):
        arrow.load(folder)
    (folder / "dataset.json").unlink()
    with pytest.raises(InputError, match=r"dataset\.json"):
        arrow.load(folder)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    text, table = tmp_path / "text.arrow", tmp_path / "table.arrow"
    text.write_text("id,label\n1,2\n" * 100)
    data = pa.table({"id": [1], "label": [2], "image": [b"3"]})
    with pa.OSFile(str(table), "wb") as sink, pa.ipc.new_file(sink, data.schema) as writer:
        writer.write_table(data)
    for file in (text, table):
        with pytest.raises(InputError, match=file.name):
            arrow.read_images(file)


def test_a_shard_of_another_dataset_of_the_same_shape_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "shards")
    other = tmp_path / "other"
    other.mkdir()
    arrow.write(other, "train", tiny(20, seed=9), INFO)
    name = "train-00000-of-00001.arrow"
    (folder / name).write_bytes((other / name).read_bytes())
    with pytest.raises(InputError, match=f"{name}: is a shard of another dataset"):
        arrow.load(folder)


def test_a_description_that_promises_other_images_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "shards")
    described = folder / "dataset.json"
    text = described.read_text()
    for damaged in (
        text.replace('"images": 20', '"images": 21'),
        text.replace('"shards": 1', '"shards": 0'),
        text[:50],
    ):
        described.write_text(damaged)
        with pytest.raises(InputError, match=str(folder)):
            arrow.load(folder)


def test_arrays_that_do_not_fit_are_not_written(tmp_path: Path) -> None:
    good = tiny(4)
    for bad in (
        ImageSet(good.images.astype(np.float32), good.labels, good.ids),
        ImageSet(good.images[:0], good.labels[:0], good.ids[:0]),
        ImageSet(good.images, good.labels[:3], good.ids),
    ):
        with pytest.raises(ValueError, match="expected uint8 images"):
            arrow.write_images(tmp_path / "bad.arrow", bad, {})
    with pytest.raises(ValueError, match=r"ids 0\.\.2"):
        arrow.write(tmp_path, "train", good.of(np.array([3, 1, 0])), INFO)
    with pytest.raises(ValueError, match="labels outside"):
        arrow.write(tmp_path, "train", ImageSet(good.images, good.labels + 3, good.ids), INFO)
    assert not list(tmp_path.iterdir())
