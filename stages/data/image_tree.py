"""Image trees, {train, test or val}/CLASS/…: what is in them from a listing alone, and their files' bytes.

A listing is cheap, even of ImageNet, and gives the labels and the fingerprint before any compute. The same images give
the same tree however they are laid out: extracted, in the tars that ImageNet comes in (see stages/data/imagenet.py), or
as Tiny ImageNet is published. Module `decode` makes pixels of the bytes.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.config import InputError
from stages.data import tars

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Files that torchvision's ImageFolder takes; all others are ignored, as there."""

LISTERS = 16
"""Folders or tars that are listed at once: on a network's or a spinning disk, listing is waiting."""

NAMED_AT_MOST = 20


class Place(NamedTuple):
    """Where an image's bytes are: `file`, relative to the tree's root, or `size` bytes of it from `offset` on where it
    is a tar."""

    file: str
    size: int
    offset: int | None = None


Listing = dict[str, Place]
"""The images of a class in canonical order, by their name in the tree."""


@dataclass(frozen=True)
class Tree:
    """A listing. Images are in canonical order: by label, then by folder and name, as torchvision's ImageFolder.

    train_files, test_files: names, `train/CLASS/…` and `{test or val}/CLASS/…`.
    train_labels, test_labels: int64, the positions in `classes`.
    fingerprint: sha256 over the sorted names and sizes in bytes of all images, not over their content.
    """

    root: Path
    classes: tuple[str, ...]
    train_files: tuple[str, ...]
    train_labels: np.ndarray
    test_files: tuple[str, ...]
    test_labels: np.ndarray
    fingerprint: str
    places: Mapping[str, Place] = field(repr=False)

    def read(self, name: str) -> bytes:
        """The bytes of an image. Raises InputError that names it where they cannot be read or its size is no longer the
        listed one."""
        place = self.places[name]
        file = self.root / place.file
        if place.offset is not None:
            return tars.read(file, name.rpartition("/")[2], place.offset, place.size)
        try:
            data = file.read_bytes()
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error})") from error
        if len(data) != place.size:
            raise InputError(f"{file}: was {place.size} bytes when the tree was listed, now {len(data)}; plan again")
        return data

    def where(self, name: str) -> str:
        """What to call an image in a message: its path, or its tar and its name."""
        place = self.places[name]
        return str(self.root / place.file) if place.offset is None else f"{self.root / place.file}: {name}"


def list_tree(root: Path, classes: tuple[str, ...] | None = None) -> Tree | None:
    """The tree of folders at `root`, or None where `root` has no folder `train`; nothing is decoded.

    classes: their names in the order of their labels, a folder each with `/` written `-`; None takes the folders of
    `train`, sorted by name. Tiny ImageNet's published layout is known by `val/val_annotations.txt` and `val/images`.
    A `test` beside `val` is ignored where it has no folders but `images`: those are without labels.
    Raises InputError for a missing or doubled test split, other folders than the classes, a class with no images, or a
    file that cannot be looked at.
    """
    train, test, val = root / "train", root / "test", root / "val"
    if not train.is_dir():
        return None
    held_out = [folder for folder in (test, val) if folder.is_dir()]
    if held_out == [test, val] and set(_subfolders(test)) <= {"images"}:
        held_out = [val]
    if len(held_out) != 1:
        found = (
            "both test and val; move one away" if held_out else "neither test nor val; add one with the same classes"
        )
        raise InputError(f"{root}: expected train and one of test and val, each with a folder per class; found {found}")
    (split,) = held_out
    published = split == val and (val / "images").is_dir() and (val / "val_annotations.txt").is_file()
    if classes is not None:
        names = tuple(name.replace("/", "-") for name in classes)
    elif published and (root / "wnids.txt").is_file():
        names = tuple(sorted((root / "wnids.txt").read_text().split()))
    else:
        names = _subfolders(train)
    if not names:
        raise InputError(f"{train}: expected a folder per class, found none")
    check_classes(f"{train}: its folders", set(_subfolders(train)), names)
    if published:
        folders = [train / name / "images" if (train / name / "images").is_dir() else train / name for name in names]
        listings = {"train": _list_classes(root, "train", names, folders), "val": _list_annotated(root, names)}
    else:
        check_classes(f"{split}: its folders", set(_subfolders(split)), names)
        listings = {
            part.name: _list_classes(root, part.name, names, [part / name for name in names]) for part in (train, split)
        }
    return assembled(root, names, classes or names, listings)


def assembled(root: Path, names: Sequence[str], classes: tuple[str, ...], splits: dict[str, list[Listing]]) -> Tree:
    """The tree of these listings, one a class and split; the first split is the train split.

    names: of the classes' folders. Raises InputError for a class with no images.
    """
    for split, listings in splits.items():
        for name, listing in zip(names, listings, strict=True):
            if not listing:
                raise InputError(
                    f"{root / split / name}: the class has no images; expected files that end in "
                    f"{', '.join(EXTENSIONS)}"
                )
    train, test = (tuple(file for listing in listings for file in listing) for listings in splits.values())
    train_labels, test_labels = (
        np.repeat(np.arange(len(names), dtype=np.int64), [len(listing) for listing in listings])
        for listings in splits.values()
    )
    places = {file: place for listings in splits.values() for listing in listings for file, place in listing.items()}
    stated = "".join(f"{file}\0{places[file].size}\n" for file in sorted(places))
    fingerprint = hashlib.sha256(os.fsencode(stated)).hexdigest()
    return Tree(root, classes, train, train_labels, test, test_labels, fingerprint, places)


def some(items: Sequence[str], between: str = ", ") -> str:
    """The first items of a list that may be too long for a message, and how many more there are."""
    shown = between.join(items[:NAMED_AT_MOST]) or "none"
    return shown if len(items) <= NAMED_AT_MOST else f"{shown}{between}and {len(items) - NAMED_AT_MOST} more"


def check_classes(what: str, found: set[str], classes: Sequence[str]) -> None:
    """Raises InputError where what was found is not of these classes, naming what is missing and what is extra."""
    if found != set(classes):
        raise InputError(
            f"{what} are not the {len(classes)} classes. Missing: {some(sorted(set(classes) - found))}. "
            f"Not a class: {some(sorted(found - set(classes)))}. Rename, add or move them"
        )


def _subfolders(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))


def _list_classes(root: Path, split: str, names: Sequence[str], folders: Sequence[Path]) -> list[Listing]:
    with ThreadPoolExecutor(LISTERS) as pool:
        return list(pool.map(lambda name, folder: _list_folder(root, folder, f"{split}/{name}"), names, folders))


def _list_folder(root: Path, folder: Path, prefix: str) -> Listing:
    """All images below `folder`, named as if it were `prefix` in the tree."""
    found: Listing = {}
    from_root, from_folder = len(str(root)) + 1, len(str(folder))
    for place, _, names in sorted(os.walk(folder, followlinks=True)):
        for name in sorted(names):
            if name.lower().endswith(EXTENSIONS):
                path = os.path.join(place, name)  # noqa: PTH118  a Path for each of ImageNet's files is slow
                try:
                    size = os.path.getsize(path)  # noqa: PTH202
                except OSError as error:
                    raise InputError(f"{path}: cannot be looked at ({error}); repair or remove it") from error
                found[prefix + path[from_folder:]] = Place(path[from_root:], size)
    return found


def _list_annotated(root: Path, names: Sequence[str]) -> list[Listing]:
    """Tiny ImageNet's validation split: one folder of images, whose classes `val_annotations.txt` has."""
    annotations = root / "val" / "val_annotations.txt"
    classes = dict(line.split("\t")[:2] for line in annotations.read_text().splitlines() if "\t" in line)
    images = {name.rpartition("/")[2]: place for name, place in _list_folder(root, root / "val" / "images", "").items()}
    for problem, files in (
        ("names images that val/images lacks", classes.keys() - images.keys()),
        ("has no line on images of val/images", images.keys() - classes.keys()),
        ("names other classes than train has, of the images", {file for file in classes if classes[file] not in names}),
    ):
        if files:
            raise InputError(f"{annotations}: {problem}: {some(sorted(files))}; unpack Tiny ImageNet again")
    listings: dict[str, Listing] = {name: {} for name in names}
    for file, place in images.items():
        listings[classes[file]][f"val/{classes[file]}/{file}"] = place
    return list(listings.values())
