"""How far the poisons are from the targets in what a network makes of them: gradients, or features.

An objective on gradients is B(g, t): g = ∇θ L over the poisons, t = ∇θ L_adv over the targets, both as lists of one
tensor a parameter. All are registered in `OBJECTIVES` with one signature; all adversarial losses in
`ADVERSARIAL_LOSSES`. An objective on features is B(f, t): f of the poisons, [P, d]; t the targets' mean, [d]. All are
in `FEATURE_OBJECTIVES`.
"""

from collections.abc import Callable, Sequence

import torch
from torch.nn.functional import cross_entropy, one_hot

Gradient = Sequence[torch.Tensor]
Objective = Callable[[Gradient, Gradient], torch.Tensor]
FeatureObjective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
AdversarialLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def inner(first: Gradient, second: Gradient) -> torch.Tensor:
    """⟨first, second⟩ over all parameters, a scalar."""
    return torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)]).sum()


def cosine(poison: Gradient, target: Gradient) -> torch.Tensor:
    """B = 1 - ⟨t, g⟩ / (‖t‖ ‖g‖), in [0, 2] (Witches' Brew, equation 3)."""
    norms = inner(poison, poison).sqrt() * inner(target, target).sqrt()
    return 1 - inner(poison, target) / norms


def squared_euclidean(poison: Gradient, target: Gradient) -> torch.Tensor:
    """B = ½ ‖g - t‖² / ‖t‖² (Witches' Brew, equation 2, made independent of the scale of t)."""
    difference = [a - b for a, b in zip(poison, target, strict=True)]
    return 0.5 * inner(difference, difference) / inner(target, target)


def feature_collision(poisons: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """B = ½ mean over the poisons of ‖f - t‖² / ‖t‖² (Poison Frogs, equation 1, whose pull to the base is the ball's
    here; made independent of the scale of t, so that surrogates count alike)."""
    return 0.5 * (poisons - target).square().sum(1).mean() / target.square().sum()


def bullseye(poisons: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """B = ½ ‖mean over the poisons of f - t‖² / ‖t‖² (Bullseye Polytope, Aghakhani et al. 2021, the objective for one
    network; with several targets the multi-target mode)."""
    return 0.5 * (poisons.mean(0) - target).square().sum() / target.square().sum()


def carlini_wagner(logits: torch.Tensor, intended: torch.Tensor) -> torch.Tensor:
    """Mean over images of max(0, largest other logit - logit of the intended class) (Carlini & Wagner 2017).

    logits: [T, classes], intended: int64 [T].
    """
    is_intended = one_hot(intended, logits.shape[1]).bool()
    others = logits.masked_fill(is_intended, -torch.inf).amax(1)
    return (others - logits[is_intended]).clamp(min=0).mean()


def self_concealment(logits: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Mean over images of -log(1 - p of the true class): least where anything else is predicted (MetaPoison, section
    3.3, self-concealment).

    logits: [T, classes], true: int64 [T].
    """
    others = logits.masked_fill(one_hot(true, logits.shape[1]).bool(), -torch.inf)
    return (logits.logsumexp(1) - others.logsumexp(1)).mean()


OBJECTIVES: dict[str, Objective] = {"cosine": cosine, "squared-euclidean": squared_euclidean}
FEATURE_OBJECTIVES: dict[str, FeatureObjective] = {"feature-collision": feature_collision, "bullseye": bullseye}
ADVERSARIAL_LOSSES: dict[str, AdversarialLoss] = {
    "cross-entropy": cross_entropy,
    "carlini-wagner": carlini_wagner,
    "self-concealment": self_concealment,
}
"""Each of the logits and the intended class; of the true class for self-concealment, which intends none."""
