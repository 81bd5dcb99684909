"""Whether the attack's gradients still agree in the network that is really trained: looked at from outside, while a
victim trains."""

import torch
from torch.nn.functional import cross_entropy

from stages.brew.objectives import Gradient, inner
from stages.data.images import ImageSet
from stages.stage import Context
from stages.training.batches import pixels, to_tensor
from stages.training.precision import precision


def gradient_alignment(
    model: torch.nn.Module, poisons: ImageSet, targets: ImageSet, intended: int, ctx: Context
) -> float:
    """The cosine of ∇θ of the loss over the poisons and ∇θ of the adversarial loss over the targets, in [-1, 1].

    θ are the parameters that are trained. Both are cross-entropies, in evaluation mode and float32, without
    augmentation; 0 where a gradient is 0. The network and its gradients are left as they are. After Witches' Brew,
    which follows it over the epochs of a victim.
    """
    wanted = torch.full((len(targets),), intended)
    was_training = model.training
    model.eval()
    with precision("float32", ctx.device):
        adversarial = _gradient(model, targets, wanted, ctx)
        poison = _gradient(model, poisons, torch.from_numpy(poisons.labels.copy()), ctx)
    model.train(was_training)
    norms = (inner(poison, poison) * inner(adversarial, adversarial)).sqrt()
    return float(inner(poison, adversarial) / norms) if norms > 0 else 0.0


def _gradient(model: torch.nn.Module, images: ImageSet, labels: torch.Tensor, ctx: Context) -> Gradient:
    """∇θ of the mean cross-entropy, a micro-batch at a time."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    size = ctx.runtime.micro_batch
    total: list[torch.Tensor] = [torch.zeros_like(parameter) for parameter in parameters]
    for start in range(0, len(images), size):
        logits = model(pixels(to_tensor(images.array[start : start + size], ctx.device)))
        loss = cross_entropy(logits, labels[start : start + size].to(ctx.device), reduction="sum") / len(images)
        total = [a + b for a, b in zip(total, torch.autograd.grad(loss, parameters), strict=True)]
    return total
