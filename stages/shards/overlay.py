"""A poisoned dataset as base + P replaced or added samples: written and checked in O(P), whatever the dataset's size.

What ties an overlay to its base is a sha256 over the base's ids and labels, and the pixels of the P images that are
replaced, or from which the added ones were made: any other base would differ there, and no more than P images are read
to know it.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stages.config import InputError
from stages.data.images import Dataset, ImageSet
from stages.shards import arrow, poisons
from stages.shards.poisons import PoisonSet

STEM = "overlay"


def write(
    poison_set: PoisonSet, base: ImageSet, eps: float | None, folder: Path, append: bool = False
) -> dict[str, Any]:
    """Write `overlay.arrow` and `overlay.json`; gives the facts in it: base, eps, max_difference (both in 1/255).

    append: whether the poisons come behind the base, N + P, and leave the images whose ids they have as they are.

    Raises InputError where the poisons do not fit `base` or break `eps` (see `poisons.check`).
    """
    largest = poisons.check(poison_set, base, eps)
    facts: dict[str, Any] = {"base": base_sha256(base, poison_set.ids), "eps": eps, "max_difference": largest}
    if append:
        facts["append"] = True
    poisons.save(replace(poison_set, info={**poison_set.info, **facts}), folder, STEM)
    return facts


def apply(dataset: Dataset, folder: Path) -> Dataset:
    """The dataset with the overlay's images in place of its own, or behind them.

    Raises InputError where the overlay is damaged, made for another base, or breaks its eps.
    """
    overlay = poisons.load(folder, STEM)
    file = folder / f"{STEM}.json"
    try:
        expected, eps = overlay.info["base"], overlay.info["eps"]
    except KeyError as error:
        raise InputError(f"{file}: has no {error}, so it is no overlay; export the poisons again") from error
    outside = np.setdiff1d(overlay.ids, dataset.train.ids)
    if outside.size or base_sha256(dataset.train, overlay.ids) != expected:
        raise InputError(
            f"{file}: was made for another base than {dataset.info.name!r} with {len(dataset.train)} train images; "
            "export the poisons for this dataset"
        )
    poisons.check(overlay, dataset.train, eps)
    if overlay.info.get("append"):
        return replace(dataset, train=dataset.train.appended(overlay.images, overlay.labels))
    return replace(dataset, train=dataset.train.overlaid(overlay.ids, overlay.images))


def base_sha256(base: ImageSet, ids: np.ndarray) -> str:
    """sha256 over all ids and labels of `base`, and over its images with the ids given, with their shape."""
    digest = hashlib.sha256(base.ids.astype("<i8").tobytes() + base.labels.astype("<i8").tobytes())
    digest.update(str(base.images.shape).encode())
    digest.update(arrow.content_sha256(base.of(ids)).encode())
    return digest.hexdigest()
