"""Drawing on the labels of real digits, on a dataset of CIFAR-10's form, and on logits made by hand."""

from dataclasses import replace

import numpy as np
import pytest

from stages.config import InputError
from stages.data.cases import (
    BenchmarkCases,
    ExplicitCase,
    ExplicitCases,
    OutlierCases,
    PaperCases,
    RandomCases,
    resolve_cases,
)
from stages.data.datasets import Description
from stages.data.draw import draw, poison_count, precheck, rank_outliers

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def describe(classes, train, test, shape=(8, 8, 1)):
    counts = [tuple(np.bincount(labels, minlength=len(classes)).tolist()) for labels in (train, test)]
    return Description(classes, shape, train, test, *counts)


def digits():
    from sklearn.datasets import load_digits

    labels = load_digits().target.astype(np.int64)
    return describe(tuple("0123456789"), labels[450:], labels[:450])


def cifar10_like():
    rng = np.random.default_rng(7)
    train, test = (rng.permutation(np.repeat(np.arange(10), size)) for size in (5000, 1000))
    return describe(CIFAR10, train, test, (32, 32, 3))


DIGITS = digits()


@pytest.mark.parametrize("seed", [0, 1, 17, 2**31, 2**63])
@pytest.mark.parametrize("index", [0, 1, 999999])
@pytest.mark.parametrize(("budget", "targets"), [(0.001, 1), (0.0123456, 5), (0.09, 3)])
def test_a_random_case_is_a_pure_function_of_seed_and_index(seed, index, budget, targets):
    config = RandomCases(seed=seed, targets=targets)
    case = draw(config, index, budget, DIGITS)
    assert case == draw(config.model_copy(update={"count": 77}), index, budget, DIGITS)
    assert case.target_class != case.intended_class == case.poison_class
    assert len(case.poison_ids) == poison_count(budget, 1347) and list(case.poison_ids) == sorted(set(case.poison_ids))
    assert len(set(case.target_ids)) == targets
    assert (DIGITS.train_labels[list(case.poison_ids)] == case.poison_class).all()
    assert (DIGITS.test_labels[list(case.target_ids)] == case.target_class).all()
    assert draw(config, index, 0.0005, DIGITS).target_ids == case.target_ids


def test_random_cases_differ_and_reach_every_pair_of_classes():
    cases = [draw(RandomCases(), index, 0.01, DIGITS) for index in range(1000)]
    assert len({(case.target_class, case.intended_class) for case in cases}) == 90
    assert len({case.poison_ids for case in cases}) == 1000
    assert draw(RandomCases(seed=1), 0, 0.01, DIGITS) != cases[0]


def test_the_budget_is_rounded_up_as_written():
    assert [poison_count(budget, 50000) for budget in (0.01, 0.001, 0.00101)] == [500, 50, 51]
    assert poison_count(0.001, 1281167) == 1282
    assert poison_count(0.07, 100) == 7


@pytest.mark.parametrize("labels_known", [True, False])
def test_precheck_finds_what_cannot_work(labels_known):
    about = cifar10_like()
    if not labels_known:
        about = replace(about, train_labels=None, test_labels=None)
    target = int(np.flatnonzero(cifar10_like().test_labels == 5)[0])

    def explicit(**fields):
        fields = {"target_class": "dog", "intended_class": "frog", "target_ids": (target,), **fields}
        return ExplicitCases(cases=(ExplicitCase(**fields),))

    for fine in (RandomCases(), OutlierCases(count=5000, step=2), explicit(), explicit(intended_class=6)):
        precheck(fine, about, 0.1)
    for wrong, budget, message in (
        (explicit(), 0.2, "budget 0.2 asks for 10000 poisons of class 'frog', which has 5000 train images; .* 0.1"),
        (RandomCases(), 0.2, "asks for 10000 poisons"),
        (OutlierCases(), 0.2, "asks for 10000 poisons"),
        (PaperCases(table="witches-brew-table4"), 0.2, "asks for 10000 poisons of class 'frog'"),
        (explicit(intended_class="frogg"), 0.01, "intended_class: no class is called 'frogg'; did you mean 'frog'"),
        (explicit(target_class=10), 0.01, "target_class is 10, expected 0 to 9"),
        (RandomCases(targets=1001), 0.01, "cases.targets is 1001, but class .* has 1000 test images"),
        (OutlierCases(count=5001, step=2), 0.01, "outlier number 10000"),
        (PaperCases(table="witches-brew-table5"), 0.01, "needs ImageNet .*; the dataset has 10 classes"),
        (explicit(poison_ids=tuple(range(25))), 0.01, "is 500 poisons, but case 0 states 25; set the budget to 0.0005"),
    ):
        with pytest.raises(InputError, match=message):
            precheck(wrong, about, budget)
    if labels_known:
        with pytest.raises(InputError, match=f"test image {target} is of class 5, expected class 4"):
            precheck(explicit(target_class="deer"), about, 0.01)
        with pytest.raises(InputError, match="its ids need all of the canonical CIFAR-10"):
            precheck(PaperCases(table="witches-brew-table4"), about, 0.01)


def test_explicit_cases_draw_only_what_they_do_not_state():
    target = int(np.flatnonzero(DIGITS.test_labels == 3)[0])
    stated = tuple(np.flatnonzero(DIGITS.train_labels == 8)[[4, 1]].tolist())
    entry = ExplicitCase(target_class="3", intended_class=8, target_ids=(target,))
    config = ExplicitCases(cases=(entry, entry.model_copy(update={"poison_ids": stated, "name": "mine"})))
    drawn, given_ = (draw(config, index, 0.0015, DIGITS) for index in (0, 1))
    assert drawn.name == f"3 → 8 {target}" and given_.name == "mine"
    assert drawn.target_ids == given_.target_ids == (target,)
    assert len(drawn.poison_ids) == 3 and drawn.seed == 0
    assert given_.poison_ids == tuple(sorted(stated)) and given_.seed is None


def test_benchmark_setups_are_drawn_as_they_are(test_data):
    config = resolve_cases(BenchmarkCases(file=test_data / "benchmark-cifar10-from-scratch.pickle", count=1))
    (entry,) = config.cases
    about = cifar10_like()
    train, test = about.train_labels.copy(), about.test_labels.copy()
    train[list(entry.poison_ids)], test[list(entry.target_ids)] = 3, 7
    case = draw(config, 0, 0.01, describe(CIFAR10, train, test))
    assert case.poison_ids == tuple(sorted(entry.poison_ids)) and case.target_ids == (7762,)
    with pytest.raises(InputError, match="of class"):
        draw(config, 0, 0.01, about)


def test_a_paper_case_has_the_paper_s_target_where_the_order_is_canonical():
    """Labels in which the table's target has its drawn place, as in canonical CIFAR-10, and in which it has not."""
    about = cifar10_like()
    config = PaperCases(table="witches-brew-table4", count=1)
    with pytest.raises(InputError, match="the paper has 8745"):
        draw(config, 0, 0.01, about)
    place = 876
    test = np.full(10000, 0)
    dogs = np.r_[np.arange(place), 8745, np.arange(9000, 9123)]
    test[dogs] = 5
    case = draw(config, 0, 0.01, describe(CIFAR10, about.train_labels, test))
    assert case.name == "dog → frog 8745" and case.seed == 2000000000 and len(case.poison_ids) == 500


def test_outliers_are_ranked_by_mean_margin_among_those_all_call_right():
    labels = np.array([0, 0, 1, 2, 2])
    logits = np.zeros((2, 5, 3))
    logits[:, 0] = [5, 1, 2]  # margin 3, runner-up 2
    logits[:, 1] = [[3, 2, 0], [3, 2.5, 0]]  # margin 0.75, runner-up 1
    logits[:, 2] = [[0, 9, 8], [0, 7, 8]]  # the second network is wrong
    logits[:, 3] = [[4, 0, 6], [1, 2, 6]]  # margin 3: its own second differs by network; runner-up 0
    logits[:, 4] = [0, 1, 2]  # margin 1, runner-up 1
    ids, runners_up = rank_outliers(logits, labels)
    assert ids.tolist() == [1, 4, 0, 3]
    assert runners_up.tolist() == [1, 1, 2, 0]
    about = describe(("a", "b", "c"), np.repeat(np.arange(3), 50), labels)
    even, odd = OutlierCases(step=2), OutlierCases(first=1, step=2)
    drawn = [draw(config, index, 0.02, about, logits) for index in (0, 1) for config in (even, odd)]
    assert [case.target_ids for case in drawn] == [(1,), (4,), (0,), (3,)]
    assert [case.intended_class for case in drawn] == [1, 1, 2, 0]
    with pytest.raises(InputError, match=r"case 2 is outlier number 4.* only 4 of the 5"):
        draw(even, 2, 0.02, about, logits)
