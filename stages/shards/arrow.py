"""Images in one Apache Arrow file: a memory map of it needs no decoding and no copy.

A file is one record batch of `id`, `label` and `image`, uncompressed, so its pixels are one block of bytes that numpy
sees in place. The same content always gives the same bytes.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stages.config import InputError
from stages.data.images import ImageSet

_SHAPE, _FACTS = b"brewline.shape", b"brewline.facts"


def write_images(file: Path, images: ImageSet, metadata: dict[str, Any]) -> None:
    """Write images and JSON-ready facts about them as one Arrow IPC file, replacing it.

    The bytes are a pure function of the content. Raises ValueError for an empty set or arrays that do not fit together.
    """
    _check_arrays(images)
    shape = images.images.shape[1:]
    size = int(np.prod(shape))
    pixels = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(size), len(images), [None, pa.py_buffer(np.ascontiguousarray(images.images))]
    )
    facts = json.dumps(metadata, sort_keys=True, allow_nan=False)
    schema = _schema(size).with_metadata({_SHAPE: json.dumps(shape).encode(), _FACTS: facts.encode()})
    batch = pa.record_batch([pa.array(images.ids), pa.array(images.labels), pixels], schema=schema)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch)


def read_images(file: Path) -> tuple[ImageSet, dict[str, Any]]:
    """The images of one file, as read-only views of a memory map, and the facts it was written with.

    Raises InputError that names the file where it is missing, cut short, or not of this form.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file; expected an Arrow file of images")
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(file)))
        metadata = reader.schema.metadata or {}
        shape, facts = tuple(json.loads(metadata[_SHAPE])), json.loads(metadata[_FACTS])
        if len(shape) != 3 or not reader.schema.equals(_schema(int(np.prod(shape)))):
            raise InputError(f"{file}: its columns are {reader.schema.names} of {reader.schema.types}, not images")
        if reader.num_record_batches != 1:
            raise InputError(f"{file}: holds {reader.num_record_batches} record batches, expected 1")
        batch = reader.get_batch(0)
        batch.validate(full=True)
    except InputError:
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{file}: not a whole Arrow file of images as brewline writes them ({error}); make it again"
        ) from error
    count = batch.num_rows
    if count == 0 or any(column.null_count for column in batch.columns):
        raise InputError(f"{file}: holds no images or empty cells; make it again")
    ids, labels = (np.frombuffer(batch.column(name).buffers()[1], np.int64, count) for name in ("id", "label"))
    pixels = np.frombuffer(batch.column("image").buffers()[1], np.uint8, count * int(np.prod(shape)))
    return ImageSet(pixels.reshape(count, *shape), labels, ids), facts


def content_sha256(images: ImageSet) -> str:
    """sha256 over ids, labels (int64, little-endian) and pixels, in order: the same however they are sharded."""
    digest = hashlib.sha256()
    digest.update(images.ids.astype("<i8").tobytes())
    digest.update(images.labels.astype("<i8").tobytes())
    for image in images.images:
        digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def _schema(size: int) -> pa.Schema:
    columns = [("id", pa.int64()), ("label", pa.int64()), ("image", pa.binary(size))]
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns])


def _check_arrays(images: ImageSet) -> None:
    pixels, count = images.images, len(images)
    fits = pixels.ndim == 4 and pixels.dtype == np.uint8 and pixels.shape[0] == count and pixels.size > 0
    columns = (images.ids, images.labels)
    if not fits or any(column.shape != (count,) or column.dtype != np.int64 for column in columns):
        raise ValueError(
            f"expected uint8 images [N, H, W, C] with int64 labels and ids [N], N > 0; found {pixels.dtype} "
            f"{pixels.shape}, {images.labels.dtype} {images.labels.shape}, {images.ids.dtype} {images.ids.shape}"
        )
