"""What all configurations share: refusals that help, and identities."""

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import ValidationError

from stages.brew.config import GradientMatching
from stages.config import Added, Config, Location, NotIdentity, identity, nearest
from stages.data.dataset_config import Cifar10, Digits
from stages.training.config import Training


class Inner(Config):
    root: Location = None
    size: int = 3


class Outer(Config):
    inner: Inner = Inner()
    several: tuple[Inner, ...] = ()
    named: dict[str, Inner] = {}  # noqa: RUF012
    count: Annotated[int, NotIdentity()] = 1
    rate: float = 1


class Grown(Outer):
    more: Annotated[int | None, Added()] = None


class Holder(Config):
    file: Path


def test_an_unknown_field_is_refused_with_the_nearest_name():
    with pytest.raises(ValidationError, match="unknown field 'epoch', did you mean 'epochs'"):
        Training.model_validate({"epoch": 3})
    with pytest.raises(ValidationError, match=r"unknown field 'zzz', known are .*root.*size"):
        Inner.model_validate({"zzz": 3})
    with pytest.raises(ValidationError, match=r"'sizes', did you mean 'size'\?; unknown field 'roots'"):
        Inner.model_validate({"sizes": 3, "roots": 3})
    with pytest.raises(ValidationError, match=r"(?s)inner.*unknown field 'siez', did you mean 'size'"):
        Outer.model_validate({"inner": {"siez": 3}})


def test_nearest():
    assert nearest("resnet8", ["convnet", "resnet18"]) == "did you mean 'resnet18'?"
    assert nearest("x", ["b", "a"]) == "known are a, b"


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Training().epochs = 3


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        (Training, {"epochs": 0}),
        (Training, {"batch_size": 1}),
        (Training, {"learning_rate": float("nan")}),
        (Training, {"learning_rate": float("inf")}),
        (Training, {"nesterov": True, "momentum": 0}),
        (Training, {"precision": "float16"}),
        (Training, {"schedule": {"kind": "step"}}),
        (GradientMatching, {"eps": 0}),
        (GradientMatching, {"eps": 0.5}),
        (GradientMatching, {"derivative": {"kind": "double-backward", "h_rel": 0.1}}),
        (GradientMatching, {"steps": 0}),
    ],
)
def test_what_makes_no_sense_is_refused(config, fields):
    with pytest.raises(ValidationError):
        config.model_validate(fields)


def test_an_identity_has_every_default_and_no_location():
    first = Outer(inner=Inner(root=Path("/here")), several=(Inner(root=Path("/a"), size=1),), named={"x": Inner()})
    second = Outer(inner=Inner(root=Path("/there")), several=(Inner(size=1),), named={"x": Inner()}, count=7)
    assert identity(first) == identity(second)
    assert identity(first) == {"inner": {"size": 3}, "several": [{"size": 1}], "named": {"x": {"size": 3}}, "rate": 1.0}
    assert identity(Outer(rate=2)) != identity(Outer())


def test_a_field_that_came_later_is_in_an_identity_where_it_says_something():
    assert identity(Grown()) == identity(Grown(more=None)) == identity(Outer())
    assert identity(Grown(more=0)) == identity(Outer()) | {"more": 0}


def test_a_stated_default_is_the_same_identity():
    assert identity(Training(epochs=40, momentum=0.9)) == identity(Training())
    assert identity(GradientMatching(budget=0.5, restarts=1)) == identity(GradientMatching())
    assert identity(Cifar10(root=Path("/data"), download=False)) == identity(Cifar10())
    assert identity(Digits(per_class=5)) != identity(Digits())
    assert identity(GradientMatching(seed=1)) != identity(GradientMatching())


def test_the_papers_values_are_the_defaults():
    """Witches' Brew, appendix A; a change here changes the keys of every default experiment."""
    training = identity(Training())
    assert training == {
        "optimizer": "sgd",
        "epochs": 40,
        "batch_size": 128,
        "learning_rate": None,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 5e-4,
        "schedule": {"kind": "multistep", "after": None, "factor": 0.1},
        "augmentation": {"flip": True, "pad": 4},
        "precision": "float32",
        "batch_norm_groups": 1,
    }
    assert identity(GradientMatching()) == {
        "kind": "gradient-matching",
        "objective": "cosine",
        "adversarial_loss": "cross-entropy",
        "eps": 16,
        "steps": 250,
        "step_size": 0.1,
        "schedule": {"kind": "multistep", "after": None, "factor": 0.1},
        "augmentation": {"flip": True, "shift": 4.0},
        "start": "random",
        "derivative": {"kind": "finite-difference", "sides": 2, "h_rel": 1e-2},
        "seed": 0,
    }


def test_what_has_no_place_in_an_identity_is_named():
    with pytest.raises(TypeError, match="Holder holds a PosixPath"):
        identity(Holder(file=Path("/a")))
