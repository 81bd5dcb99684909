"""Poisoned `.beton` files, written anew or as patched copies of the base, as FFCV's own loader reads them."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.config import InputError
from stages.data.images import ImageSet
from stages.interchange import FORMATS, Content
from stages.interchange.delivery import deliver
from stages.shards import base_shards, beton
from stages.shards.config import SPLITS, Shards

if importlib.util.find_spec("ffcv") is None:
    pytest.skip("FFCV is not installed: pip install -c constraints.txt -e '.[ffcv]'", allow_module_level=True)


def quiet(images: int) -> None:
    """Nobody watches."""


def on_shards(made: Content, folder: Path, shards: Shards) -> Content:
    """The same content, on base shards of this form; poisons are moved along where the base is not lossless."""
    folder.mkdir()
    parts, classes = {}, len(made.dataset.info.classes)
    for split, whole in zip(SPLITS, (made.dataset.train, made.dataset.test), strict=True):
        of = shards.of(len(whole))
        rows = [whole.of(np.array(shards.rows(index, len(whole)))) for index in range(of)]
        parts[split] = [
            base_shards.write_part(folder, split, index, of, part, shards, classes) for index, part in enumerate(rows)
        ]
    base_shards.describe(folder, made.dataset.info, parts)
    dataset = base_shards.load(folder)
    return replace(made, dataset=dataset, shards=base_shards.files(folder))


@pytest.mark.parametrize(
    "shards",
    [Shards(format="beton"), Shards(format="beton", jpeg_quality=90, images_per_shard=8)],
    ids=["whole-and-raw", "in-parts-and-jpeg"],
)
def test_a_poisoned_file_reads_back_through_ffcv(make: Any, tmp_path: Path, shards: Shards) -> None:
    """`deliver` compares every poison and a sample of clean images with what FFCV's loader gives."""
    made = on_shards(make(shape=(32, 32, 3)), tmp_path / "base", shards)
    before = {file: file.read_bytes() for files in made.shards.values() for file in files}
    deliver(FORMATS["beton"], made, tmp_path / "out", {}, quiet, quiet)
    assert all(file.read_bytes() == content for file, content in before.items()), "the base stays as it was"
    read = beton.read(tmp_path / "out/train.beton")
    assert np.array_equal(read.labels, made.dataset.train.labels)
    poisoned = np.isin(np.arange(len(read)), made.poisons.ids)
    assert not read.jpeg[poisoned].any(), "poisons are lossless"
    assert read.jpeg[~poisoned].all() == (shards.jpeg_quality is not None)


def test_poisons_alone_are_a_file_too(make: Any, tmp_path: Path) -> None:
    made = make(shape=(8, 9, 3), only_poisons=True)
    deliver(FORMATS["beton"], made, tmp_path / "out", {}, quiet, quiet)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"about.json", "train.beton"}
    assert len(beton.read(tmp_path / "out/train.beton")) == len(made.poisons)


def test_grey_images_are_refused_before_anything_is_written(make: Any, tmp_path: Path) -> None:
    grey = make(shape=(8, 8, 1))
    with pytest.raises(InputError, match="hold colour images, and random has 1 channel"):
        deliver(FORMATS["beton"], grey, tmp_path / "out", {}, quiet, quiet)
    assert not list(tmp_path.iterdir())


def test_one_wrong_pixel_is_found_and_nothing_is_left(make: Any, tmp_path: Path) -> None:
    made = make(shape=(8, 8, 3))

    def write(content: Content, folder: Path, tell: Any) -> None:
        changed = content.poisons.images.copy()
        changed[0, 0, 0, 0] ^= 1
        FORMATS["beton"].write(replace(content, poisons=replace(content.poisons, images=changed)), folder, tell)

    with pytest.raises(RuntimeError, match=f"train image {made.poisons.ids[0]} does not read back"):
        deliver(replace(FORMATS["beton"], write=write), made, tmp_path / "out", {}, quiet, quiet)
    assert not list(tmp_path.iterdir())


def test_images_are_told_of_as_they_are_written(make: Any, tmp_path: Path) -> None:
    made, told = make(), []
    FORMATS["beton"].write(made, tmp_path, told.append)
    assert sum(told) == len(made)
    assert isinstance(made.dataset.train, ImageSet)
