"""The Arrow files as anybody reads them, and files of others that are refused."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from stages.config import InputError
from stages.interchange import arrow, content


def quiet(images: int) -> None:
    """Nobody watches."""


def test_the_columns_and_their_metadata(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make()
    monkeypatch.setattr(content, "BATCH_BYTES", 5 * math.prod(made.dataset.info.shape))
    arrow.write(made, tmp_path, quiet)
    for split, rows in made.splits.items():
        reader = pa.ipc.open_file(str(tmp_path / f"{split}.arrow"))
        assert max(reader.get_batch(index).num_rows for index in range(reader.num_record_batches)) == 5
        table, shown = reader.read_all(), rows.at(slice(None))
        assert table["id"].to_pylist() == shown.ids.tolist()
        assert table["label"].to_pylist() == shown.labels.tolist()
        assert table["poison"].to_pylist() == shown.poison.tolist()
        shape = json.loads(table.schema.metadata[b"brewline.shape"])
        images = np.frombuffer(b"".join(table["image"].to_pylist()), np.uint8).reshape(-1, *shape)
        assert np.array_equal(images, shown.images)
        assert json.loads(table.schema.metadata[b"brewline.classes"]) == list(made.dataset.info.classes)


def test_a_whole_dataset_gives_its_poisons_back(make: Any, tmp_path: Path) -> None:
    made = make()
    arrow.write(made, tmp_path, quiet)
    found = arrow.read(tmp_path, made.dataset.info.shape)
    assert np.array_equal(found.ids, made.poisons.ids)
    assert np.array_equal(found.images, made.poisons.images)
    assert found.labels is not None and np.array_equal(found.labels, made.poisons.labels)


def test_what_is_of_another_form_is_named(make: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train\.arrow: there is no such file"):
        arrow.files(tmp_path)
    made = make()
    arrow.write(made, tmp_path, quiet)
    with pytest.raises(InputError, match=r"of images \[6, 5, 3\]; expected .* of images \[5, 6, 3\]"):
        arrow.read(tmp_path, (5, 6, 3))
    table = pa.ipc.open_file(str(tmp_path / "train.arrow")).read_all()
    for other in (table.drop_columns(["poison"]), table.set_column(1, "label", table["label"].cast(pa.int32()))):
        with pa.OSFile(str(tmp_path / "other.arrow"), "wb") as sink, pa.ipc.new_file(sink, other.schema) as writer:
            writer.write_table(other)
        (tmp_path / "other.arrow").replace(tmp_path / "train.arrow")
        with pytest.raises(InputError, match=r"train\.arrow: its columns are .*; expected id: int64, label: int64"):
            arrow.read(tmp_path, made.dataset.info.shape)
