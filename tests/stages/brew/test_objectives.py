"""The objectives and losses against the papers' formulas, written out in numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.brew.objectives import ADVERSARIAL_LOSSES, FEATURE_OBJECTIVES, OBJECTIVES, inner

SHAPES = [(4, 3, 3, 3), (4,), (10, 4)]


def two_gradients(seed):
    rng = np.random.default_rng(seed)
    return [[torch.from_numpy(rng.standard_normal(shape)) for shape in SHAPES] for _ in range(2)]


def flat(gradient):
    return np.concatenate([tensor.numpy().ravel() for tensor in gradient])


def equation_2(g, t):
    return 0.5 * ((g - t) ** 2).sum() / (t**2).sum()


def equation_3(g, t):
    return 1 - (g @ t) / (np.linalg.norm(g) * np.linalg.norm(t))


FORMULAS = {"squared-euclidean": equation_2, "cosine": equation_3}


def collision(f, t):
    """Poison Frogs, equation 1, without its pull to the base."""
    return 0.5 * np.mean([((poison - t) ** 2).sum() for poison in f]) / (t**2).sum()


def polytope_centre(f, t):
    """Bullseye Polytope's objective for one network."""
    return 0.5 * np.linalg.norm(t - sum(f) / len(f)) ** 2 / np.linalg.norm(t) ** 2


FEATURE_FORMULAS = {"feature-collision": collision, "bullseye": polytope_centre}


def test_every_objective_is_tested():
    assert FORMULAS.keys() == OBJECTIVES.keys() and FEATURE_FORMULAS.keys() == FEATURE_OBJECTIVES.keys()


@pytest.mark.parametrize("name", OBJECTIVES)
@settings(deadline=None)
@given(seed=st.integers(0, 1000))
def test_an_objective_is_its_equation_and_least_at_the_target(name, seed):
    g, t = two_gradients(seed)
    assert OBJECTIVES[name](g, t).item() == pytest.approx(FORMULAS[name](flat(g), flat(t)), rel=1e-12)
    assert OBJECTIVES[name](t, t).item() == pytest.approx(0, abs=1e-12) and OBJECTIVES[name](g, t) > 0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_does_not_depend_on_a_common_scale(name):
    g, t = two_gradients(0)
    scaled = [[1000 * tensor for tensor in gradient] for gradient in (g, t)]
    assert OBJECTIVES[name](*scaled).item() == pytest.approx(OBJECTIVES[name](g, t).item())


def test_cosine_sees_the_direction_only():
    g, t = two_gradients(0)
    cosine = OBJECTIVES["cosine"]
    assert cosine([5 * tensor for tensor in g], t).item() == pytest.approx(cosine(g, t).item())
    assert cosine([-tensor for tensor in t], t).item() == pytest.approx(2)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objectives_derivative_is_the_numeric_one(name):
    g, t = two_gradients(3)
    leaves = [tensor.clone().requires_grad_() for tensor in g]
    v = torch.autograd.grad(OBJECTIVES[name](leaves, t), leaves)
    direction, _ = two_gradients(4)
    step = 1e-6
    ahead, behind = (
        OBJECTIVES[name]([a + sign * step * b for a, b in zip(g, direction, strict=True)], t) for sign in (1, -1)
    )
    assert inner(v, direction).item() == pytest.approx(((ahead - behind) / (2 * step)).item(), rel=1e-6)


def test_inner_needs_gradients_of_one_network():
    g, t = two_gradients(0)
    assert inner(g, t).item() == pytest.approx(flat(g) @ flat(t))
    with pytest.raises(ValueError, match="shorter"):
        inner(g, t[:2])


@settings(deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(1, 6), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_an_objective_on_features_is_its_equation_whatever_their_scale(seed, count, scale):
    rng = np.random.default_rng(seed)
    f, t = rng.standard_normal((count, 7)), rng.standard_normal(7)
    found = {}
    for name, objective in FEATURE_OBJECTIVES.items():
        found[name] = objective(scale * torch.from_numpy(f), scale * torch.from_numpy(t)).item()
        assert found[name] == pytest.approx(FEATURE_FORMULAS[name](f, t), rel=1e-12)
    assert found["bullseye"] <= found["feature-collision"] * (1 + 1e-12), "the mean is no further off than the poisons"
    assert (found["bullseye"] == pytest.approx(found["feature-collision"])) == (count == 1)


def test_bullseye_wants_the_target_in_the_middle_and_a_collision_wants_it_hit():
    target = torch.tensor([1.0, 2.0])
    around = target + torch.tensor([[3.0, 0.0], [-3.0, 0.0]])
    assert FEATURE_OBJECTIVES["bullseye"](around, target) == 0
    assert FEATURE_OBJECTIVES["feature-collision"](around, target).item() == pytest.approx(0.5 * 9 / 5)


def test_carlini_wagner_by_hand():
    logits = torch.tensor([[1.0, 4.0, 2.5], [3.0, 0.0, -1.0], [-2.0, -3.0, -9.0]])
    loss = ADVERSARIAL_LOSSES["carlini-wagner"]
    # intended 2: 4 - 2.5; intended 0: already the largest, by 3 and by 1
    assert loss(logits, torch.tensor([2, 0, 0])).item() == pytest.approx(1.5 / 3)
    # intended 1: already the largest; 3 - 0; -2 + 3
    assert loss(logits, torch.tensor([1, 1, 1])).item() == pytest.approx((0 + 3 + 1) / 3)


def test_carlini_wagner_pulls_at_two_logits_until_the_intended_one_leads():
    logits = torch.tensor([[1.0, 4.0, 2.5]], requires_grad=True)
    loss = ADVERSARIAL_LOSSES["carlini-wagner"]
    assert torch.autograd.grad(loss(logits, torch.tensor([2])), logits)[0].tolist() == [[0, 1, -1]]
    assert torch.autograd.grad(loss(logits, torch.tensor([1])), logits)[0].tolist() == [[0, 0, 0]]


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_cross_entropy_is_the_mean_negative_log_likelihood(seed):
    rng = np.random.default_rng(seed)
    logits, wanted = rng.standard_normal((5, 7)), rng.integers(0, 7, 5)
    likelihood = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    loss = ADVERSARIAL_LOSSES["cross-entropy"](torch.from_numpy(logits), torch.from_numpy(wanted))
    assert loss.item() == pytest.approx(-np.log(likelihood[np.arange(5), wanted]).mean())


def test_self_concealment_is_least_where_anything_but_the_true_class_is_called():
    logits, true = np.random.default_rng(2).normal(size=(4, 3)), np.array([0, 2, 1, 0])
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = -np.log(1 - p[np.arange(4), true]).mean()
    loss = ADVERSARIAL_LOSSES["self-concealment"]
    assert loss(torch.from_numpy(logits), torch.from_numpy(true)).item() == pytest.approx(expected)
    certain = torch.tensor([[80.0, 0.0, 0.0]], requires_grad=True)
    (slope,) = torch.autograd.grad(loss(certain, torch.tensor([0])), certain)
    assert slope[0].tolist() == pytest.approx([1, -0.5, -0.5]), "also where p is 1 to the last digit"
