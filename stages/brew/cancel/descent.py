"""Gradient Canceling's loop, on any inputs: descent on B over the poisons, by the mixed derivative that gradient
matching uses too."""

import math

import torch

from stages.brew.cancel.config import Poisoning
from stages.brew.derivatives import Matching
from stages.brew.objectives import Gradient, cosine, inner

Bounds = tuple[float, float] | None
"""The clean range that poisons are projected onto; null leaves them free."""


def cancelling(clean: Gradient, eps_d: float) -> Matching:
    """B(g) = ½ ‖g(mu) + eps_d g‖², of g = g(nu), the mean gradient over the poisons (Lu et al. 2023, equation 5)."""

    def matching(gradient: Gradient) -> torch.Tensor:
        rest = [a + eps_d * b for a, b in zip(clean, gradient, strict=True)]
        return 0.5 * inner(rest, rest)

    return matching


def opposing(clean: Gradient) -> Matching:
    """B(g) = 1 + cos(g(mu), g): gradient matching towards the same parameters, the baseline of Lu et al. 2023."""
    wanted = [-a for a in clean]

    def matching(gradient: Gradient) -> torch.Tensor:
        return cosine(gradient, wanted)

    return matching


class Descent:
    """Poisons moved by gradient descent with momentum, its rate falling along half a cosine, kept in the clean range
    (Lu et al. 2023, Algorithm 1)."""

    def __init__(self, poisons: torch.Tensor, attack: Poisoning, bounds: Bounds, scale: float = 1.0) -> None:
        """poisons: float [P, …], where they begin.  scale: of gradients, besides P (see `Poisoning.learning_rate`)."""
        self.poisons = poisons.clone()
        self._attack, self._bounds = attack, bounds
        self._scale = len(poisons) * scale
        self._velocity = torch.zeros_like(poisons)

    def step(self, gradient: torch.Tensor, number: int) -> None:
        """Step `number`, from 0, against the gradient [P, …] of B."""
        fall = 0.5 * (1 + math.cos(math.pi * number / self._attack.steps))
        self._velocity.mul_(self._attack.momentum).add_(gradient, alpha=self._scale)
        self.poisons.sub_(self._attack.learning_rate * fall * self._velocity)
        if self._bounds is not None:
            self.poisons.clamp_(*self._bounds)

    def quantised(self) -> torch.Tensor:
        """The poisons as uint8 [P, …], of [0, 1]."""
        return (self.poisons * 255).round().to(torch.uint8)

    def state(self) -> dict[str, torch.Tensor]:
        """What `restore` needs to go on from here."""
        return {"poisons": self.poisons, "velocity": self._velocity}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from a `state`."""
        self.poisons, self._velocity = (state[name].to(self.poisons) for name in ("poisons", "velocity"))
