"""Parquet as `datasets` and pyarrow read it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.config import InputError
from stages.interchange import content, parquet


def quiet(images: int) -> None:
    """Nobody watches."""


def test_datasets_sees_images_and_class_names(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    made = make(("dog/wolf", "cat", "newt"))
    monkeypatch.setattr(content, "BATCH_BYTES", 5 * math.prod(made.dataset.info.shape))
    parquet.write(made, tmp_path, quiet)
    files = {split: str(tmp_path / f"{split}.parquet") for split in made.splits}
    found = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    for split, rows in made.splits.items():
        features = found[split].features
        assert isinstance(features["image"], datasets.Image)
        assert features["label"].names == ["dog/wolf", "cat", "newt"]
        shown = rows.at(slice(None))
        assert found[split]["label"][:] == shown.labels.tolist()
        assert found[split]["id"][:] == shown.ids.tolist()
        assert found[split]["poison"][:] == shown.poison.tolist()
        for row, image in zip(found[split], shown.images, strict=True):
            assert np.array_equal(np.asarray(row["image"]), image)


def test_row_groups_are_no_larger_than_a_batch(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    made = make()
    monkeypatch.setattr(content, "BATCH_BYTES", 5 * math.prod(made.dataset.info.shape))
    parquet.write(made, tmp_path, quiet)
    found = pq.ParquetFile(tmp_path / "train.parquet").metadata
    assert [found.row_group(group).num_rows for group in range(found.num_row_groups)] == [5, 5, 5, 5, 1]


def test_two_classes_of_one_name_are_refused(make: Any) -> None:
    with pytest.raises(InputError, match="class 'crane' is there twice"):
        parquet.refuse(make(("crane", "crane")))
    parquet.refuse(make())
