"""Drawing cases: case `index` is a pure function of its configuration, the budget and the dataset, so that adding cases
changes no earlier one. `precheck` finds, before any compute, what `draw` would stumble over.
"""

import math
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from stages.config import InputError, nearest
from stages.data import paper_cases
from stages.data.cases import (
    Case,
    ClassName,
    ExplicitCases,
    OutlierCases,
    PaperCases,
    RandomCases,
    ResolvedCases,
    check,
)
from stages.stage import derive_seed

if TYPE_CHECKING:
    from stages.data.datasets import Description


def poison_count(budget: float, images: int) -> int:
    """P = ⌈budget·N⌉, as in the paper's code, of the decimal number as written: 0.07 of 100 is 7, not 8."""
    return math.ceil(Fraction(str(budget)) * images)


def draw(
    config: ResolvedCases, index: int, budget: float, dataset: "Description", logits: np.ndarray | None = None
) -> Case:
    """Case `index`, checked.

    budget: P/N, in (0, 1); a case that states its poison ids must agree with it to within one image.
    dataset: with its labels.  logits: float [K, test images, classes] of the surrogates, which outlier cases need.
    Raises InputError where the dataset has not what the case asks for.
    """
    train_labels, test_labels = dataset.train_labels, dataset.test_labels
    if train_labels is None or test_labels is None:
        raise ValueError("a case is drawn from a dataset's labels, and this description has none")
    if isinstance(config, OutlierCases):
        target_ids, target_class, intended = _outlier(config, index, logits, test_labels)
    else:
        target_class, intended = _classes(config, index, dataset.classes)
    count = _checked_count(config, index, budget, (target_class, intended), dataset)
    seed = _seed(config, index)
    stated = config.cases[index] if isinstance(config, ExplicitCases) else None
    poison_ids = stated.poison_ids if stated else None
    drawn = poison_ids is None

    def chosen(role: str, labels: np.ndarray, of: int, size: int) -> tuple[int, ...]:
        rng = np.random.default_rng(derive_seed(seed, role))
        return tuple(rng.choice(np.flatnonzero(labels == of), size, replace=False).tolist())

    if isinstance(config, PaperCases):
        target_ids, poison_ids = _paper_ids(config, index, train_labels, test_labels, count)
    elif isinstance(config, RandomCases):
        target_ids = chosen("targets", test_labels, target_class, config.targets)
    elif stated:
        target_ids = stated.target_ids
    if poison_ids is None:
        poison_ids = chosen("poisons", train_labels, intended, count)
    title = f"{dataset.classes[target_class]} → {dataset.classes[intended]} {', '.join(map(str, target_ids))}"
    case = Case(
        name=stated.name if stated and stated.name else title,
        target_class=target_class,
        intended_class=intended,
        poison_class=intended,
        target_ids=target_ids,
        poison_ids=tuple(sorted(poison_ids)),
        seed=seed if drawn else None,
    )
    check(case, train_labels, test_labels)
    return case


def precheck(config: ResolvedCases, dataset: "Description", budget: float) -> None:
    """Raises InputError for all that can be known to be wrong before any compute: `budget` and every case of `config`.

    Where the description has no labels yet, class names and counts are checked alone; of outlier cases, only that the
    smallest class has room for the poisons, because any class may turn out to be the runner-up.
    """
    if isinstance(config, OutlierCases):
        pair = int(np.argmax(dataset.test_counts)), int(np.argmin(dataset.train_counts))
        _checked_count(config, 0, budget, pair, dataset)
        last = config.first + config.step * (config.count - 1)
        if last >= sum(dataset.test_counts):
            raise InputError(
                f"cases asks for outlier number {last}, counted from 0, of {sum(dataset.test_counts)} test images; "
                "lower count, first or step"
            )
        return
    for index in range(config.count):
        if dataset.train_labels is not None and dataset.test_labels is not None:
            draw(config, index, budget, dataset)
        else:
            _checked_count(config, index, budget, _classes(config, index, dataset.classes), dataset)


def rank_outliers(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Test ids by rising mean margin, and each one's runner-up class (Poison Frogs, section 4.2.1).

    logits: float [K, N, classes].  labels: int64 [N].  Only images that all K networks call right are ranked. The
    margin is the true class's logit less the largest other one, averaged over the networks; the runner-up is the other
    class with the largest mean logit.
    """
    rows = np.arange(len(labels))
    true = logits[:, rows, labels]
    others = np.array(logits, dtype=np.float64)
    others[:, rows, labels] = -np.inf
    margin = (true - others.max(2)).mean(0)
    right = np.flatnonzero((logits.argmax(2) == labels).all(0))
    ids = right[np.argsort(margin[right], kind="stable")]
    return ids, others.mean(0).argmax(1)[ids]


def _seed(config: ResolvedCases, index: int) -> int:
    if isinstance(config, PaperCases):
        return paper_cases.TABLES[config.table].cases[index].seed
    if isinstance(config, ExplicitCases):
        return config.cases[index].seed
    return derive_seed(config.seed, "case", index)


def _classes(config: RandomCases | ExplicitCases | PaperCases, index: int, classes: tuple[str, ...]) -> tuple[int, int]:
    """Target and intended class of a case, which depend on no labels."""
    if isinstance(config, PaperCases):
        table = paper_cases.TABLES[config.table]
        if len(classes) != table.classes:
            raise InputError(
                f"cases.table {config.table} needs {table.dataset}; the dataset has {len(classes)} classes"
            )
        return paper_cases.draw_classes(table.cases[index].seed, table.classes)
    if isinstance(config, ExplicitCases):
        stated, where = config.cases[index], f"cases.cases.{index}"
        return (
            _class_index(stated.target_class, classes, f"{where}.target_class"),
            _class_index(stated.intended_class, classes, f"{where}.intended_class"),
        )
    rng = np.random.default_rng(derive_seed(_seed(config, index), "classes"))
    target, intended = rng.choice(len(classes), 2, replace=False).tolist()
    return target, intended


def _class_index(stated: ClassName, classes: tuple[str, ...], field: str) -> int:
    if isinstance(stated, int):
        if not 0 <= stated < len(classes):
            raise InputError(f"{field} is {stated}, expected 0 to {len(classes) - 1}, or a class name")
        return stated
    if stated not in classes:
        raise InputError(f"{field}: no class is called {stated!r}; {nearest(stated, classes)}")
    return classes.index(stated)


def _outlier(
    config: OutlierCases, index: int, logits: np.ndarray | None, test_labels: np.ndarray
) -> tuple[tuple[int, ...], int, int]:
    """Target ids, their class and its runner-up."""
    if logits is None or len(logits) == 0:
        raise ValueError("outlier cases need the surrogates' logits on the test images")
    ids, runners_up = rank_outliers(logits, test_labels)
    rank = config.first + config.step * index
    if rank >= len(ids):
        raise InputError(
            f"cases: case {index} is outlier number {rank}, counted from 0, but the surrogates all call only "
            f"{len(ids)} of the {len(test_labels)} test images right; ask for fewer cases, or train better surrogates"
        )
    return (int(ids[rank]),), int(test_labels[ids[rank]]), int(runners_up[rank])


def _paper_ids(
    config: PaperCases, index: int, train_labels: np.ndarray, test_labels: np.ndarray, poisons: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    table = paper_cases.TABLES[config.table]
    case = table.cases[index]
    target, poison_ids = paper_cases.draw_ids(case.seed, table.classes, train_labels, test_labels, poisons)
    if case.target_id is not None and target != case.target_id:
        raise InputError(
            f"cases.table {config.table}, case {index}: the draw gives target {target}, the paper has "
            f"{case.target_id}; its ids need all of the canonical {table.dataset}, in its own order"
        )
    return (target,), tuple(poison_ids.tolist())


def _checked_count(
    config: ResolvedCases, index: int, budget: float, pair: tuple[int, int], dataset: "Description"
) -> int:
    """P, once the target and the intended class are known to have images enough."""
    target, intended = pair
    images = int(sum(dataset.train_counts))
    if isinstance(config, RandomCases) and config.targets > dataset.test_counts[target]:
        raise InputError(
            f"cases.targets is {config.targets}, but class {dataset.classes[target]!r} has "
            f"{dataset.test_counts[target]} test images; ask for fewer"
        )
    stated = config.cases[index].poison_ids if isinstance(config, ExplicitCases) else None
    if stated is not None:
        if abs(Fraction(str(budget)) * images - len(stated)) > 1:
            raise InputError(
                f"budget {budget} of {images} train images is {poison_count(budget, images)} poisons, but case {index} "
                f"states {len(stated)}; set the budget to {len(stated) / images:.6g}"
            )
        return len(stated)
    count, room = poison_count(budget, images), dataset.train_counts[intended]
    if count > room:
        most = math.floor(room / images * 1e6) / 1e6
        raise InputError(
            f"budget {budget} asks for {count} poisons of class {dataset.classes[intended]!r}, which has {room} train "
            f"images; use at most {most:g}"
        )
    return count
