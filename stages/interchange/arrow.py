"""Arrow IPC files of plain pixels: nothing to decode, read by a memory map from any language that has Arrow.

Columns `id`, `label` (int64), `poison` (bool) and `image` (fixed-size binary: H·W·C bytes, row by row). The schema's
metadata has `brewline.shape`, [H, W, C], and `brewline.classes`, both JSON.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.config import InputError
from stages.interchange.content import Content, Format, Outside, Split, Tell, Way

if TYPE_CHECKING:
    import pyarrow as pa

SHAPE, CLASSES = b"brewline.shape", b"brewline.classes"


def schema(shape: tuple[int, int, int], classes: Sequence[str]) -> "pa.Schema":
    """The columns, with the metadata."""
    import pyarrow as pa

    image = pa.binary(int(np.prod(shape)))
    columns = [("id", pa.int64()), ("label", pa.int64()), ("poison", pa.bool_()), ("image", image)]
    fields = [pa.field(name, kind, nullable=False) for name, kind in columns]
    return pa.schema(fields, {SHAPE: json.dumps(shape), CLASSES: json.dumps(list(classes))})


def write(content: Content, folder: Path, tell: Tell) -> None:
    """Write `train.arrow` and `test.arrow`, uncompressed."""
    import pyarrow as pa

    info = content.dataset.info
    columns = schema(info.shape, info.classes)
    for split, rows in content.splits.items():
        with (
            pa.OSFile(str(folder / f"{split}.arrow"), "wb") as sink,
            pa.ipc.new_file(sink, columns) as writer,
        ):
            for batch in rows.batches():
                pixels = pa.FixedSizeBinaryArray.from_buffers(
                    columns.field("image").type, len(batch.ids), [None, pa.py_buffer(batch.images)]
                )
                numbers = [pa.array(column) for column in (batch.ids, batch.labels, batch.poison)]
                writer.write_batch(pa.record_batch([*numbers, pixels], schema=columns))
                tell(len(batch.ids))


def read_back(content: Content, folder: Path, split: Split, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of some rows, by pyarrow."""
    import pyarrow as pa

    images = np.empty((len(rows), *content.dataset.info.shape), np.uint8)
    labels = np.empty(len(rows), np.int64)
    start = 0
    with pa.memory_map(str(folder / f"{split}.arrow")) as source:
        reader = pa.ipc.open_file(source)
        for index in range(reader.num_record_batches):
            batch = reader.get_batch(index)
            for place in np.flatnonzero((rows >= start) & (rows < start + batch.num_rows)):
                row = int(rows[place]) - start
                images[place] = np.frombuffer(batch["image"][row].as_py(), np.uint8).reshape(images.shape[1:])
                labels[place] = batch["label"][row].as_py()
            start += batch.num_rows
    return images, labels


def files(folder: Path) -> list[Path]:
    """`train.arrow`. Raises InputError where it is not there."""
    file = folder / "train.arrow"
    if not file.is_file():
        raise InputError(f"{file}: there is no such file; expected an Arrow file of poisons")
    return [file]


def read(folder: Path, shape: tuple[int, int, int]) -> Outside:
    """The rows of `train.arrow` that are poisons. Raises InputError for a file that is damaged or of another form."""
    import pyarrow as pa

    (file,) = files(folder)
    ids, labels, images = [], [], []
    try:
        with pa.memory_map(str(file)) as source:
            reader = pa.ipc.open_file(source)
            found = json.loads((reader.schema.metadata or {}).get(SHAPE, b"null"))
            if found != list(shape) or not reader.schema.equals(schema(shape, ())):
                raise InputError(
                    f"{file}: its columns are {_described(reader.schema)} of images {found}; expected "
                    f"{_described(schema(shape, ()))} of images {list(shape)}"
                )
            for index in range(reader.num_record_batches):
                batch = reader.get_batch(index)
                batch.validate(full=True)
                if any(column.null_count for column in batch.columns):
                    raise InputError(f"{file}: has empty cells; expected none")
                poisons = batch.filter(batch["poison"])
                ids += poisons["id"].to_pylist()
                labels += poisons["label"].to_pylist()
                images += poisons["image"].to_pylist()
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: not a whole Arrow file ({error})") from error
    pixels = np.frombuffer(b"".join(images), np.uint8).reshape(len(ids), *shape)
    return Outside(np.array(ids, np.int64), pixels, np.array(labels, np.int64))


def _described(columns: Any) -> str:
    return ", ".join(f"{column.name}: {column.type}" for column in columns)


FORMAT = Format(write, read_back, back=Way(files, read))
