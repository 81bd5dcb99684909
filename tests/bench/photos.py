"""Photographs for the benchmarks: crops of real ImageNet images, as arrays, as a tree of JPEGs and as shards."""

from pathlib import Path

import numpy as np
from PIL import Image

from stages.data.images import DatasetInfo, ImageSet
from stages.shards import base_shards
from stages.shards.base_shards import Part
from stages.shards.config import Shards, Split

SIDE = 224
CLASSES = ("a", "b", "c", "d")


def photos(folder: Path, count: int) -> ImageSet:
    """`count` crops, uint8 [count, 224, 224, 3], of the images below `folder`, each crop drawn anew."""
    rng, wholes = np.random.default_rng(0), []
    for file in sorted(folder.rglob("*.JPEG")):
        with Image.open(file) as image:
            scale = 256 / min(image.size)
            size = (max(256, round(image.width * scale)), max(256, round(image.height * scale)))
            wholes.append(np.asarray(image.convert("RGB").resize(size)))
    crops = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for row in range(count):
        whole = wholes[row % len(wholes)]
        top, left = (rng.integers(0, side - SIDE + 1) for side in whole.shape[:2])
        crops[row] = whole[top : top + SIDE, left : left + SIDE]
    labels = np.sort(np.arange(count) % len(CLASSES))
    return ImageSet(crops, labels, np.arange(count))


def write_tree(images: ImageSet, folder: Path, quality: int = 90) -> Path:
    """A tree {train, val}/CLASS/NNNNN.JPEG of the images; `val` has the first of each class."""
    for split in ("train", "val"):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
    for row, label in enumerate(images.labels.tolist()):
        file = folder / "train" / CLASSES[label] / f"{row:05d}.JPEG"
        Image.fromarray(images.images[row]).save(file, "JPEG", quality=quality)
        first = folder / "val" / CLASSES[label]
        if not any(first.iterdir()):
            (first / file.name).write_bytes(file.read_bytes())
    return folder


def write_shards(images: ImageSet, folder: Path, shards: Shards) -> Path:
    """The images as a base; the test split is the first of them."""
    folder.mkdir()
    info = DatasetInfo("photos", CLASSES, (SIDE, SIDE, 3), (0.5,) * 3, (0.25,) * 3)
    parts: dict[Split, list[Part]] = {"train": [], "test": []}
    for split, of_split in (("train", images), ("test", images.of(np.arange(1)))):
        of = shards.of(len(of_split))
        for index in range(of):
            part = of_split.of(np.array(shards.rows(index, len(of_split))))
            parts[split].append(base_shards.write_part(folder, split, index, of, part, shards, len(CLASSES)))
    base_shards.describe(folder, info, parts)
    return folder
