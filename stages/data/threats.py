"""What a threat model makes of a case: which class the poisons are of, which is intended, and which images are drawn.

Everything else of a case (the classes, the targets, what is drawn by which seed) is the same under all of them, so that
threat models can be compared case by case.
"""

from typing import Literal, NamedTuple

import numpy as np

from stages.config import InputError

ThreatModel = Literal["single-class", "third-party", "random-subset", "multi-class", "self-concealment"]
"""Which images the attacker poisons, and to what end.

single-class: images of the intended class (Poison Frogs; Witches' Brew).  third-party: images of one class that is
neither the intended one nor the target's.  random-subset: images drawn from all train images, whatever their class
(both are threat models of the public code of Witches' Brew).  multi-class: as many images of each class (MetaPoison,
figure 7).  self-concealment: images of the target's own class, and no class is intended: the target is to be called
anything but what it is (MetaPoison, figure 7).
"""


class Classes(NamedTuple):
    """Of the target, of what it is to be called, and of the poisons; null is any other, and several."""

    target: int
    intended: int | None
    poison: int | None


def classes_under(
    threat: ThreatModel, target: int, intended: int | None, names: tuple[str, ...], rng: np.random.Generator
) -> Classes:
    """The classes of a case whose target is of class `target`; a third party's is drawn from all that are left.

    Raises InputError where none is left.
    """
    if threat == "self-concealment":
        return Classes(target, None, target)
    if threat == "single-class":
        return Classes(target, intended, intended)
    if threat != "third-party":
        return Classes(target, intended, None)
    others = [number for number in range(len(names)) if number not in (target, intended)]
    if not others:
        raise InputError(
            "cases: threat_model is third-party, which poisons a class that is neither the target's nor the intended "
            f"one, and the dataset has {len(names)} classes; choose another threat model"
        )
    return Classes(target, intended, int(rng.choice(others)))


def draw_poisons(
    threat: ThreatModel, of: int | None, labels: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[int, ...]:
    """Ids of `count` train images, unsorted: of class `of`, or where it is null of all images, by the threat model.

    labels: int64 [N], which have room for them.
    """
    if threat != "multi-class":
        pool = np.arange(len(labels)) if of is None else np.flatnonzero(labels == of)
        return tuple(rng.choice(pool, count, replace=False).tolist())
    found = np.unique(labels)
    shares = np.full(len(found), count // len(found))
    shares[rng.choice(len(found), count % len(found), replace=False)] += 1
    drawn = [
        rng.choice(np.flatnonzero(labels == number), share, replace=False)
        for number, share in zip(found, shares, strict=True)
    ]
    return tuple(np.concatenate(drawn).tolist())


def room(threat: ThreatModel, of: int | None, names: tuple[str, ...], counts: tuple[int, ...]) -> tuple[int, str]:
    """How many poisons there can be, and why, as an error message goes on. counts: the train images of each class."""
    if of is not None:
        return counts[of], f"of class {names[of]!r}, which has {counts[of]} train images"
    if threat == "multi-class":
        least = min(counts)
        return len(counts) * least, f"as many of each class, of which the smallest has {least} train images"
    return sum(counts), f"of {sum(counts)} train images"
