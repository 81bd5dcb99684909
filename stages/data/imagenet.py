"""ImageNet (ILSVRC 2012): what is known of it without having it, and its official tars read where they lie.

The tars give the tree that extracting them gives: the same names, order, labels and fingerprint.
"""

import io
import re
import tarfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from stages.config import InputError
from stages.data import tars
from stages.data.image_tree import EXTENSIONS, LISTERS, Listing, Place, Tree, assembled, check_classes, some

TRAIN_IMAGES = 1_281_167
LEAST_OF_A_CLASS, MOST_OF_A_CLASS = 732, 1300
"""Train images (Russakovsky et al. 2015, table 2)."""
VAL_IMAGES_OF_A_CLASS = 50

TRAIN_TAR, VAL_TAR, DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
EXPECTED = (
    f"{{train, val}}/WNID/… or {TRAIN_TAR}, {VAL_TAR} and {DEVKIT}, which image-net.org gives to those who register"
)
"""What a folder must hold, for messages."""


@cache
def class_names() -> dict[str, str]:
    """The names of the 1,000 classes by their WordNet ids, in the order of their labels; no two are the same."""
    lines = Path(__file__).with_name("imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t") for line in lines if not line.startswith("#"))


def readable(classes: Sequence[str]) -> tuple[str, ...]:
    """The names of classes that are WordNet ids; where one is not among the 1,000, all ids stay as they are."""
    names = class_names()
    return tuple(names[wnid] for wnid in classes) if names.keys() >= set(classes) else tuple(classes)


def list_tars(root: Path) -> Tree | None:
    """The tree in ImageNet's tars, or None where `root` has neither images' tar; no image is read.

    Classes are the WordNet ids. Raises InputError for a missing, damaged or foreign tar, other validation images than
    the development kit has labels for, or other classes in one tar than in the other.
    """
    held = [name for name in (TRAIN_TAR, VAL_TAR, DEVKIT) if (root / name).is_file()]
    if not {TRAIN_TAR, VAL_TAR} & set(held):
        return None
    if missing := sorted({TRAIN_TAR, VAL_TAR, DEVKIT} - set(held)):
        raise InputError(f"{root}: holds {', '.join(held)}; {', '.join(missing)} is missing, get it from image-net.org")
    class_tars = [member for member in tars.members(root / TRAIN_TAR) if member.name.endswith(".tar")]
    of_classes = {Path(member.name).stem: member for member in class_tars}
    if len(of_classes) != len(class_tars):
        raise InputError(f"{root / TRAIN_TAR}: holds a class more than once; get it again")
    wnids = tuple(sorted(of_classes))
    if not wnids:
        raise InputError(f"{root / TRAIN_TAR}: expected a tar per class in it, found none; get it again")
    with ThreadPoolExecutor(LISTERS) as pool:
        inner = list(pool.map(lambda wnid: tars.members(root / TRAIN_TAR, of_classes[wnid]), wnids))
    train = [
        _listing(f"{root / TRAIN_TAR}: {wnid}.tar", f"train/{wnid}", TRAIN_TAR, members)
        for wnid, members in zip(wnids, inner, strict=True)
    ]
    return assembled(root, wnids, wnids, {"train": train, "val": _list_val(root, wnids)})


def _list_val(root: Path, wnids: Sequence[str]) -> list[Listing]:
    labels = _validation_labels(root / DEVKIT)
    members: dict[str, list[tars.Member]] = {wnid: [] for wnid in labels}
    strays, found = [], 0
    for member in tars.members(root / VAL_TAR):
        match = re.fullmatch(r"(?:.*/)?ILSVRC2012_val_(\d{8})\.JPEG", member.name)
        if match and 1 <= int(match[1]) <= len(labels):
            members[labels[int(match[1]) - 1]].append(member)
            found += 1
        else:
            strays.append(member.name)
    if strays or found != len(labels):
        raise InputError(
            f"{root / VAL_TAR}: expected the {len(labels)} images that {DEVKIT} has labels for, found {found} of them "
            f"and other files: {some(strays)}; get both again"
        )
    check_classes(f"{root / VAL_TAR}: its images' classes", set(labels), wnids)
    return [_listing(str(root / VAL_TAR), f"val/{wnid}", VAL_TAR, members[wnid]) for wnid in wnids]


def _listing(where: str, prefix: str, file: str, members: Sequence[tars.Member]) -> Listing:
    images = [member for member in members if member.name.lower().endswith(EXTENSIONS)]
    named = {member.name.rpartition("/")[2]: member for member in images}
    listing = {f"{prefix}/{name}": Place(file, named[name].size, named[name].offset) for name in sorted(named)}
    if len(named) != len(images):
        raise InputError(f"{where}: holds a file more than once; get it again")
    return listing


def _validation_labels(devkit: Path) -> list[str]:
    """The WordNet ids of validation images 1, 2, …"""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    wanted = {"data/meta.mat": b"", "data/ILSVRC2012_validation_ground_truth.txt": b""}
    try:
        with tarfile.open(devkit, "r:gz") as tar:
            for member in tar:
                for name in wanted:
                    if member.name.endswith(name) and (stream := tar.extractfile(member)):
                        wanted[name] = stream.read()
        meta, truth = wanted.values()
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        return [wnids[int(line)] for line in truth.split()]
    except (tarfile.TarError, zlib.error, MatReadError, OSError, EOFError, LookupError, ValueError, TypeError) as error:
        raise InputError(
            f"{devkit}: not ImageNet's development kit with {' and '.join(wanted)} in it ({type(error).__name__}: "
            f"{error}); get it again"
        ) from error
