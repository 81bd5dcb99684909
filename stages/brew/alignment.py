"""Whether the attack's gradients still agree in the network that is really trained: looked at from outside, while a
victim trains."""

import numpy as np
import torch

from stages.brew.derivatives import gradient_over
from stages.brew.objectives import inner
from stages.data.images import ImageSet
from stages.stage import Context
from stages.training.precision import precision


def gradient_alignment(
    model: torch.nn.Module, poisons: ImageSet, targets: ImageSet, intended: int, ctx: Context
) -> float:
    """The cosine of ∇θ of the loss over the poisons and ∇θ of the adversarial loss over the targets, in [-1, 1].

    θ are the parameters that are trained. Both are cross-entropies, in evaluation mode and float32, without
    augmentation; 0 where a gradient is 0. The network and its gradients are left as they are. After Witches' Brew,
    which follows it over the epochs of a victim.
    """
    was_training = model.training
    model.eval()
    with precision("float32", ctx.device):
        adversarial = gradient_over(model, targets, ctx, np.full(len(targets), intended))
        poison = gradient_over(model, poisons, ctx)
    model.train(was_training)
    norms = (inner(poison, poison) * inner(adversarial, adversarial)).sqrt()
    return float(inner(poison, adversarial) / norms) if norms > 0 else 0.0
