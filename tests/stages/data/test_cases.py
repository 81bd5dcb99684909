"""Case configurations, what is read from files, and the check of a case against labels."""

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from stages.config import InputError, identity
from stages.data.cases import (
    BenchmarkCases,
    Case,
    CasesConfig,
    ExplicitCase,
    ExplicitCases,
    OutlierCases,
    PaperCases,
    RandomCases,
    check,
    load_case,
    only,
    resolve_cases,
    save_case,
)

LABELS = np.repeat(np.arange(3), 10)
GOOD = Case(
    name="a",
    target_class=0,
    intended_class=1,
    poison_class=1,
    target_ids=(3,),
    poison_ids=(10, 12, 19),
    seed=1,
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_ids": (3, 10)}, "target_ids: test image 10 is of class 1, expected class 0"),
        ({"target_ids": (30,)}, "target_ids: 30 is no test image's id, expected 0 to 29"),
        ({"poison_ids": (10, 10)}, "poison_ids: 10 is there more than once"),
        ({"poison_ids": (9, 10)}, "poison_ids: train image 9 is of class 0, expected class 1"),
        ({"poison_class": 3}, "poison_class is 3, expected 0 to 2"),
        ({"intended_class": 0}, "intended_class is the target's own class"),
    ],
)
def test_check_names_the_field(change, message):
    check(GOOD, LABELS, LABELS)
    with pytest.raises(InputError, match=message):
        check(GOOD.model_copy(update=change), LABELS, LABELS)


def test_a_case_survives_its_file_and_a_damaged_file_is_named(tmp_path):
    save_case(GOOD, tmp_path)
    assert load_case(tmp_path) == GOOD
    file = tmp_path / "case.json"
    file.write_text(file.read_text()[:-20])
    with pytest.raises(InputError, match=r"case\.json"):
        load_case(tmp_path)


def test_count_is_no_part_of_the_identity():
    for few, many in (
        (RandomCases(count=2), RandomCases(count=9)),
        (OutlierCases(count=2), OutlierCases(count=9)),
        (PaperCases(table="witches-brew-table4", count=2), PaperCases(table="witches-brew-table4")),
    ):
        assert identity(few) == identity(many)


def test_adding_an_explicit_case_changes_no_other():
    one, two = (ExplicitCase(target_class=0, intended_class=1, target_ids=(target,)) for target in (3, 4))
    assert only(ExplicitCases(cases=(one,)), 0) == only(ExplicitCases(cases=(two, one)), 1)


def test_the_benchmark_becomes_explicit_cases(test_data):
    file = test_data / "benchmark-cifar10-from-scratch.pickle"
    resolved = resolve_cases(BenchmarkCases(file=file, first=90, count=10))
    assert isinstance(resolved, ExplicitCases)
    assert [case.name for case in resolved.cases] == [f"benchmark setup {number}" for number in range(90, 100)]
    assert all(len(case.poison_ids or ()) == 500 for case in resolved.cases)
    transfer = resolve_cases(BenchmarkCases(file=test_data / "benchmark-cifar10-transfer.pickle"))
    counts = [len(set(case.poison_ids)) for case in transfer.cases]
    assert [number for number, count in enumerate(counts) if count != 25] == [78, 84] and min(counts) == 24
    with pytest.raises(InputError, match="90 to 100"):
        resolve_cases(BenchmarkCases(file=file, first=90, count=11))
    with pytest.raises(InputError, match=r"cases\.file"):
        resolve_cases(BenchmarkCases())


def test_fields_are_checked_when_read():
    adapter = TypeAdapter(CasesConfig)
    assert adapter.validate_python({"kind": "random", "count": 3}) == RandomCases(count=3)
    for wrong in (
        {"kind": "random", "count": 0},
        {"kind": "outlier", "step": 0},
        {"kind": "paper", "table": "witches-brew-table4", "count": 11},
        {"kind": "explicit", "cases": []},
        {"kind": "explicit", "cases": [{"target_class": 0, "intended_class": 1, "target_ids": []}]},
        {"kind": "random", "sed": 3},
    ):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)
