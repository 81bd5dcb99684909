"""Sets so small that what can be reached on them is known in closed form, logistic regression in float64, and Gradient
Canceling of the two."""

import torch
from torch import nn

from stages.brew.cancel.config import GradientCanceling
from stages.brew.cancel.descent import Descent, cancelling
from stages.brew.cancel.reachability import largest_pull, threshold
from stages.brew.derivatives import mixed_derivative, poison_gradient

ATTACK = GradientCanceling(steps=500, learning_rate=0.5)


class Logistic(nn.Module):
    """Binary logistic regression without a bias, as a network of two logits (0, w·x)."""

    def __init__(self, w: torch.Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        margin = x @ self.w
        return torch.stack([torch.zeros_like(margin), margin], 1)


def or_set() -> tuple[torch.Tensor, torch.Tensor]:
    """The OR of two signs: no plane through the origin separates it, so the best parameters are finite."""
    x = torch.tensor([[-1, -1], [-1, 1], [1, -1], [1, 1]], dtype=torch.float64)
    return x, torch.tensor([0, 1, 1, 1])


def gaussians(dimensions: int = 10, each: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    """Two overlapping Gaussians, around -½ and ½ in each dimension."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2 * each) % 2
    x = torch.randn(2 * each, dimensions, generator=generator, dtype=torch.float64)
    return x + (labels - 0.5)[:, None], labels


def fitted(x: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """The parameters of least mean loss, by Newton's method from 0; weights: of the samples."""
    weights = torch.ones(len(x), dtype=x.dtype) if weights is None else weights
    w = torch.zeros(x.shape[1], dtype=x.dtype)
    for _ in range(50):
        p = torch.sigmoid(x @ w)
        gradient = x.T @ (weights * (p - labels))
        curvature = (x * (weights * p * (1 - p))[:, None]).T @ x
        w = w - torch.linalg.solve(curvature + 1e-9 * torch.eye(len(w), dtype=x.dtype), gradient)
    return w


def cancelled(w: torch.Tensor, x: torch.Tensor, labels: torch.Tensor, part: float) -> tuple[float, float, torch.Tensor]:
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
