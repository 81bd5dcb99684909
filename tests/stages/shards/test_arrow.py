"""Images come back as they were written, without a copy, and a damaged or foreign one is refused by name."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from stages.config import InputError
from stages.data.images import ImageSet
from stages.shards import arrow


def tiny(count: int, seed: int = 0) -> ImageSet:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 4, 5, 3), np.uint8)
    return ImageSet(pixels, rng.integers(0, 3, count), np.arange(count))


def equal(one: ImageSet, other: ImageSet) -> bool:
    pairs = ((one.images, other.images), (one.labels, other.labels), (one.ids, other.ids))
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def test_one_file_keeps_images_in_any_order_of_ids_and_its_facts(tmp_path: Path) -> None:
    poisons = tiny(20).of(np.array([17, 3, 5]))
    arrow.write_images(tmp_path / "poisons.arrow", poisons, {"eps": 16, "case": "a→b"})
    found, facts = arrow.read_images(tmp_path / "poisons.arrow")
    assert equal(found, poisons)
    assert facts == {"eps": 16, "case": "a→b"}


def test_a_file_is_read_as_a_read_only_view(tmp_path: Path) -> None:
    arrow.write_images(tmp_path / "images.arrow", tiny(20), {})
    before = pa.total_allocated_bytes()
    found, _ = arrow.read_images(tmp_path / "images.arrow")
    assert pa.total_allocated_bytes() == before
    assert isinstance(found.images, np.ndarray) and not found.images.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        found.images[0] = 0


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
def test_a_truncated_file_is_named(tmp_path: Path, kept: float) -> None:
    file = tmp_path / "images.arrow"
    arrow.write_images(file, tiny(20), {})
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(InputError, match=r"images\.arrow"):
        arrow.read_images(file)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    text, table = tmp_path / "text.arrow", tmp_path / "table.arrow"
    text.write_text("id,label\n1,2\n" * 100)
    data = pa.table({"id": [1], "label": [2], "image": [b"3"]})
    with pa.OSFile(str(table), "wb") as sink, pa.ipc.new_file(sink, data.schema) as writer:
        writer.write_table(data)
    for file in (text, table):
        with pytest.raises(InputError, match=file.name):
            arrow.read_images(file)


def test_arrays_that_do_not_fit_are_not_written(tmp_path: Path) -> None:
    good = tiny(4)
    for bad in (
        ImageSet(good.images.astype(np.float32), good.labels, good.ids),
        ImageSet(good.images[:0], good.labels[:0], good.ids[:0]),
        ImageSet(good.images, good.labels[:3], good.ids),
    ):
        with pytest.raises(ValueError, match="expected uint8 images"):
            arrow.write_images(tmp_path / "bad.arrow", bad, {})
    assert not list(tmp_path.iterdir())
