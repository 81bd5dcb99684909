"""Parquet files as the Hugging Face Hub has them: `datasets.load_dataset("parquet", data_files=…)` gives images, and
labels that know their class names. The images in it are PNGs."""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages.config import InputError
from stages.interchange import png
from stages.interchange.content import Content, Format, Split, Tell

if TYPE_CHECKING:
    import pyarrow as pa


def schema(classes: Sequence[str]) -> "pa.Schema":
    """The columns, and the metadata by which `datasets` knows which are images and classes."""
    import pyarrow as pa

    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(classes), "_type": "ClassLabel"},
        "id": {"dtype": "int64", "_type": "Value"},
        "poison": {"dtype": "bool", "_type": "Value"},
    }
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = [("image", image), ("label", pa.int64()), ("id", pa.int64()), ("poison", pa.bool_())]
    return pa.schema(columns, {"huggingface": json.dumps({"info": {"features": features}})})


def refuse(content: Content) -> None:
    """Raises InputError where two classes have one name: a ClassLabel cannot have that."""
    classes = content.dataset.info.classes
    if twice := sorted({name for name in classes if classes.count(name) > 1}):
        raise InputError(f"format parquet: class {twice[0]!r} is there twice, and its labels need names that differ")


def write(content: Content, folder: Path, tell: Tell) -> None:
    """Write `train.parquet` and `test.parquet`, a batch a row group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = schema(content.dataset.info.classes)
    # A PNG is compressed already, and no two are alike.
    options = {"compression": "NONE", "use_dictionary": False, "write_statistics": ["label", "id", "poison"]}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for split, rows in content.splits.items():
            with pq.ParquetWriter(folder / f"{split}.parquet", columns, **options) as writer:
                for batch in rows.batches():
                    images = []
                    for i, data in zip(batch.ids, pool.map(png.encode, batch.images), strict=True):
                        images.append({"bytes": data, "path": rows.file(i)})
                        tell(1)
                    table = [pa.array(images, columns.field("image").type), batch.labels, batch.ids, batch.poison]
                    writer.write_batch(pa.record_batch(table, schema=columns), row_group_size=len(images))


def read_back(content: Content, folder: Path, split: Split, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of some rows, by pyarrow."""
    import pyarrow.parquet as pq

    info = content.dataset.info
    images = np.empty((len(rows), *info.shape), np.uint8)
    labels = np.empty(len(rows), np.int64)
    with pq.ParquetFile(folder / f"{split}.parquet") as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        ends = np.cumsum(sizes)
        group_of = np.searchsorted(ends, rows, side="right")
        for group in np.unique(group_of):
            table = file.read_row_group(int(group), columns=["image", "label"])
            for place in np.flatnonzero(group_of == group):
                row = int(rows[place] - (ends[group] - sizes[group]))
                image = table["image"][row].as_py()
                images[place] = png.decode(image["bytes"], image["path"], info.shape)
                labels[place] = table["label"][row].as_py()
    return images, labels


FORMAT = Format(write, read_back, refuse)
