"""What holds for every attack that is brewed: each kind with a crafting loop, each objective, each derivative.

An attack joins by being registered: its kinds, objectives and derivatives are taken from the configurations.
"""

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import ValidationError

from small_brew import ATTACK, Interrupted, context
from stages import brew
from stages.brew.attacks import LOOPS, Brewed
from stages.brew.config import DoubleBackward, FeatureObjective, FiniteDifference, GradientMatching, GradientObjective
from stages.brew.objectives import FEATURE_OBJECTIVES, OBJECTIVES
from stages.config import Config
from stages.shards import poisons

EPS = 32
SMALL = {"eps": EPS, "steps": 24, "augmentation": ATTACK.augmentation}
"""Fields of a brew of a second, of those that an attack has."""
VARIED: dict[str, list[Any]] = {
    "objective": [*get_args(GradientObjective), *get_args(FeatureObjective)],
    "derivative": [DoubleBackward(), FiniteDifference(), None],
}
VARIANTS: list[dict[str, Any]] = [{"private": {"noise": 1e-3}}, {"layers": {"body": 0.5, "head.bias": 0}}]
"""Further fields of gradient matching, each by itself."""


def configs(union: Any) -> list[type[Config]]:
    """The configurations in a union, or the one that there is."""
    if isinstance(union, type):
        return [union]
    return [config for part in get_args(union) for config in configs(part)]


KINDS = {config.model_fields["kind"].default: config for config in configs(Brewed)}


def attacks() -> dict[str, Any]:
    """All combinations of what is varied that are valid, by what they are called."""
    found = {}
    for kind, config in KINDS.items():
        small = {name: value for name, value in SMALL.items() if name in config.model_fields}
        varied = {name: values for name, values in VARIED.items() if name in config.model_fields}
        for values in product(*varied.values()):
            fields = dict(zip(varied, values, strict=True))
            name = " ".join([kind, *(getattr(value, "kind", value) or "plain" for value in values)])
            try:
                found[name] = config.model_validate({**small, **fields})
            except ValidationError:
                continue
    for fields in VARIANTS:
        found[f"gradient-matching {' '.join(fields)}"] = GradientMatching.model_validate({**SMALL, **fields})
    return found


ATTACKS = attacks()


def test_everything_that_is_registered_can_be_chosen() -> None:
    assert KINDS.keys() == LOOPS.keys() == {attack.kind for attack in ATTACKS.values()}
    assert set(get_args(GradientObjective)) == OBJECTIVES.keys()
    assert set(get_args(FeatureObjective)) == FEATURE_OBJECTIVES.keys()
    assert {getattr(attack, "objective", "") for attack in ATTACKS.values()} >= set(VARIED["objective"])


@dataclass
class Made:
    """What the stage has left."""

    files: dict[str, bytes]
    poisons: poisons.PoisonSet
    losses: list[float]
    loss: float


@pytest.fixture
def made(stage_inputs, tmp_path):
    """Runs the stage with an attack, in parts where it is stopped after some steps."""

    def run(attack, name, stop_at=None, **runtime) -> Made:
        params, out = brew.Params(attack=attack, restart=0), tmp_path / name
        out.mkdir()
        if stop_at is not None:
            with pytest.raises(Interrupted):
                brew.run(params, stage_inputs, out, context(tmp_path / f"{name} kept", params.seed, stop_at=stop_at))
        brew.run(params, stage_inputs, out, context(tmp_path / f"{name} kept", params.seed, **runtime))
        figures = json.loads((out / "brew.json").read_text())
        files = {file.name: file.read_bytes() for file in Path(out).iterdir()}
        return Made(files, poisons.load(out), figures["losses"], figures["brew_loss"])

    return run


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_keeps_its_bounds_falls_and_is_a_function_of_its_seed_alone(name, made, base) -> None:
    attack = ATTACKS[name]
    first = made(attack, "first")
    change = np.abs(first.poisons.images.astype(int) - base.images)
    assert first.poisons.images.dtype == np.uint8 and 0 < change.max() <= EPS
    assert np.array_equal(first.poisons.ids, base.ids) and np.array_equal(first.poisons.labels, base.labels)
    start, end = np.mean(first.losses[:3]), np.mean(first.losses[-3:])
    assert end < 0.98 * start and first.loss < start
    assert made(attack, "resumed", stop_at=5).files == first.files, "neither another run nor an interruption shows"
    parts = made(attack, "parts", micro_batch=7)
    # Where a sign is that of a rounding error, a pixel may step another way.
    assert parts.losses[0] == pytest.approx(first.losses[0], rel=1e-4)
    assert parts.loss == pytest.approx(first.loss, rel=0.05)
