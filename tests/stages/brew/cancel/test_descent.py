"""Gradient Canceling where the answer is known: it comes to the target parameters if and only if eps_d >= tau."""

import pytest
import torch

from stages.brew.cancel.config import GradientCanceling
from stages.brew.cancel.descent import Descent, cancelling, opposing
from stages.brew.cancel.reachability import largest_pull, threshold
from stages.brew.derivatives import mixed_derivative, poison_gradient
from toy_sets import Logistic, fitted, gaussians, or_set

ATTACK = GradientCanceling(steps=500, learning_rate=0.5)


def attacked(w: torch.Tensor, x: torch.Tensor, labels: torch.Tensor, part: float) -> tuple[float, float, torch.Tensor]:
    """Poisons of a ratio of `part` times tau: the part of ‖g(mu)‖ that is left, the part that must be left at least,
    and the parameters that are refitted on clean points and poisons."""
    model = Logistic(w)
    tau = threshold(model(x).detach().numpy(), labels.numpy())
    assert tau > 0
    eps_d = part * tau
    clean = poison_gradient(model, x, labels, len(x))
    poison_labels = torch.tensor([0, 1])
    descent = Descent(torch.zeros(2, len(w), dtype=w.dtype), ATTACK, None, 1 / eps_d**2)
    matching = cancelling(clean, eps_d)
    for number in range(ATTACK.steps):
        _, gradient = mixed_derivative(ATTACK.derivative, model, descent.poisons, poison_labels, matching, 2)
        descent.step(gradient, number)
    left = matching(poison_gradient(model, descent.poisons, poison_labels, 2)).item()
    length = clean[0].norm().item()
    least = max(0.0, tau - eps_d) * largest_pull(2) / w.norm().item()
    weights = torch.ones(len(x) + 2, dtype=w.dtype)
    weights[len(x) :] = eps_d * len(x) / 2
    refitted = fitted(torch.cat([x, descent.poisons]), torch.cat([labels, poison_labels]), weights)
    return (2 * left) ** 0.5 / length, least / length, refitted


OR_TARGETS = [(-1.0, -1.0), (2.0, -1.0)]
TARGETS = [pytest.param(*or_set(), w, id=f"or {w}") for w in OR_TARGETS]
TARGETS += [pytest.param(*gaussians(), (-0.2,) * 10, id="gaussians")]


@pytest.mark.parametrize(("x", "labels", "target"), TARGETS)
def test_the_target_is_reached_if_and_only_if_there_are_tau_poisons(
    x: torch.Tensor, labels: torch.Tensor, target: tuple[float, ...]
) -> None:
    """Figure 1 of Lu et al. (2023). Below tau, what is left of the gradient is what must be, and no less."""
    w = torch.tensor(target, dtype=torch.float64)
    left, least, refitted = attacked(w, x, labels, 0.8)
    assert least <= left <= 1.05 * least
    assert (refitted - w).norm() > 0.1 * w.norm()
    left, _, refitted = attacked(w, x, labels, 1.3)
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
