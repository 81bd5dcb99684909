"""What can be said of a dataset before any compute, from its configuration and a listing of its files.

`resolve` completes a configuration by looking at the files (a listing only), and `describe` says what the dataset will
be, so that an experiment is checked before it runs. Module `sources` gets the pixels.

Canonical data and an image tree of "the same" images never share a key: a tree's fingerprint is part of its identity.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from stages.config import InputError, nearest
from stages.data import imagenet
from stages.data.canonical import CANONICAL, Files
from stages.data.dataset_config import (
    DatasetConfig,
    Digits,
    FileConfig,
    ImageNet,
    Resized,
    TinyImageNet,
    folder_of,
    name_of,
)
from stages.data.image_tree import Tree, list_tree


@dataclass(frozen=True)
class Description:
    """What a dataset will be once it is prepared, with its subsets taken.

    shape: (H, W, C).  train_labels, test_labels: int64, by id; None before a canonical dataset is downloaded.
    train_counts, test_counts: images per class; of ImageNet that is absent the most that a class has, 1,300 and 50.
    """

    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    train_labels: np.ndarray | None
    test_labels: np.ndarray | None
    train_counts: tuple[int, ...]
    test_counts: tuple[int, ...]


def resolve(config: DatasetConfig, absent_ok: bool = False) -> DatasetConfig:
    """The configuration with an image tree's fingerprint and image counts filled in and a given root made absolute.

    Looks at the folder's listing, decodes nothing. absent_ok: whether ImageNet may be absent; its published counts are
    filled in then, and no fingerprint, for a plan that is only looked at. Raises InputError that names the folder where
    the data are missing and may not be downloaded, are incomplete, have other classes than expected, or do not match a
    stated fingerprint, and where a subset asks for more images of a class than there are.
    """
    held = held_by(config, absent_ok)
    whole = whole_of(config, held)
    if isinstance(config, Digits):
        return config
    root = None if config.root is None else folder_of(config)
    if held is None and isinstance(config, ImageNet):
        whole_split = config.per_class is None and config.classes is None
        train = imagenet.TRAIN_IMAGES if whole_split else sum(whole.train_counts)
        return config.model_copy(update={"images": (train, sum(whole.test_counts)), "root": root})
    found = _checked_fingerprint(config, held)
    images = (sum(whole.train_counts), sum(whole.test_counts)) if found else None
    return config.model_copy(update={"fingerprint": found, "images": images, "root": root})


def describe(config: DatasetConfig, absent_ok: bool = False) -> Description:
    """What a dataset will be; reads labels at most, never a tree's pixels. Raises InputError as `resolve` does."""
    held = held_by(config, absent_ok)
    whole = whole_of(config, held)
    if isinstance(held, Tree):
        train, test = held.train_labels, held.test_labels
    elif held is not None:
        train, test = CANONICAL[config.kind].labels(held)
    else:
        return whole
    (_, train), (_, test) = used(config, held, train, "train"), used(config, held, test, "test")
    return replace(whole, train_labels=train, test_labels=test)


def used(
    config: DatasetConfig, held: Files | Tree | None, labels: np.ndarray, split: Literal["train", "test"]
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a split that the configuration takes, and their labels, numbered anew where classes are left out."""
    kept = _kept(config, _published(config, held).classes)
    rows = np.flatnonzero(np.isin(labels, kept))
    renumbered = np.searchsorted(kept, labels[rows])
    first = first_of_each(renumbered, config.per_class if split == "train" else config.test_per_class)
    return rows[first], renumbered[first]


@lru_cache(maxsize=1)
def tree_of(config: FileConfig) -> Tree:
    """The image tree that a resolved configuration names, listed once a process: ImageNet's listing takes 10 s, and a
    step reads but a part of it. `Tree.read` refuses files whose size changes later. Raises as `resolve` does."""
    held = held_by(config)
    _checked_fingerprint(config, held)
    if not isinstance(held, Tree):
        raise ValueError(f"{name_of(config)} is the published files here, not an image tree")
    return held


def held_by(config: DatasetConfig, absent_ok: bool = False) -> Files | Tree | None:
    """The published files or the image tree that are there; None where they are to be downloaded, or where ImageNet is
    absent and may be."""
    if isinstance(config, Digits):
        return {}
    root = folder_of(config)
    if isinstance(config, Resized):
        held: Files | Tree | None = list_tree(root) or imagenet.list_tars(root)
        if held is None and absent_ok and isinstance(config, ImageNet):
            return None
        tree = "an image tree, {train, test or val}/CLASS/…"
        expected = imagenet.EXPECTED if isinstance(config, ImageNet) else tree
    else:
        known = CANONICAL[config.kind]
        held = known.find(root) or list_tree(root, known.classes)
        if held is not None:
            return held
        if config.download:
            if config.root is not None and not root.is_dir():
                raise InputError(
                    f"{root}: there is no such folder. Make it to download {name_of(config)} to there, or "
                    f"set the dataset's root to where {known.title} is"
                )
            return None
        expected = f"{known.folder} as torchvision downloads it, an image tree, or download: true"
    if held is None:
        raise InputError(f"{root}: does not hold {name_of(config)}. Expected {expected}. Set the dataset's root")
    return held


def absent_folder(config: DatasetConfig) -> Path | None:
    """The folder of data that are planned with though they are not there (see `resolve`); None where they are."""
    if isinstance(config, ImageNet) and config.fingerprint is None and config.images is not None:
        return folder_of(config)
    return None


def whole_of(config: DatasetConfig, held: Files | Tree | None) -> Description:
    """The description without labels, its subsets checked and their counts taken."""
    published = _published(config, held)
    if isinstance(config, Resized) and held is None and (config.per_class or 0) > imagenet.LEAST_OF_A_CLASS:
        raise InputError(
            f"dataset.per_class is {config.per_class}, but a class of ImageNet has {imagenet.LEAST_OF_A_CLASS} "
            f"train images; use at most {imagenet.LEAST_OF_A_CLASS}"
        )
    kept = _kept(config, published.classes)
    classes = tuple(published.classes[row] for row in kept)

    def taken(of_all: tuple[int, ...], field: str) -> tuple[int, ...]:
        counts = tuple(of_all[row] for row in kept)
        limit: int | None = getattr(config, field)
        least = min(range(len(counts)), key=counts.__getitem__)
        if limit is not None and limit > counts[least]:
            raise InputError(
                f"dataset.{field} is {limit}, but class {classes[least]} of {name_of(config)} has "
                f"{counts[least]} images in that split; use at most {counts[least]}"
            )
        return counts if limit is None else (limit,) * len(counts)

    train, test = taken(published.train_counts, "per_class"), taken(published.test_counts, "test_per_class")
    return replace(published, classes=classes, train_counts=train, test_counts=test)


def _published(config: DatasetConfig, held: Files | Tree | None) -> Description:
    """All classes and images, without labels."""
    if not isinstance(config, Resized):
        known = CANONICAL[config.kind]
        whole = Description(known.classes, known.shape, None, None, known.train_counts, known.test_counts)
    else:
        classes = tuple(imagenet.class_names().values())
        most = (imagenet.MOST_OF_A_CLASS,) * len(classes), (imagenet.VAL_IMAGES_OF_A_CLASS,) * len(classes)
        whole = Description(classes, (config.size, config.size, 3), None, None, *most)
    if isinstance(held, Tree):
        counts = (tuple(np.bincount(labels).tolist()) for labels in (held.train_labels, held.test_labels))
        whole = Description(_shown(config, held.classes), whole.shape, None, None, *counts)  # no class is empty
    return whole


def _kept(config: DatasetConfig, classes: tuple[str, ...]) -> list[int]:
    """The positions of the classes that the configuration keeps, ascending."""
    if config.classes is None:
        return list(range(len(classes)))
    kept = set()
    for stated in config.classes:
        if isinstance(stated, int) and not 0 <= stated < len(classes):
            raise InputError(f"dataset.classes names {stated}, expected 0 to {len(classes) - 1}, or a class name")
        if isinstance(stated, str) and stated not in classes:
            raise InputError(f"dataset.classes: no class is called {stated!r}; {nearest(stated, classes)}")
        kept.add(classes.index(stated) if isinstance(stated, str) else stated)
    if len(kept) < len(config.classes):
        raise InputError("dataset.classes names a class by its name and by its index; name each once")
    return sorted(kept)


def _checked_fingerprint(config: FileConfig, held: Files | Tree | None) -> str | None:
    found = held.fingerprint if isinstance(held, Tree) else None
    if config.fingerprint is not None and found != config.fingerprint:
        raise InputError(
            f"{folder_of(config)}: expected the image tree with the fingerprint {config.fingerprint}; found "
            f"{f'the tree {found}' if found else 'no image tree'}. Point root to the tree that is meant, or remove the "
            "fingerprint to use what is there"
        )
    return found


def _shown(config: DatasetConfig, classes: tuple[str, ...]) -> tuple[str, ...]:
    """What reports call a tree's classes: a function of the folders' names, which are part of the fingerprint."""
    whole = isinstance(config, ImageNet) and len(classes) == len(imagenet.class_names())
    return imagenet.readable(classes) if whole or isinstance(config, TinyImageNet) else classes


def first_of_each(labels: np.ndarray, per_class: int | None) -> np.ndarray:
    """The positions of the first `per_class` of each label, in order."""
    if per_class is None:
        return np.arange(len(labels))
    by_class = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_class], labels[by_class])
    return np.sort(by_class[np.arange(len(labels)) - starts < per_class])
