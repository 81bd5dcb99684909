"""The poisons' features and the plain derivative of an objective on them.

B is a function of all features together (Bullseye's mean), and the poisons pass through in micro-batches: so where
they do not fit into one, all features come first, and then with ∂B/∂f held fixed each part goes forward and backward.
"""

from collections.abc import Callable

import torch

from stages.brew.derivatives import parts
from stages.models.classifier import Classifier

OfFeatures = Callable[[torch.Tensor], torch.Tensor]
"""B as a function of the features [P, d] alone."""


@torch.no_grad()
def features_of(model: Classifier, inputs: torch.Tensor, micro_batch: int) -> torch.Tensor:
    """The input of the last linear layer. inputs: float [P, C, H, W] -> [P, d]."""
    return torch.cat([model.features(inputs[part]) for part in parts(len(inputs), micro_batch)])


def feature_derivative(
    model: Classifier, inputs: torch.Tensor, objective: OfFeatures, micro_batch: int
) -> tuple[float, torch.Tensor]:
    """B and dB/dx, the same for every micro-batch. inputs: float [P, C, H, W]; returns (B, [P, C, H, W])."""
    if len(inputs) <= micro_batch:
        x = inputs.detach().requires_grad_()
        value = objective(model.features(x))
        (derivative,) = torch.autograd.grad(value, x)
        return value.item(), derivative
    features = features_of(model, inputs, micro_batch).requires_grad_()
    value = objective(features)
    (slope,) = torch.autograd.grad(value, features)
    derivative = torch.empty_like(inputs)
    for part in parts(len(inputs), micro_batch):
        x = inputs[part].detach().requires_grad_()
        (derivative[part],) = torch.autograd.grad(model.features(x), x, slope[part])
    return value.item(), derivative
