"""The datasets an experiment may name: their fields, and where their files are looked for. No file is touched here."""

import os
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import platformdirs
from pydantic import Field, ValidationInfo, field_validator

from stages.config import Added, Config, Location, NotIdentity


class Subset(Config):
    """How much of a dataset is used. What remains keeps its order and is numbered anew: ids 0..N-1 in each split, and
    labels where classes are left out."""

    classes: Annotated[tuple[int | str, ...] | None, Added()] = None
    """The classes that are used, by name or by index; they keep the dataset's own order. Null is all."""
    per_class: Annotated[int, Field(gt=0)] | None = None
    """The first images of each class of the train split, in canonical order; null is all."""
    test_per_class: Annotated[int, Field(gt=0)] | None = None
    """The same for the test split."""

    @field_validator("classes")
    @classmethod
    def _several(cls, classes: tuple[int | str, ...] | None) -> tuple[int | str, ...] | None:
        if classes is not None and len(set(classes)) < max(2, len(classes)):
            raise ValueError(
                f"{len(classes)} classes, {len(set(classes))} of them different; name two or more, each once"
            )
        return classes


class Digits(Subset):
    """scikit-learn's 8×8 digits, embedded: 1,347 train and 450 test images in a fixed stratified split."""

    kind: Literal["digits"] = "digits"


class FromFiles(Subset):
    """A dataset that lies in files."""

    root: Location = None
    """Its folder; null is $BREWLINE_DATA/<kind>, or else the user's cache folder (an image folder: its name)."""
    fingerprint: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Of an image tree: sha256 over its sorted relative paths and sizes. `resolve` fills it in or checks it.
    Null for canonical data."""
    images: Annotated[tuple[int, int] | None, NotIdentity()] = None
    """Of an image tree: train and test images, subsets taken. `resolve` fills it in from what the fingerprint covers,
    so it is no part of a key. Null for canonical data."""


class Downloadable(FromFiles):
    """A published dataset, from the authors' files or, under a fingerprint, from an image tree of the same classes and
    image size."""

    download: Annotated[bool, NotIdentity()] = True
    """Fetch the published files where `root` holds neither them nor an image tree."""


class Cifar10(Downloadable):
    """CIFAR-10: 50,000 + 10,000 colour images of 32×32."""

    kind: Literal["cifar10"] = "cifar10"


class Cifar100(Downloadable):
    """CIFAR-100 with its 100 fine labels."""

    kind: Literal["cifar100"] = "cifar100"


class Mnist(Downloadable):
    """MNIST: 60,000 + 10,000 grey images of 28×28."""

    kind: Literal["mnist"] = "mnist"


class FashionMnist(Downloadable):
    """Fashion-MNIST, in MNIST's form."""

    kind: Literal["fashion-mnist"] = "fashion-mnist"


class Resized(FromFiles):
    """An image tree whose images are always made colour, resized and center-cropped."""

    size: Annotated[int, Field(ge=2)]
    """Height and width after the crop, in pixels."""
    resize: int | None = None
    """Length in pixels that the short side gets before the crop. Null is filled in: size × 256 / 224, rounded, for a
    size of 64 and more (224 from 256, as the papers on ImageNet do), else, and for Tiny ImageNet, the size."""
    margin: ClassVar[float] = 256 / 224

    @field_validator("resize")
    @classmethod
    def _fill_resize(cls, resize: int | None, info: ValidationInfo) -> int | None:
        size = info.data.get("size")
        if size is None:  # refused already
            return resize
        if resize is None:
            return round(size * cls.margin) if size >= 64 else size
        if resize < size:
            raise ValueError(f"{resize} is less than size {size}, and the crop does not pad; use at least {size}")
        return resize


class ImageFolder(Resized):
    """Any image tree {train, test or val}/CLASS/…"""

    kind: Literal["image-folder"] = "image-folder"
    name: Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """What reports call it."""


class ImageNet(Resized):
    """ImageNet (ILSVRC 2012): a tree {train, val}/WNID/… or the official tars, which are not unpacked. Classes have
    readable names where all 1,000 are there, else WordNet ids."""

    kind: Literal["imagenet"] = "imagenet"
    size: Annotated[int, Field(ge=2)] = 224


class TinyImageNet(Resized):
    """Tiny ImageNet: 64×64, 500 + 50 images in each of 200 classes; as published, or a tree {train, val}/WNID/…"""

    kind: Literal["tiny-imagenet"] = "tiny-imagenet"
    size: Annotated[int, Field(ge=2)] = 64
    margin: ClassVar[float] = 1


FileConfig = Cifar10 | Cifar100 | Mnist | FashionMnist | ImageFolder | ImageNet | TinyImageNet

DatasetConfig = Annotated[Digits | FileConfig, Field(discriminator="kind")]


def name_of(config: DatasetConfig) -> str:
    """What reports call the dataset."""
    return config.name if isinstance(config, ImageFolder) else config.kind


def folder_of(config: FileConfig) -> Path:
    """Where the dataset's files are looked for on this machine: an absolute path."""
    if config.root is not None:
        return config.root.expanduser().absolute()
    given = os.environ.get("BREWLINE_DATA")
    data = Path(given).expanduser().absolute() if given else Path(platformdirs.user_cache_dir("brewline")) / "data"
    return data / name_of(config)
