"""The threshold tau against what is known without it: closed forms, gradients, and models that are refitted."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.nn.functional import cross_entropy

from stages.brew.cancel.reachability import largest_pull, push, threshold
from toy_sets import Logistic, fitted


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_no_image_pulls_further_than_lambert_says(classes: int) -> None:
    def of(z: float) -> float:
        logits = np.zeros((1, classes))
        logits[0, 0] = z
        return push(logits, np.array([0]))

    assert -minimize_scalar(of, bracket=(0, 2)).fun == pytest.approx(largest_pull(classes), rel=1e-9)
    drawn = np.random.default_rng(classes).normal(scale=3, size=(2000, classes))
    assert min(push(one[None], np.array([0])) for one in drawn) >= -largest_pull(classes)


def test_the_push_is_the_inner_product_of_the_parameters_and_their_gradient() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(5, 4).double()
    x, labels = torch.randn(30, 5, dtype=torch.float64), torch.arange(30) % 4
    logits = layer(x)
    gradients = torch.autograd.grad(cross_entropy(logits, labels), list(layer.parameters()))
    product = sum((w * g).sum().item() for w, g in zip(layer.parameters(), gradients, strict=True))
    assert push(logits.detach().numpy(), labels.numpy()) == pytest.approx(product, rel=1e-12)


def test_three_points() -> None:
    """Two points on the right side of the origin and one on the wrong side (as in Lu et al. 2023, appendix C.6): the
    clean optimum w* = ln 2 needs no poison, twice of it two thirds of the clean images."""
    x, labels = torch.ones(3, 1, dtype=torch.float64), torch.tensor([1, 1, 0])
    best = fitted(x, labels)
    assert best.item() == pytest.approx(math.log(2))

    def tau(w: torch.Tensor) -> float:
        return threshold(Logistic(w)(x).detach().numpy(), labels.numpy())

    assert tau(best) == pytest.approx(0, abs=1e-9)
    assert tau(best / 2) == 0, "towards the origin the clean images push outwards, as any poison can too"
    assert tau(2 * best) == pytest.approx(2 / 15 * math.log(4) / largest_pull(2)) == pytest.approx(0.67, abs=0.01)


@pytest.mark.parametrize("eps_d", [1e-3, 0.03, 1.0])
def test_least_squares_is_reachable_with_any_ratio_of_poisons(eps_d: float) -> None:
    """One point whose residual is 1/eps_d along the clean gradient cancels it (Lu et al. 2023, figure 5), where
    cross-entropy's residual is at most 1, and so has a threshold."""
    rng = np.random.default_rng(0)
    x, y, target = rng.normal(size=(40, 3)), rng.normal(size=40), np.array([5.0, -3.0, 2.0])
    gradient = x.T @ (x @ target - y) / len(x)
    poison = -gradient
    label = poison @ target - 1 / eps_d
    weight = math.sqrt(eps_d * len(x))
    refitted, *_ = np.linalg.lstsq(np.vstack([x, weight * poison]), np.append(y, weight * label), rcond=None)
    np.testing.assert_allclose(refitted, target, rtol=1e-6)
