"""The paper's tables against the draw from their seeds."""

import numpy as np
import pytest

from stages.data.paper_cases import TABLES, draw_classes, draw_ids

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TABLE4, TABLE5 = TABLES["witches-brew-table4"], TABLES["witches-brew-table5"]


@pytest.mark.parametrize("case", TABLE4.cases, ids=lambda case: str(case.seed))
def test_table4_classes_follow_from_the_seeds(case):
    target, intended = draw_classes(case.seed, 10)
    assert (CIFAR10[target], CIFAR10[intended]) == (case.target, case.intended)


@pytest.mark.parametrize("case", TABLE5.cases, ids=lambda case: str(case.seed))
def test_table5_classes_follow_from_the_seeds(case):
    categories = pytest.importorskip("torchvision.models").ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    target, intended = draw_classes(case.seed, 1000)
    assert (categories[target], categories[intended]) == (case.target, case.intended)


@pytest.mark.parametrize("case", TABLE5.cases, ids=lambda case: str(case.seed))
def test_table5_targets_follow_from_the_seeds_in_classes_of_1300(case):
    target_class, intended = draw_classes(case.seed, 1000)
    target, poisons = draw_ids(case.seed, 1000, np.full(1300, intended), np.repeat(np.arange(1000), 50), 1282)
    assert target // 50 == target_class
    assert case.target_id is None or target == case.target_id
    assert len(set(poisons.tolist())) == 1282


@pytest.mark.parametrize("case", TABLE4.cases, ids=lambda case: str(case.seed))
def test_table4_targets_have_the_drawn_place_in_their_class(case):
    # CIFAR-10's labels come in random order, so place k of 1000 in a class lies near id 10·k: 35 is over twice the
    # largest standard deviation, and a wrong draw would be hundreds away.
    target_class, intended = draw_classes(case.seed, 10)
    place, _ = draw_ids(case.seed, 10, np.full(5000, intended), np.full(1000, target_class), 500)
    assert abs(place - case.target_id / 10) < 35


def test_the_target_does_not_depend_on_the_budget_and_fewer_poisons_are_a_part_of_more():
    labels = np.random.default_rng(0).integers(0, 10, 3000)
    seed = TABLE4.cases[0].seed
    few, many = draw_ids(seed, 10, labels, labels, 10), draw_ids(seed, 10, labels, labels, 200)
    assert few[0] == many[0]
    assert few[1].tolist() == many[1][:10].tolist()
