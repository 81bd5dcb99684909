"""Cases: one draw of classes, targets and poison base images each. An attack is measured over many of them.

Each way to choose cases is a configuration here; `resolve_cases` reads what lies in files. How they are drawn is in
stages/data/draw.py.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from stages.config import Added, Config, InputError, Location, NotIdentity
from stages.data.benchmark import read_setups
from stages.data.threats import ThreatModel

ClassName = int | str
"""A class by its index or its name."""
Count = Annotated[int, Field(ge=1), NotIdentity()]
Ids = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]

Threat = Annotated[ThreatModel, Added()]


class Case(Config):
    """One draw, by the dataset's class indices and ids."""

    name: str
    target_class: int
    intended_class: int | None
    """y_adv, the class the target is to be taken for; null is any but its own."""
    poison_class: int | None
    """The class of the poison images; null where they are of several."""
    target_ids: Ids
    """Test ids [T], all of the target class."""
    poison_ids: Ids
    """Train ids [P], all of the poison class where there is one, ascending."""
    seed: int | None
    """The seed it was drawn from; null where all of it was stated."""

    @property
    def adversarial_class(self) -> int:
        """The class that an adversarial loss is told: the intended one, or else the target's own, to be driven from."""
        return self.target_class if self.intended_class is None else self.intended_class

    def success(self, prediction: int) -> bool:
        """Whether a target that is called so is what the attacker wants."""
        if self.intended_class is None:
            return prediction != self.target_class
        return prediction == self.intended_class


class RandomCases(Config):
    """Random classes, targets and poisons (Witches' Brew, appendix B; its tables' own seeds are `PaperCases`)."""

    kind: Literal["random"] = "random"
    seed: int = 0
    count: Count = 10
    targets: Annotated[int, Field(ge=1)] = 1
    """T, the targets a case has, all of one class and with one intended class."""
    threat_model: Threat = "single-class"
    """Classes and targets are the same under all threat models."""


class OutlierCases(Config):
    """Targets that the surrogates are least sure of (Poison Frogs, section 4.2.1), each with its runner-up class.

    Test images that all surrogates call right are ranked by their mean margin, least first; case i is rank
    first + step·i, so that cases to search on and cases to report can be kept apart. Poisons are random.
    """

    kind: Literal["outlier"] = "outlier"
    seed: int = 0
    count: Count = 10
    first: Annotated[int, Field(ge=0)] = 0
    step: Annotated[int, Field(ge=1)] = 1
    threat_model: Threat = "single-class"


class ExplicitCase(Config):
    """One case as stated. Without poison ids, the budget's worth is drawn by `seed`, as the threat model has it."""

    target_class: ClassName
    intended_class: ClassName | None = None
    """Null for self-concealment, and only there."""
    target_ids: Ids
    poison_ids: Ids | None = None
    seed: int = 0
    name: str | None = None
    threat_model: Threat = "single-class"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        conceals = self.threat_model == "self-concealment"
        if conceals and self.intended_class is not None:
            raise ValueError(
                f"intended_class is {self.intended_class!r}, but threat_model is self-concealment, which wants the "
                "target called anything but its own class; leave intended_class out"
            )
        if not conceals and self.intended_class is None:
            raise ValueError(
                f"intended_class is missing: with threat_model {self.threat_model} the target is to be called one "
                "class; name it, or set threat_model to self-concealment"
            )
        return self


class ExplicitCases(Config):
    """Cases as stated, one by one."""

    kind: Literal["explicit"] = "explicit"
    cases: Annotated[tuple[ExplicitCase, ...], Field(min_length=1)]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.cases)


class PaperCases(Config):
    """The cases of a table of Witches' Brew, which need the canonical dataset (see stages/data/paper_cases.py)."""

    kind: Literal["paper"] = "paper"
    table: Literal["witches-brew-table4", "witches-brew-table5"]
    count: Annotated[int, Field(ge=1, le=10), NotIdentity()] = 10


class BenchmarkCases(Config):
    """Setups `first`, `first + 1`, … of the poisoning benchmark; `resolve_cases` reads them into explicit cases."""

    kind: Literal["benchmark"] = "benchmark"
    file: Location = None
    """The benchmark's setups pickle (aks2203/poisoning-benchmark, poison_setups/)."""
    sha256: str | None = None
    """What the file must have; null takes it as it is. The setups themselves enter the keys."""
    first: Annotated[int, Field(ge=0)] = 0
    count: Count = 100


ResolvedCases = Annotated[RandomCases | OutlierCases | ExplicitCases | PaperCases, Field(discriminator="kind")]
CasesConfig = Annotated[
    RandomCases | OutlierCases | ExplicitCases | PaperCases | BenchmarkCases, Field(discriminator="kind")
]


def resolve_cases(config: CasesConfig) -> ResolvedCases:
    """The configuration with nothing left in files: the benchmark's setups become explicit cases.

    A train id that a setup repeats (setups 78 and 84 of the transfer benchmark do) is one poison. Raises InputError
    where the file is missing, is no benchmark's (see `read_setups`), or has fewer setups.
    """
    if not isinstance(config, BenchmarkCases):
        return config
    if config.file is None:
        raise InputError("cases.file is missing: it names the poisoning benchmark's setups pickle")
    setups = read_setups(config.file, config.sha256)
    end = config.first + config.count
    if end > len(setups):
        raise InputError(f"cases asks for setups {config.first} to {end - 1} of {config.file}, which has {len(setups)}")
    return ExplicitCases(
        cases=tuple(
            ExplicitCase(
                target_class=setup.target_class,
                intended_class=setup.base_class,
                target_ids=(setup.target_id,),
                poison_ids=tuple(sorted(set(setup.base_ids))),
                name=f"benchmark setup {number}",
            )
            for number, setup in enumerate(setups[config.first : end], config.first)
        )
    )


def threat_model(config: CasesConfig, index: int) -> ThreatModel:
    """That of case `index`; published cases are of a single class."""
    if isinstance(config, ExplicitCases):
        return config.cases[index].threat_model
    return config.threat_model if isinstance(config, RandomCases | OutlierCases) else "single-class"


def heading(target_class: str, intended_class: str | None) -> str:
    """What a case is after, by class names: `dog → frog`, or `dog → not dog`."""
    return f"{target_class} → {f'not {target_class}' if intended_class is None else intended_class}"


def of_class(poison_class: str | None) -> str:
    """Of which class poisons are, as a sentence goes on."""
    return "of several classes" if poison_class is None else f"of class {poison_class}"


def class_names(case: Case, classes: tuple[str, ...]) -> dict[str, str | None]:
    """`target_class`, `poison_class` and `intended_class` by name; null stays null."""
    numbers = {field: getattr(case, field) for field in ("target_class", "poison_class", "intended_class")}
    return {field: None if number is None else classes[number] for field, number in numbers.items()}


def only(config: ResolvedCases, index: int) -> tuple[ResolvedCases, int]:
    """What case `index` depends on: explicit cases are cut down to that one, so that no key depends on the others."""
    if isinstance(config, ExplicitCases):
        return ExplicitCases(cases=(config.cases[index],)), 0
    return config, index


def check(case: Case, train_labels: np.ndarray, test_labels: np.ndarray) -> None:
    """Raises InputError, naming the field, where a case does not fit the labels (int64 [N]) or itself."""
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    for field in ("target_class", "intended_class", "poison_class"):
        found = getattr(case, field)
        if found is not None and not 0 <= found < classes:
            raise InputError(f"case {case.name!r}: {field} is {found}, expected 0 to {classes - 1}")
    if case.target_class == case.intended_class:
        raise InputError(f"case {case.name!r}: intended_class is the target's own class {case.target_class}")
    _check_ids(f"case {case.name!r}: target_ids", case.target_ids, case.target_class, test_labels, "test")
    _check_ids(f"case {case.name!r}: poison_ids", case.poison_ids, case.poison_class, train_labels, "train")


def save_case(case: Case, folder: Path) -> None:
    """Write a case as `case.json`."""
    (folder / "case.json").write_text(case.model_dump_json(indent=1) + "\n")


def load_case(folder: Path) -> Case:
    """The case in a folder. Raises InputError that names the file where it is missing or no case."""
    file = folder / "case.json"
    try:
        return Case.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise InputError(f"{file}: not a case ({error}); draw it again") from error


def _check_ids(where: str, ids: tuple[int, ...], of: int | None, labels: np.ndarray, split: str) -> None:
    values = np.array(ids)
    distinct, repeats = np.unique(values, return_counts=True)
    if (repeats > 1).any():
        raise InputError(f"{where}: {distinct[repeats > 1][0]} is there more than once")
    outside = values[(values < 0) | (values >= len(labels))]
    if len(outside):
        raise InputError(f"{where}: {outside[0]} is no {split} image's id, expected 0 to {len(labels) - 1}")
    strays = values[labels[values] != of]
    if of is not None and len(strays):
        raise InputError(f"{where}: {split} image {strays[0]} is of class {labels[strays[0]]}, expected class {of}")
