"""A poison set as it travels between stages: the replaced images with their ids, quantised once and kept losslessly.

Everything that reads poisons checks them against the base images with `check`, so that no result is ever of poisons
that break their own bound.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.config import InputError
from stages.data.images import ImageSet
from stages.shards import arrow


@dataclass(frozen=True)
class PoisonSet:
    """Poisons that replace train images.

    ids: int64 [P], train ids.  images: uint8 [P, H, W, C].  labels: int64 [P], those of the images they replace.
    info: JSON-ready facts, such as `eps` and `brew_loss`; a number that is not finite is kept as null.
    """

    ids: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    info: dict[str, Any]

    def __len__(self) -> int:
        return len(self.ids)

    def image_set(self) -> ImageSet:
        """The poisons as labelled images."""
        return ImageSet(self.images, self.labels, self.ids)

    def sha256(self) -> str:
        """sha256 over ids, labels and pixels."""
        return arrow.content_sha256(self.image_set())


def save(poisons: PoisonSet, folder: Path, stem: str = "poisons") -> None:
    """Write `<stem>.arrow`, the images, and `<stem>.json`, the info and what the images must hash to."""
    arrow.write_images(folder / f"{stem}.arrow", poisons.image_set(), {})
    facts = {"poisons": len(poisons), "sha256": poisons.sha256(), "info": _finite(poisons.info)}
    text = json.dumps(facts, indent=1, sort_keys=True, allow_nan=False)
    (folder / f"{stem}.json").write_text(text + "\n")


def load(folder: Path, stem: str = "poisons") -> PoisonSet:
    """The poison set in a folder, every byte checked against its sha256.

    Raises InputError that names the file that is missing, damaged, or not of this form.
    """
    images, _ = arrow.read_images(folder / f"{stem}.arrow")
    file = folder / f"{stem}.json"
    try:
        facts = json.loads(file.read_text())
        expected, info = facts["sha256"], dict(facts["info"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: not the description of a poison set ({error!r}); make the poisons again") from error
    poisons = PoisonSet(images.ids, images.array, images.labels, info)
    if poisons.sha256() != expected:
        raise InputError(
            f"{folder / f'{stem}.arrow'}: its sha256 is {poisons.sha256()}, {file.name} says {expected}; "
            "the two are not of one poison set, or one is damaged: make the poisons again"
        )
    return poisons


def check(poisons: PoisonSet, base: ImageSet, eps: float | None) -> int:
    """Check poisons against the images they replace; gives the largest change of a pixel, in 1/255.

    eps: the largest change allowed, in 1/255; null allows any. Pixels are integers, so it is ⌊eps⌋ that binds.
    Raises InputError that names the first id that is repeated, not in `base`, of another label or shape, or changed by
    more than eps.
    """
    ids, repeats = np.unique(poisons.ids, return_counts=True)
    if (repeats > 1).any():
        raise InputError(f"poison {ids[repeats > 1][0]}: there {repeats.max()} times, expected once")
    strangers = poisons.ids[~np.isin(poisons.ids, base.ids)]
    if len(strangers):
        raise InputError(f"poison {strangers[0]}: no such train image; these poisons are for another dataset")
    replaced = base.of(poisons.ids)
    if poisons.images.dtype != np.uint8 or poisons.images.shape != replaced.images.shape:
        raise InputError(
            f"poison {poisons.ids[0]}: the poisons are {poisons.images.dtype} {poisons.images.shape}, expected "
            f"uint8 {replaced.images.shape} as the images they replace"
        )
    relabelled = np.flatnonzero(poisons.labels != replaced.labels)
    if len(relabelled):
        row = relabelled[0]
        raise InputError(
            f"poison {poisons.ids[row]}: its label is {poisons.labels[row]}, the image's is {replaced.labels[row]}; "
            "poisons keep their labels"
        )
    changes = np.array([_change(new, old) for new, old in zip(poisons.images, replaced.images, strict=True)])
    if eps is not None and (beyond := np.flatnonzero(changes > math.floor(eps))).size:
        row = beyond[0]
        raise InputError(
            f"poison {poisons.ids[row]}: differs from the image by {changes[row]}/255, more than eps = {eps:g}/255 "
            f"({beyond.size} of {len(poisons)} poisons do)"
        )
    return int(changes.max())


def _change(new: np.ndarray, old: np.ndarray) -> int:
    return int(np.abs(new.astype(np.int16) - old).max())


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
