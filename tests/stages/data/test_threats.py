"""What each threat model draws, on the labels of real digits: classes, counts, and that nothing else moves."""

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.datasets import load_digits

from stages.config import InputError, identity
from stages.data.cases import Case, ExplicitCase, ExplicitCases, OutlierCases, RandomCases, heading, load_case
from stages.data.datasets import Description
from stages.data.draw import draw, poison_count, precheck

LABELS = load_digits().target.astype(np.int64)


def described(train: np.ndarray, test: np.ndarray) -> Description:
    counts = [tuple(np.bincount(labels, minlength=train.max() + 1).tolist()) for labels in (train, test)]
    names = tuple(f"class {number}" for number in range(train.max() + 1))
    return Description(names, (8, 8, 1), train, test, *counts)


DIGITS = described(LABELS[450:], LABELS[:450])
TRAIN, TEST = LABELS[450:], LABELS[:450]


def cases(threat: str, count: int = 40, **fields: object) -> list[Case]:
    config = RandomCases(threat_model=threat, **fields)
    return [draw(config, index, 0.03, DIGITS) for index in range(count)]


@pytest.mark.parametrize("threat", ["third-party", "random-subset", "multi-class", "self-concealment"])
def test_targets_and_classes_are_those_of_the_single_class(threat: str) -> None:
    for plain, case in zip(cases("single-class", targets=2), cases(threat, targets=2), strict=True):
        assert (case.target_ids, case.target_class, case.seed) == (plain.target_ids, plain.target_class, plain.seed)
        assert case.intended_class == (None if threat == "self-concealment" else plain.intended_class)
        assert len(set(case.poison_ids)) == len(plain.poison_ids) == poison_count(0.03, len(TRAIN))
        assert list(case.poison_ids) == sorted(case.poison_ids)


def test_a_third_party_s_class_is_any_but_the_two() -> None:
    found = cases("third-party", 300)
    for case in found:
        assert case.poison_class not in (case.target_class, case.intended_class)
        assert (TRAIN[list(case.poison_ids)] == case.poison_class).all()
    assert {case.poison_class for case in found} == set(range(10))


def test_a_random_subset_is_of_the_whole_train_set() -> None:
    found = cases("random-subset")
    labels = np.concatenate([TRAIN[list(case.poison_ids)] for case in found])
    assert all(case.poison_class is None for case in found)
    assert np.bincount(labels) == pytest.approx(len(labels) * np.bincount(TRAIN) / len(TRAIN), rel=0.25)
    counts = np.stack([np.bincount(TRAIN[list(case.poison_ids)], minlength=10) for case in found])
    assert (counts.max(1) - counts.min(1)).min() > 1, "not as many of each"


def test_multi_class_poisons_are_as_many_of_each_class() -> None:
    found = cases("multi-class")  # 41 poisons of 10 classes
    counts = np.stack([np.bincount(TRAIN[list(case.poison_ids)], minlength=10) for case in found])
    assert (np.sort(counts, axis=1) == [4] * 9 + [5]).all() and (counts.max(0) == 5).sum() > 5
    assert len({case.poison_ids for case in found}) == len(found)
    precheck(RandomCases(threat_model="multi-class"), DIGITS, 0.9)
    with pytest.raises(
        InputError, match=r"asks for \d+ poisons as many of each class, .* has 130 train .* at most 0.96"
    ):
        precheck(RandomCases(threat_model="multi-class"), DIGITS, 0.97)


def test_self_concealment_poisons_the_target_s_class_and_intends_none(tmp_path) -> None:
    case = cases("self-concealment", 1)[0]
    assert case.poison_class == case.adversarial_class == case.target_class and case.intended_class is None
    assert (TRAIN[list(case.poison_ids)] == case.target_class).all()
    assert not case.success(case.target_class) and case.success((case.target_class + 1) % 10)
    assert case.name.startswith(f"class {case.target_class} → not class {case.target_class} ")
    (tmp_path / "case.json").write_text(case.model_dump_json())
    assert load_case(tmp_path) == case


def test_with_an_intended_class_no_other_mistake_counts() -> None:
    case = cases("third-party", 1)[0]
    assert [n for n in range(10) if case.success(n)] == [case.intended_class] == [case.adversarial_class]
    assert heading("dog", "frog") == "dog → frog"


def test_outliers_come_under_all_threat_models() -> None:
    logits = np.eye(10)[TEST][None] * 5 + np.random.default_rng(0).random((1, len(TEST), 10))
    plain = draw(OutlierCases(), 3, 0.03, DIGITS, logits)
    for threat, poison in (("third-party", None), ("self-concealment", plain.target_class), ("single-class", None)):
        case = draw(OutlierCases(threat_model=threat), 3, 0.03, DIGITS, logits)
        assert (case.target_ids, case.target_class) == (plain.target_ids, plain.target_class)
        assert poison is None or case.poison_class == poison
        precheck(OutlierCases(threat_model=threat), DIGITS, 0.03)
        with pytest.raises(InputError, match="which has 130 train images"):
            precheck(OutlierCases(threat_model=threat), DIGITS, 0.1)
    precheck(OutlierCases(threat_model="random-subset"), DIGITS, 0.9)


def test_explicit_cases_say_what_they_are_after() -> None:
    entry = {"target_class": 3, "target_ids": (int(np.flatnonzero(TEST == 3)[0]),)}
    with pytest.raises(ValidationError, match="intended_class is missing: with threat_model single-class"):
        ExplicitCase.model_validate(entry)
    with pytest.raises(ValidationError, match="leave intended_class out"):
        ExplicitCase.model_validate(entry | {"intended_class": 5, "threat_model": "self-concealment"})
    concealed = ExplicitCase.model_validate(entry | {"threat_model": "self-concealment"})
    assert draw(ExplicitCases(cases=(concealed,)), 0, 0.03, DIGITS).poison_class == 3
    third = entry | {"intended_class": 5, "threat_model": "third-party"}
    for of, message in ((7, None), (5, "is of class 'class 5', the target's or the intended one")):
        stated = third | {"poison_ids": tuple(np.flatnonzero(of == TRAIN)[:3].tolist())}
        config = ExplicitCases(cases=(ExplicitCase.model_validate(stated),))
        if message is None:
            assert draw(config, 0, 0.002, DIGITS).poison_class == 7
        else:
            with pytest.raises(InputError, match=message):
                precheck(config, DIGITS, 0.002)


def test_two_classes_have_no_third() -> None:
    binary = described(TRAIN[TRAIN < 2], TEST[TEST < 2])
    with pytest.raises(InputError, match=r"threat_model is third-party, .* and the dataset has 2 classes"):
        precheck(RandomCases(threat_model="third-party"), binary, 0.03)


def test_keys_of_before_there_were_threat_models_stay() -> None:
    for kind in (RandomCases, OutlierCases):
        assert "threat_model" not in identity(kind())
        assert identity(kind(threat_model="third-party"))["threat_model"] == "third-party"
