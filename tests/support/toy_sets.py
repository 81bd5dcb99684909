"""Sets so small that what can be reached on them is known in closed form, and logistic regression in float64."""

import torch
from torch import nn


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
