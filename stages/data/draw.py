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
    ExplicitCase,
    ExplicitCases,
    OutlierCases,
    PaperCases,
    RandomCases,
    ResolvedCases,
    check,
    heading,
    threat_model,
)
from stages.data.threats import Classes, classes_under, draw_poisons, room
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
        target_ids, target, runner_up = _outlier(config, index, logits, test_labels)
        classes = _under_threat(config, index, target, runner_up, dataset.classes)
    else:
        classes = _classes(config, index, dataset.classes)
    count = _checked_count(config, index, budget, classes, dataset)
    seed = _seed(config, index)
    stated = config.cases[index] if isinstance(config, ExplicitCases) else None
    poison_ids = stated.poison_ids if stated else None
    drawn = poison_ids is None

    def rng(role: str) -> np.random.Generator:
        return np.random.default_rng(derive_seed(seed, role))

    if isinstance(config, PaperCases):
        target_ids, poison_ids = _paper_ids(config, index, train_labels, test_labels, count)
    elif isinstance(config, RandomCases):
        rows = np.flatnonzero(test_labels == classes.target)
        target_ids = tuple(rng("targets").choice(rows, config.targets, replace=False).tolist())
    elif stated:
        target_ids = stated.target_ids
        classes = _as_stated(stated, index, classes, dataset)
    if poison_ids is None:
        threat = threat_model(config, index)
        poison_ids = draw_poisons(threat, classes.poison, train_labels, count, rng("poisons"))
    wanted = None if classes.intended is None else dataset.classes[classes.intended]
    title = f"{heading(dataset.classes[classes.target], wanted)} {', '.join(map(str, target_ids))}"
    case = Case(
        name=stated.name if stated and stated.name else title,
        target_class=classes.target,
        intended_class=classes.intended,
        poison_class=classes.poison,
        target_ids=target_ids,
        poison_ids=tuple(sorted(poison_ids)),
        seed=seed if drawn else None,
    )
    check(case, train_labels, test_labels)
    return case


def precheck(config: ResolvedCases, dataset: "Description", budget: float) -> None:
    """Raises InputError for all that can be known to be wrong before any compute: `budget` and every case of `config`.

    Where the description has no labels yet, class names and counts are checked alone; of outlier cases, only that the
    smallest class has room for the poisons, because any class may turn out to be theirs.
    """
    if isinstance(config, OutlierCases):
        smallest = int(np.argmin(dataset.train_counts))
        others = (number for number in range(len(dataset.classes)) if number != smallest)
        classes = _under_threat(config, 0, next(others), smallest, dataset.classes)
        poison = None if classes.poison is None else smallest
        _checked_count(config, 0, budget, classes._replace(poison=poison), dataset)
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


def _under_threat(
    config: ResolvedCases, index: int, target: int, intended: int | None, names: tuple[str, ...]
) -> Classes:
    rng = np.random.default_rng(derive_seed(_seed(config, index), "third party"))
    return classes_under(threat_model(config, index), target, intended, names, rng)


def _classes(config: RandomCases | ExplicitCases | PaperCases, index: int, classes: tuple[str, ...]) -> Classes:
    """The classes of a case that depend on no labels."""
    intended: int | None
    if isinstance(config, PaperCases):
        table = paper_cases.TABLES[config.table]
        if len(classes) != table.classes:
            raise InputError(
                f"cases.table {config.table} needs {table.dataset}; the dataset has {len(classes)} classes"
            )
        target, intended = paper_cases.draw_classes(table.cases[index].seed, table.classes)
    elif isinstance(config, ExplicitCases):
        stated, where = config.cases[index], f"cases.cases.{index}"
        target, named = _class_index(stated.target_class, classes, f"{where}.target_class"), stated.intended_class
        intended = None if named is None else _class_index(named, classes, f"{where}.intended_class")
    else:
        rng = np.random.default_rng(derive_seed(_seed(config, index), "classes"))
        target, intended = rng.choice(len(classes), 2, replace=False).tolist()
    return _under_threat(config, index, target, intended, classes)


def _as_stated(stated: ExplicitCase, index: int, classes: Classes, dataset: "Description") -> Classes:
    """The classes of an explicit case, whose poison ids, where it states them, say which the third party is."""
    if stated.poison_ids is None or stated.threat_model != "third-party":
        return classes
    labels, first = dataset.train_labels, stated.poison_ids[0]
    if labels is None or first >= len(labels):
        return classes  # `check` refuses such an id
    poison = int(labels[first])
    if poison in (classes.target, classes.intended):
        raise InputError(
            f"cases.cases.{index}: threat_model is third-party, but train image {first} is of class "
            f"{dataset.classes[poison]!r}, the target's or the intended one; state ids of another class"
        )
    return classes._replace(poison=poison)


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


def _checked_count(config: ResolvedCases, index: int, budget: float, classes: Classes, dataset: "Description") -> int:
    """P, once the target's class and those of the poisons are known to have images enough."""
    images = int(sum(dataset.train_counts))
    if isinstance(config, RandomCases) and config.targets > dataset.test_counts[classes.target]:
        raise InputError(
            f"cases.targets is {config.targets}, but class {dataset.classes[classes.target]!r} has "
            f"{dataset.test_counts[classes.target]} test images; ask for fewer"
        )
    stated = config.cases[index].poison_ids if isinstance(config, ExplicitCases) else None
    if stated is not None:
        if abs(Fraction(str(budget)) * images - len(stated)) > 1:
            raise InputError(
                f"budget {budget} of {images} train images is {poison_count(budget, images)} poisons, but case {index} "
                f"states {len(stated)}; set the budget to {len(stated) / images:.6g}"
            )
        return len(stated)
    count = poison_count(budget, images)
    most, found = room(threat_model(config, index), classes.poison, dataset.classes, dataset.train_counts)
    if count > most:
        raise InputError(
            f"budget {budget} asks for {count} poisons {found}; use at most {math.floor(most / images * 1e6) / 1e6:g}"
        )
    return count
