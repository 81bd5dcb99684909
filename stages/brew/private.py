"""The poison gradient as a differentially private trainer uses it, for who brews against one.

DP-SGD clips gradients and adds noise to them. Witches' Brew (section 5.3, figure 4b) tries it as a defense, and also an
attacker who knows of it: the poison gradient is treated alike before it is compared. As there it is the gradient of the
whole set that is clipped, not each image's, which would have no mixed derivative by plain passes (the authors' public
code works out the clipped gradient and goes on with the unclipped one; here it is clipped); the adversarial gradient
stays as it is, for it is what the attacker aims at and nothing that the victim computes.
"""

from collections.abc import Sequence

import torch

from stages.brew.config import Private
from stages.brew.objectives import Gradient, inner


def draw_noise(private: Private, like: Sequence[torch.Tensor], generator: torch.Generator) -> list[torch.Tensor]:
    """Gaussian noise for each parameter, of standard deviation clip·noise; drawn on the CPU."""
    deviation = private.clip * private.noise
    return [torch.randn(tensor.shape, generator=generator).to(tensor) * deviation for tensor in like]


def made_private(gradient: Gradient, private: Private, noise: Gradient) -> list[torch.Tensor]:
    """g · min(1, clip / ‖g‖) + noise, over all parameters together; differentiable in g."""
    length = inner(gradient, gradient).sqrt()
    if length > private.clip:  # else nothing is divided: a gradient of 0 keeps its slope
        gradient = [tensor * (private.clip / length) for tensor in gradient]
    return [tensor + drawn for tensor, drawn in zip(gradient, noise, strict=True)]
