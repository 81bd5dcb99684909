"""A dataset in shards comes back whole in every format and number of shards; what is missing or foreign is named."""

import json
from pathlib import Path

import numpy as np
import pytest

from stages.config import InputError
from stages.data.images import DatasetInfo, ImageSet
from stages.data.pixels import Pixels, joined
from stages.shards import base_shards, beton, jpeg_pixels
from stages.shards.config import SPLITS, Shards

INFO = DatasetInfo("tiny", ("a", "b", "c"), (8, 6, 3), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
FORMATS = [Shards(), Shards(format="beton")]


def tiny(count: int, seed: int = 0) -> ImageSet:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, *INFO.shape), np.uint8)
    return ImageSet(pixels, rng.integers(0, 3, count), np.arange(count))


def written(folder: Path, shards: Shards = FORMATS[0], images_per_shard: int = 100) -> Path:
    folder.mkdir()
    shards = shards.model_copy(update={"images_per_shard": images_per_shard})
    parts = {}
    for split, whole in zip(SPLITS, (tiny(20), tiny(7, seed=1)), strict=True):
        of = shards.of(len(whole))
        rows = [shards.rows(index, len(whole)) for index in range(of)]
        parts[split] = [
            base_shards.write_part(folder, split, index, of, whole.of(np.array(part)), shards, len(INFO.classes))
            for index, part in enumerate(rows)
        ]
    base_shards.describe(folder, INFO, parts)
    return folder


@pytest.mark.parametrize("shards", FORMATS, ids=lambda shards: shards.format)
@pytest.mark.parametrize("images_per_shard", [100, 6])
def test_a_dataset_comes_back_whole_and_uncopied(tmp_path: Path, shards: Shards, images_per_shard: int) -> None:
    folder = written(tmp_path / "shards", shards, images_per_shard)
    count = 1 if images_per_shard == 100 else 4
    assert len(list(folder.glob(f"train-*-of-{count:05d}.{shards.format}"))) == count
    found = base_shards.load(folder)
    assert found.info == INFO
    for split, expected in ((found.train, tiny(20)), (found.test, tiny(7, seed=1))):
        assert isinstance(split.images, Pixels)
        assert np.array_equal(np.asarray(split.images), expected.images)
        assert np.array_equal(split.labels, expected.labels) and np.array_equal(split.ids, expected.ids)


@pytest.mark.parametrize("shards", FORMATS, ids=lambda shards: shards.format)
def test_the_same_content_gives_the_same_bytes(tmp_path: Path, shards: Shards) -> None:
    one, two = written(tmp_path / "one", shards), written(tmp_path / "two", shards)
    names = {"dataset.json", *(f"{split}-00000-of-00001.{shards.format}" for split in SPLITS)}
    assert {file.name for file in one.iterdir()} == names
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


def test_clean_images_may_be_jpegs_and_stay_close(tmp_path: Path) -> None:
    pytest.importorskip("ffcv")
    shards, smooth = Shards(format="beton", jpeg_quality=95), np.linspace(40, 200, 8 * 6 * 3).reshape(1, 8, 6, 3)
    images = ImageSet(np.repeat(smooth, 5, axis=0).astype(np.uint8), np.arange(5) % 3, np.arange(5))
    parts = {split: [base_shards.write_part(tmp_path, split, 0, 1, images, shards, 3)] for split in SPLITS}
    base_shards.describe(tmp_path, INFO, parts)
    train = base_shards.load(tmp_path).train
    decoded = np.asarray(train.images)
    assert not np.array_equal(decoded, images.images)
    assert np.abs(decoded.astype(int) - images.images).mean() < 12
    over = train.overlaid(np.array([3, 1]), images.images[:2])
    assert np.array_equal(over.of([1, 3]).images, images.images[:2]), "poisons are lossless in a JPEG base"
    assert np.array_equal(over.of([0, 2, 4]).images, decoded[[0, 2, 4]])
    assert np.array_equal(over.rows(np.array([4, 3])).array, np.stack([decoded[4], images.images[0]])), "a part of it"


def test_raw_and_jpeg_shards_join_in_any_order(tmp_path: Path) -> None:
    pytest.importorskip("ffcv")
    pixels = {}
    for name, quality in (("raw", None), ("jpeg", 95)):
        shards = Shards(format="beton", jpeg_quality=quality)
        part = base_shards.write_part(tmp_path, "train", quality or 0, 99, tiny(6), shards, 3)
        pixels[name] = jpeg_pixels.pixels_of_beton(beton.read(tmp_path / part.file))
    whole = {name: np.asarray(images) for name, images in pixels.items()}
    for order in (("raw", "jpeg"), ("jpeg", "raw", "jpeg")):
        both = joined([pixels[name] for name in order])
        assert np.array_equal(np.asarray(both), np.concatenate([whole[name] for name in order]))


def test_grey_images_have_no_place_in_beton_files(tmp_path: Path) -> None:
    grey = ImageSet(np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, np.int64), np.arange(2))
    with pytest.raises(InputError, match=r"hold colour images only; set shards\.format to arrow"):
        base_shards.write_part(tmp_path, "train", 0, 1, grey, Shards(format="beton"), 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shards", FORMATS, ids=lambda shards: shards.format)
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_shard_is_named(tmp_path: Path, shards: Shards, kept: float) -> None:
    file = written(tmp_path / "shards", shards) / f"train-00000-of-00001.{shards.format}"
    content = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(InputError, match=file.name):
        base_shards.load(file.parent)


def test_missing_and_misplaced_shards_are_named(tmp_path: Path) -> None:
    folder = written(tmp_path / "shards", images_per_shard=6)
    second, third = (folder / f"train-0000{index}-of-00004.arrow" for index in (1, 2))
    content = second.read_bytes()
    second.write_bytes(third.read_bytes())
    with pytest.raises(InputError, match=f"{second.name}: has ids from 12 to 17, expected 6 to 11"):
        base_shards.load(folder)
    second.write_bytes(content)
    third.unlink()
    with pytest.raises(InputError, match=third.name):
        base_shards.load(folder)
    (folder / "dataset.json").unlink()
    with pytest.raises(InputError, match=r"dataset\.json"):
        base_shards.load(folder)


def test_a_description_that_promises_other_images_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "shards", images_per_shard=6)
    described = folder / "dataset.json"
    facts = json.loads(described.read_text())
    train = facts["splits"]["train"]
    for damaged in (
        {**train, "files": train["files"][:-1]},
        {**train, "files": []},
        {**train, "per_class": [20, 0, 0]},
        {"files": train["files"]},
    ):
        described.write_text(json.dumps({**facts, "splits": {**facts["splits"], "train": damaged}}))
        with pytest.raises(InputError, match=str(folder)):
            base_shards.load(folder)
    described.write_text(json.dumps({**facts, "shape": [6, 8, 3]}))
    with pytest.raises(InputError, match=r"images are \(8, 6, 3\)"):
        base_shards.load(folder)


def test_labels_outside_the_classes_are_not_written(tmp_path: Path) -> None:
    good = tiny(4)
    with pytest.raises(ValueError, match="labels outside"):
        base_shards.write_part(tmp_path, "train", 0, 1, ImageSet(good.images, good.labels + 3, good.ids), FORMATS[0], 3)
    assert not list(tmp_path.iterdir())
