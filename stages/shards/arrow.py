"""Images on disk, in Apache Arrow: the form every stage reads, because a memory map needs no decoding and no copy.

One file is one record batch of `id`, `label` and `image`, uncompressed, so its pixels are one block of bytes that numpy
sees in place. `write_images` and `read_images` are that one file. `write` and `load` are a whole dataset: the shards
`train-00000-of-00001.arrow`, `test-…` and a `dataset.json` that says what they must hold. The same content always gives
the same bytes.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from stages.config import InputError
from stages.data.images import Dataset, DatasetInfo, ImageSet

Split = Literal["train", "test"]

SPLITS: tuple[Split, ...] = ("train", "test")

IMAGES_PER_SHARD = 1 << 21
"""One shard, and so no copy in `load`, for every public dataset up to ImageNet-1k."""

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


def write(
    folder: Path, split: Split, images: ImageSet, info: DatasetInfo, images_per_shard: int = IMAGES_PER_SHARD
) -> str:
    """Write one split's shards and its entry in `dataset.json`; returns its content's sha256 (see `content_sha256`).

    `images` is a whole split (ids[i] == i). The two splits may be written in either order, with the same `info`.
    Raises ValueError for arrays that do not fit `info`, or another `info` than the other split's.
    """
    if images_per_shard < 1:
        raise ValueError(f"images_per_shard is {images_per_shard}, expected at least 1")
    _check_arrays(images)
    if images.images.shape[1:] != info.shape or not np.array_equal(images.ids, np.arange(len(images))):
        raise ValueError(f"the {split} split is not {info.shape} images with the ids 0..{len(images) - 1}")
    if images.labels.min() < 0 or images.labels.max() >= len(info.classes):
        raise ValueError(f"the {split} split has labels outside 0..{len(info.classes) - 1}")
    about = {
        "name": info.name,
        "classes": list(info.classes),
        "shape": list(info.shape),
        "mean": list(info.mean),
        "std": list(info.std),
    }
    described = folder / "dataset.json"
    splits: dict[str, Any] = {}
    if described.exists():
        earlier = json.loads(described.read_text())
        splits = earlier.pop("splits")
        if earlier != about:
            raise ValueError(f"{described} describes another dataset")
    content = content_sha256(images)
    shards = -(-len(images) // images_per_shard)
    for index in range(shards):
        rows = slice(index * images_per_shard, (index + 1) * images_per_shard)
        part = ImageSet(images.images[rows], images.labels[rows], images.ids[rows])
        write_images(_shard(folder, split, index, shards), part, {"split": split, "content": content})
    splits[split] = {
        "images": len(images),
        "per_class": np.bincount(images.labels, minlength=len(info.classes)).tolist(),
        "shards": shards,
        "content": content,
    }
    described.write_text(json.dumps({**about, "splits": splits}, indent=2, sort_keys=True) + "\n")
    return content


def load(folder: Path) -> Dataset:
    """The dataset in a folder that `write` made: read-only views of memory maps, or one copy where there are several
    shards.

    Raises InputError that names the file that is missing, cut short, foreign, or at odds with `dataset.json`.
    Pixels are not hashed here, as that would read them all; the store hashes files, `content_sha256` content.
    """
    described = folder / "dataset.json"
    try:
        facts = json.loads(described.read_text())
        info = DatasetInfo(
            name=facts["name"],
            classes=tuple(facts["classes"]),
            shape=_triple(facts["shape"]),
            mean=tuple(facts["mean"]),
            std=tuple(facts["std"]),
        )
        train, test = (_load_split(folder, split, facts["splits"][split], info) for split in SPLITS)
    except (OSError, LookupError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{described}: not a whole description of a dataset ({type(error).__name__}: {error}); prepare it again"
        ) from error
    return Dataset(info, train, test)


def content_sha256(images: ImageSet) -> str:
    """sha256 over ids, labels (int64, little-endian) and pixels, in order: the same however they are sharded."""
    digest = hashlib.sha256()
    digest.update(images.ids.astype("<i8").tobytes())
    digest.update(images.labels.astype("<i8").tobytes())
    for image in images.images:
        digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def _load_split(folder: Path, split: Split, facts: dict[str, Any], info: DatasetInfo) -> ImageSet:
    parts = list(_parts(folder, split, facts, info))
    whole = parts[0]
    if len(parts) > 1:
        whole = ImageSet(
            np.concatenate([part.images for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.ids for part in parts]),
        )
    per_class = np.bincount(whole.labels, minlength=len(info.classes)).tolist()
    if not np.array_equal(whole.ids, np.arange(facts["images"])) or per_class != facts["per_class"]:
        raise InputError(
            f"{folder}: the {split} shards hold {len(whole)} images ({per_class} per class) with ids from "
            f"{whole.ids[0]} to {whole.ids[-1]}; dataset.json says {facts['images']} ({facts['per_class']} per class) "
            "with ids from 0; prepare the dataset again"
        )
    return whole


def _parts(folder: Path, split: Split, facts: dict[str, Any], info: DatasetInfo) -> Iterator[ImageSet]:
    for index in range(facts["shards"]):
        file = _shard(folder, split, index, facts["shards"])
        part, about = read_images(file)
        if part.images.shape[1:] != info.shape:
            raise InputError(f"{file}: images are {part.images.shape[1:]}, dataset.json says {info.shape}")
        if about != {"split": split, "content": facts["content"]}:
            raise InputError(f"{file}: is a shard of another dataset or split ({about}); prepare the dataset again")
        yield part


def _shard(folder: Path, split: Split, index: int, shards: int) -> Path:
    return folder / f"{split}-{index:05d}-of-{shards:05d}.arrow"


def _schema(size: int) -> pa.Schema:
    columns = [("id", pa.int64()), ("label", pa.int64()), ("image", pa.binary(size))]
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns])


def _triple(shape: list[int]) -> tuple[int, int, int]:
    height, width, channels = shape
    return height, width, channels


def _check_arrays(images: ImageSet) -> None:
    pixels, count = images.images, len(images)
    fits = pixels.ndim == 4 and pixels.dtype == np.uint8 and pixels.shape[0] == count and pixels.size > 0
    columns = (images.ids, images.labels)
    if not fits or any(column.shape != (count,) or column.dtype != np.int64 for column in columns):
        raise ValueError(
            f"expected uint8 images [N, H, W, C] with int64 labels and ids [N], N > 0; found {pixels.dtype} "
            f"{pixels.shape}, {images.labels.dtype} {images.labels.shape}, {images.ids.dtype} {images.ids.shape}"
        )
