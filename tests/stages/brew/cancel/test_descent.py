"""Gradient Canceling where the answer is known: it comes to the target parameters if and only if eps_d >= tau."""

import pytest
import torch

from stages.brew.cancel.config import GradientCanceling
from stages.brew.cancel.descent import Descent, cancelling, opposing
from stages.brew.derivatives import mixed_derivative, poison_gradient
from toy_sets import Logistic, cancelled, gaussians, or_set

OR_TARGETS = [(-1.0, -1.0), (2.0, -1.0)]
TARGETS = [pytest.param(*or_set(), w, id=f"or {w}") for w in OR_TARGETS]
TARGETS += [pytest.param(*gaussians(), (-0.2,) * 10, id="gaussians")]


@pytest.mark.parametrize(("x", "labels", "target"), TARGETS)
def test_the_target_is_reached_if_and_only_if_there_are_tau_poisons(
    x: torch.Tensor, labels: torch.Tensor, target: tuple[float, ...]
) -> None:
    """Figure 1 of Lu et al. (2023). Below tau, what is left of the gradient is what must be, and no less."""
    w = torch.tensor(target, dtype=torch.float64)
    left, least, refitted = cancelled(w, x, labels, 0.8)
    assert least <= left <= 1.05 * least
    assert (refitted - w).norm() > 0.1 * w.norm()
    left, _, refitted = cancelled(w, x, labels, 1.3)
    assert left < 0.06
    assert (refitted - w).norm() < 0.1 * w.norm()


def test_poisons_stay_in_the_clean_range_and_objectives_fall() -> None:
    x, labels = or_set()
    model = Logistic(torch.tensor([-1.0, -1.0], dtype=torch.float64))
    clean = poison_gradient(model, x, labels, 4)
    for objective, matching in (("cancel", cancelling(clean, 0.5)), ("cosine", opposing(clean))):
        attack = GradientCanceling(objective=objective, steps=50, learning_rate=0.3)
        descent, losses = Descent(x[:2] / 10, attack, (-0.2, 0.2), 4), []
        for number in range(attack.steps):
            B, gradient = mixed_derivative(attack.derivative, model, descent.poisons, labels[:2], matching, 1)
            descent.step(gradient, number)
            losses.append(B)
            assert descent.poisons.abs().max() <= 0.2
        assert losses[-1] < 0.99 * losses[0], objective
    assert losses[-1] == pytest.approx(0), "one direction alone can be opposed with any few poisons, but not cancelled"
