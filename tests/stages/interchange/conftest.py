"""Small datasets with poisons in them, of any shape and with any class names."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from stages.data.cases import Case
from stages.data.images import Dataset, DatasetInfo, ImageSet
from stages.interchange import Content
from stages.shards.poisons import PoisonSet

Make = Callable[..., Content]


def make_content(
    classes: Sequence[str] = ("cat", "dog", "newt"),
    shape: tuple[int, int, int] = (6, 5, 3),
    per_class: int = 7,
    poisons: int = 4,
    seed: int = 0,
    **options: object,
) -> Content:
    """Random images in a random order of labels; poisons are of the last class, the target is of the first."""
    rng = np.random.default_rng(seed)

    def images(count: int) -> ImageSet:
        labels = rng.permutation(np.repeat(np.arange(len(classes), dtype=np.int64), count))
        return ImageSet(rng.integers(0, 256, (len(labels), *shape), np.uint8), labels, np.arange(len(labels)))

    train, test = images(per_class), images(2)
    base = train.of(np.flatnonzero(train.labels == len(classes) - 1)[: min(poisons, per_class)])
    changed = np.clip(base.images.astype(int) + rng.integers(-8, 9, base.images.shape), 0, 255).astype(np.uint8)
    case = Case(
        name="first → last",
        target_class=0,
        intended_class=len(classes) - 1,
        poison_class=len(classes) - 1,
        target_ids=(int(np.flatnonzero(test.labels == 0)[0]),),
        poison_ids=tuple(base.ids.tolist()),
        seed=0,
    )
    info = DatasetInfo("random", tuple(classes), shape, (0.5,) * shape[2], (0.25,) * shape[2])
    poison_set = PoisonSet(base.ids, changed, base.labels, {"eps": 8, "max_difference": 8})
    return Content(Dataset(info, train, test), poison_set, case, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def make() -> Make:
    """Makes content: see `make_content`."""
    return make_content
