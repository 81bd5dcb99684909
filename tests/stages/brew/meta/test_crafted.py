"""Poisons on their way: their bounds, Adam's steps, and going on from a state."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from stages.brew.meta.color import recolor, smoothness
from stages.brew.meta.config import MetaPoison, ReColor
from stages.brew.meta.crafted import Crafted

COLOR = ReColor(grid=4)
ATTACK = MetaPoison(color=COLOR)


@pytest.fixture
def base():
    return torch.randint(0, 256, (5, 3, 8, 8), generator=torch.Generator().manual_seed(0)).float() / 255


def gradient(base, seed):
    return torch.randn(base.shape, generator=torch.Generator().manual_seed(seed)) * 1e-4


def crafted(base, attack=ATTACK, steps=0, micro_batch=2):
    found = Crafted(base, attack, micro_batch)
    found.start(torch.Generator().manual_seed(7))
    for seed in range(steps):
        found.step(gradient(base, seed))
    return found


@pytest.mark.parametrize("attack", [ATTACK, ATTACK.model_copy(update={"color": None})], ids=["color", "plain"])
@pytest.mark.parametrize("step_size", [200, 0.7])
def test_both_changes_stay_within_their_bounds(attack, step_size, base):
    """Steps of 200 go from one side to the other; small ones end inside."""
    attack = attack.model_copy(update={"step_size": step_size})
    found = crafted(base, attack, 4)
    recolored = base if found.moves is None else recolor(base, found.moves)
    assert found.images.min() >= 0 and found.images.max() <= 1
    assert (found.images - recolored).abs().max() <= 8 / 255 + 1e-7
    assert torch.allclose(found.images, recolored + found.delta, atol=1e-7), "no change is lost at black or white"
    quantised = found.quantised()
    assert quantised.dtype == np.uint8 and quantised.shape == (5, 8, 8, 3)
    change = torch.from_numpy(quantised).permute(0, 3, 1, 2).double() - recolored.double() * 255
    assert change.abs().max() <= 8.001
    assert (torch.from_numpy(quantised).permute(0, 3, 1, 2) / 255 - found.images).abs().max() <= 1 / 255
    if found.moves is not None:
        assert found.moves.abs().max() <= 0.04
        assert (recolored - base).abs().max() > 8 / 255, "colours move by more than the additive bound"
    if step_size == 200:
        assert change.abs().max() > 7
        assert found.moves is None or found.moves.abs().max() == pytest.approx(0.04)


def test_the_first_step_is_adams(base):
    """Of size τ against the sign, where the gradient is not tiny; divided by 10 after every 20 steps."""
    attack = ATTACK.model_copy(update={"step_size": 1.0, "color": None, "eps": 200})
    grey = torch.full_like(base, 0.5)
    found = Crafted(grey, attack, 5)
    sign = gradient(base, 0).sign()
    found.step(1e-5 * sign)
    assert torch.allclose(found.delta, -sign / 255, rtol=2e-3)
    constant = torch.ones_like(base)
    sizes = []
    found = Crafted(grey, attack, 5)
    for _ in range(41):
        before = found.delta.clone()
        found.step(constant)
        sizes.append((before - found.delta).abs().max().item() * 255)
    assert [sizes[19], sizes[20], sizes[39], sizes[40]] == pytest.approx([1, 0.1, 0.1, 0.01], rel=1e-3)


def test_colours_step_along_the_whole_objective(base):
    """Through the map, and with λ times its smoothness; the micro-batch cuts the work and not the result."""
    attack = ATTACK.model_copy(update={"step_size": 1e-3, "color": COLOR.model_copy(update={"smoothness": 1e-4})})
    found, whole = crafted(base, attack, 1), crafted(base, attack, 1, micro_batch=5)
    moves = torch.zeros(5, 3, 4, 4, 4, requires_grad=True)
    ((recolor(base, moves) * gradient(base, 0)).sum() + 1e-4 * smoothness(moves)).backward()
    told = moves.grad.abs() > 1e-6
    assert told.sum() > 100
    assert torch.equal(found.moves.sign()[told], -moves.grad.sign()[told])
    assert torch.allclose(found.moves, whole.moves, atol=1e-9) and torch.equal(found.delta, whole.delta)
    assert torch.allclose(found.moves[told].abs(), torch.tensor(1e-3 / 255), rtol=0.02)


def test_smoothness_keeps_neighbouring_colours_together(base):
    def roughness(weight):
        attack = ATTACK.model_copy(update={"step_size": 1.0, "color": COLOR.model_copy(update={"smoothness": weight})})
        return smoothness(crafted(base, attack, 6).moves).item()

    assert roughness(10.0) < 0.8 * roughness(0.0)


def test_going_on_from_a_state_equals_not_having_stopped(base):
    whole = crafted(base, steps=4)
    first = crafted(base, steps=2)
    state = {name: tensor.clone() for name, tensor in first.state().items()}
    second = Crafted(base, ATTACK, 2)
    second.restore(state)
    for seed in (2, 3):
        second.step(gradient(base, seed))
    assert torch.equal(second.images, whole.images)
    assert whole.state().keys() == second.state().keys()
    assert all(torch.equal(tensor, second.state()[name]) for name, tensor in whole.state().items())
    assert np.array_equal(second.quantised(), whole.quantised())


def test_a_subset_larger_than_the_set_is_refused():
    with pytest.raises(ValidationError, match=r"used_budget is 0\.1, and poisons are crafted for a budget of 0\.05"):
        MetaPoison(budget=0.05, used_budget=0.1)
