"""Poisons that somebody else made: which they are, known before anything runs, and whether they fit a case."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages.brew.attacks import External
from stages.config import InputError
from stages.data.cases import Case
from stages.data.images import Dataset
from stages.interchange import FORMATS
from stages.interchange.content import Outside, Way

if TYPE_CHECKING:
    from stages.shards.poisons import PoisonSet


def resolve(attack: External) -> External:
    """The attack with the sha256 of each folder filled in or checked, and its path made absolute.

    Hashes the files, decodes nothing. Raises InputError that names the folder or file that is missing, cannot be read,
    or is not what a stated sha256 says.
    """
    resolved = []
    for number, folder in enumerate(attack.folders):
        if folder.path is None:
            raise InputError(f"attack.folders.{number}.path is missing: it names the folder with the poisons of a case")
        path = folder.path.expanduser().absolute()
        found = fingerprint(attack.format, path)
        _check_sha256(path, found, folder.sha256)
        resolved.append(folder.model_copy(update={"path": path, "sha256": found}))
    return attack.model_copy(update={"folders": tuple(resolved)})


def fingerprint(name: str, folder: Path) -> str:
    """sha256 over the names and contents of the files that hold the poisons in a folder, wherever they lie in it.

    Raises InputError for a folder or a file that is missing, cannot be read, or is not of the format.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; attack.folders names one a case")
    digests = []
    for path in _way(name).files(folder):
        try:
            with path.open("rb") as file:
                digests.append(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n")
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def read(name: str, folder: Path, sha256: str, dataset: Dataset, case: Case) -> "PoisonSet":
    """The poisons of a folder, in the order of their ids, where they fit the case; eps is for `poisons.check`.

    Raises InputError where the folder is not the one that was planned with, the poisons are none of this dataset or of
    another class than the case's, they are more than its budget, or their target is another one.
    """
    from stages.shards.poisons import PoisonSet

    _check_sha256(folder, fingerprint(name, folder), sha256)
    found = _way(name).read(folder, dataset.info.shape)
    _check_ids(found, folder, dataset, case)
    _check_target(found, folder, dataset, case)
    order = np.argsort(found.ids)
    ids = found.ids[order]
    labels = dataset.train.of(ids).labels if found.labels is None else found.labels[order]
    return PoisonSet(ids, found.images[order], labels, {"format": name})


def _check_sha256(folder: Path, found: str, expected: str | None) -> None:
    if expected is not None and found != expected:
        raise InputError(
            f"{folder}: the sha256 of its poisons is {found}, expected {expected}; put back what was there, or leave "
            "the sha256 out and plan again"
        )


def _check_ids(found: Outside, folder: Path, dataset: Dataset, case: Case) -> None:
    if not len(found.ids):
        raise InputError(f"{folder}: holds no poisons")
    outside = found.ids[(found.ids < 0) | (found.ids >= len(dataset.train))]
    if len(outside):
        raise InputError(
            f"{folder}: poison {outside[0]}: no such train image, ids go to {len(dataset.train) - 1}; "
            "these poisons are for another dataset"
        )
    if len(found.ids) > len(case.poison_ids):
        raise InputError(
            f"{folder}: holds {len(found.ids)} poisons, and the budget of case {case.name!r} is "
            f"{len(case.poison_ids)} of {len(dataset.train)}; set attack.budget to at least "
            f"{len(found.ids) / len(dataset.train):.6g}"
        )
    classes = dataset.info.classes
    labels = dataset.train.labels[found.ids]
    if case.poison_class is not None and len(strays := np.flatnonzero(labels != case.poison_class)):
        raise InputError(
            f"{folder}: poison {found.ids[strays[0]]} replaces an image of class {classes[labels[strays[0]]]!r}, and "
            f"case {case.name!r} is poisoned in class {classes[case.poison_class]!r}; give the folders in the order of "
            "the cases"
        )


def _check_target(found: Outside, folder: Path, dataset: Dataset, case: Case) -> None:
    """The target that comes along is the case's, give or take 1/255 that a way through floats costs."""
    if found.target is None:
        return
    image, label = found.target
    targets = dataset.test.images[np.array(case.target_ids)].astype(np.int16)
    if label not in (None, case.target_class) or (np.abs(targets - image) > 1).any():
        raise InputError(
            f"{folder}: its target, of label {label}, is not the one of case {case.name!r}, test image "
            f"{case.target_ids[0]} of label {case.target_class}; give the folders in the order of the cases"
        )


def _way(name: str) -> Way:
    way = FORMATS[name].back
    if way is None:
        raise InputError(f"poisons are not read from the format {name}")
    return way
