"""The cases that Witches' Brew reports (Geiping et al. 2021, arXiv 2009.02276, appendix: tables 4 and 5), drawn again.

A case is its seed. The paper's public code (poisoning-gradient-matching, forest/data/kettle.py) seeds numpy's legacy
generator with the case's seed + 4 and takes from it, in this order: the target class, uniform over the classes; the
intended class, uniform over the others, which is the poisons' class too; P poisons among that class's train ids in
ascending order; the targets among the target class's test ids in ascending order. The poisons' draw permutes the whole
class whatever P is, so the target does not depend on the budget, only on how many images the poison class has.

What is from where. Table 4: seeds from the public code's scripts; all ten classes and target ids agree with the draw on
the canonical CIFAR-10 labels. Table 5: seeds from the same scripts; the class indices follow from the seeds, and the
names are torchvision's for them; eight target ids agree with the draw for a poison class of 1300 train images and
validation images ordered by class and file name. The ids of the other two could not be confirmed and are left out:
there the draw alone gives the target.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PaperCase:
    """One line of a table: the seed, the class names as printed in a report, and the target's id where it is known."""

    seed: int
    target: str
    intended: str
    target_id: int | None


@dataclass(frozen=True)
class Table:
    """A table of the paper and the dataset whose canonical order its ids need."""

    dataset: str
    classes: int
    cases: tuple[PaperCase, ...]


TABLES = {
    "witches-brew-table4": Table(
        dataset="CIFAR-10",
        classes=10,
        cases=(
            PaperCase(2000000000, "dog", "frog", 8745),
            PaperCase(2100000000, "frog", "truck", 1565),
            PaperCase(2110000000, "frog", "bird", 2138),
            PaperCase(2111000000, "airplane", "dog", 5036),
            PaperCase(2111100000, "airplane", "ship", 1183),
            PaperCase(2111110000, "cat", "airplane", 7352),
            PaperCase(2111111000, "automobile", "frog", 3544),
            PaperCase(2111111100, "truck", "cat", 3676),
            PaperCase(2111111110, "automobile", "ship", 9882),
            PaperCase(2111111111, "automobile", "cat", 3028),
        ),
    ),
    "witches-brew-table5": Table(
        dataset="ImageNet (ILSVRC 2012)",
        classes=1000,
        cases=(
            PaperCase(1000000000, "otter", "Labrador retriever", 18047),
            PaperCase(1100000000, "warthog", "bib", 17181),
            PaperCase(1110000000, "orange", "radiator", None),
            PaperCase(1111000000, "theater curtain", "maillot", 42720),
            PaperCase(1111100000, "hartebeest", "capuchin", 17580),
            PaperCase(1111110000, "burrito", "plunger", None),
            PaperCase(1111111000, "jackfruit", "spider web", 47776),
            PaperCase(1111111100, "king snake", "hyena", 2810),
            PaperCase(1111111110, "flat-coated retriever", "alp", 10281),
            PaperCase(1111111111, "window screen", "hard disc", 45236),
        ),
    ),
}


def draw_classes(seed: int, classes: int) -> tuple[int, int]:
    """The target class and the intended class of a seed."""
    target, intended, _ = _stream(seed, classes)
    return target, intended


def draw_ids(
    seed: int, classes: int, train_labels: np.ndarray, test_labels: np.ndarray, poisons: int
) -> tuple[int, np.ndarray]:
    """The target's test id and the poisons' train ids [poisons], unsorted.

    poisons is at most the poison class's size: the public code goes on with fewer there, brewline refuses before.
    """
    target, intended, stream = _stream(seed, classes)
    poison_ids = stream.choice(np.flatnonzero(train_labels == intended), size=poisons, replace=False)
    target_ids = stream.choice(np.flatnonzero(test_labels == target), size=1, replace=False)
    return int(target_ids[0]), poison_ids


def _stream(seed: int, classes: int) -> tuple[int, int, np.random.RandomState]:
    # The paper's draws are this legacy generator's; numpy promises never to change its stream.
    stream = np.random.RandomState(seed + 4)
    target = int(stream.randint(classes))
    intended = int(stream.choice([other for other in range(classes) if other != target]))
    return target, intended, stream
