"""Base shards: a whole dataset as `prepare` leaves it, in Arrow or .beton files, and `dataset.json`, which says what
they must hold. Every later stage reads a dataset with `load`, whatever its format, and copies none of it.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stages.config import InputError
from stages.data.images import Dataset, DatasetInfo, ImageSet
from stages.data.pixels import Pixels, joined, pixels_of
from stages.shards import arrow
from stages.shards.config import SPLITS, Shards, Split, precheck_shards


class Part(NamedTuple):
    """One shard of a split: its file's name, and how many images of each class it has."""

    file: str
    per_class: list[int]


def write_part(
    folder: Path,
    split: Split,
    index: int,
    of: int,
    images: ImageSet,
    shards: Shards,
    classes: int,
    cpus: int = 1,
) -> Part:
    """Write shard `index` of `of`; the bytes are a pure function of the content.

    cpus: threads that encode JPEGs. Raises ValueError for images that are none, and InputError for those that the
    format cannot hold.
    """
    precheck_shards(shards, f"the {split} split", images.images.shape[1:])
    if images.labels.min() < 0 or images.labels.max() >= classes:
        raise ValueError(f"the {split} split has labels outside 0..{classes - 1}")
    name = f"{split}-{index:05d}-of-{of:05d}.{shards.format}"
    if shards.format == "arrow":
        arrow.write_images(folder / name, images, {})
    else:
        _write_beton(folder / name, images, shards.jpeg_quality, cpus)
    return Part(name, np.bincount(images.labels, minlength=classes).tolist())


def describe(folder: Path, info: DatasetInfo, parts: dict[Split, list[Part]]) -> None:
    """Write `dataset.json`: `info`, and the files that make up each split, in order."""
    about = {
        "name": info.name,
        "classes": list(info.classes),
        "shape": list(info.shape),
        "mean": list(info.mean),
        "std": list(info.std),
        "splits": {
            split: {
                "files": [part.file for part in of_split],
                "per_class": np.sum([part.per_class for part in of_split], axis=0).tolist(),
            }
            for split, of_split in parts.items()
        },
    }
    (folder / "dataset.json").write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")


def load(folder: Path) -> Dataset:
    """The dataset in a folder, as views of memory maps.

    Raises InputError that names the file that is missing, cut short, foreign, or at odds with `dataset.json`.
    Pixels are not hashed here, as that would read them all; the store hashes files, `content_sha256` content.
    """
    described = folder / "dataset.json"
    try:
        facts = json.loads(described.read_text())
        height, width, channels = facts["shape"]
        info = DatasetInfo(
            name=facts["name"],
            classes=tuple(facts["classes"]),
            shape=(height, width, channels),
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


def files(folder: Path) -> dict[Split, tuple[Path, ...]]:
    """The shards of a dataset that `load` reads, in order."""
    splits = json.loads((folder / "dataset.json").read_text())["splits"]
    return {split: tuple(folder / name for name in splits[split]["files"]) for split in SPLITS}


def _load_split(folder: Path, split: Split, facts: dict[str, Any], info: DatasetInfo) -> ImageSet:
    pixels: list[Pixels] = []
    labels: list[np.ndarray] = []
    for name in facts["files"]:
        part_pixels, part_labels = _read(folder / name, sum(len(part) for part in labels))
        if part_pixels.shape[1:] != info.shape:
            raise InputError(f"{folder / name}: images are {part_pixels.shape[1:]}, dataset.json says {info.shape}")
        pixels.append(part_pixels)
        labels.append(part_labels)
    whole = np.concatenate(labels)
    outside = whole[(whole < 0) | (whole >= len(info.classes))]
    per_class = np.bincount(whole, minlength=len(info.classes)).tolist() if not len(outside) else outside.tolist()
    if per_class != facts["per_class"]:
        raise InputError(
            f"{folder}: the {split} shards hold {len(whole)} images ({_short(per_class)} per class); dataset.json says "
            f"{sum(facts['per_class'])} ({_short(facts['per_class'])} per class); prepare the dataset again"
        )
    return ImageSet(joined(pixels), whole, np.arange(len(whole), dtype=np.int64))


def _short(counts: list[int]) -> str:
    return str(counts) if len(counts) <= 20 else f"[{', '.join(map(str, counts[:20]))}, …]"


def _read(file: Path, first: int) -> tuple[Pixels, np.ndarray]:
    """The images and labels of one shard, whose first image has the id `first`."""
    if file.suffix == ".beton":
        from stages.shards import beton, jpeg_pixels

        read = beton.read(file)
        return jpeg_pixels.pixels_of_beton(read), read.labels
    images, _ = arrow.read_images(file)
    if not np.array_equal(images.ids, np.arange(first, first + len(images))):
        raise InputError(
            f"{file}: has ids from {images.ids[0]} to {images.ids[-1]}, expected {first} to "
            f"{first + len(images) - 1}; it is another dataset's shard: prepare the dataset again"
        )
    return pixels_of(images.images), images.labels


def _write_beton(file: Path, images: ImageSet, quality: int | None, cpus: int) -> None:
    from stages.shards import beton, jpeg

    height, width, _ = images.images.shape[1:]
    labels = images.labels.tolist()
    with beton.Writer(file, len(images)) as writer, ThreadPoolExecutor(cpus) as pool:
        if quality is None:
            for image, label in zip(images.images, labels, strict=True):
                writer.add(image, label)
        else:
            encoded = pool.map(lambda image: jpeg.encode(image, quality), images.images)
            for data, label in zip(encoded, labels, strict=True):
                writer.add_jpeg(data, height, width, label)
