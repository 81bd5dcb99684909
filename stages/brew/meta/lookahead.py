"""The gradient of the adversarial loss through K unrolled steps of SGD (MetaPoison, Algorithm 1, lines 7 to 10 and 15).

The steps θ_{k+1} = θ_k - α ∇L(θ_k; batch k) are gone back by hand. With λ_K = ∇L_adv(θ_K), each step takes
λ_k = λ_{k+1} - α H_k λ_{k+1}, with H_k the Hessian of the loss of batch k, and the first batch's images have the
gradient -α ∇x ⟨λ_1, ∇θ L(x; θ_0)⟩, the mixed derivative of gradient matching. That is what differentiation through all
steps at once gives, up to rounding; but the step that holds the poisons is gone back with these images alone.
(The authors' code takes the mean of the losses after each of the K steps, and holds the poisons fixed in the batches
after the first; Algorithm 1 does neither.)
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from stages.brew.objectives import AdversarialLoss, inner
from stages.training.batch_norm import BatchNorm
from stages.training.layers import DRAWING


class Labelled(NamedTuple):
    """inputs: float [B, C, H, W] in [0, 1].  labels: int64 [B]."""

    inputs: torch.Tensor
    labels: torch.Tensor


def lookahead(
    model: torch.nn.Module,
    batches: Sequence[Labelled],
    rows: torch.Tensor,
    rate: float,
    targets: Labelled,
    adversarial: AdversarialLoss,
) -> tuple[float, torch.Tensor]:
    """(the adversarial loss after a step on each batch, its gradient at some images of the first: [rows, C, H, W]).

    rows: int64, of the first batch, the poisons.  rate: α.  The network steps as in training and is asked about the
    targets as a victim is, in evaluation mode; it is left as it was. Batch normalisation's running statistics move in
    these steps too, but count as constants in the gradient, as everywhere in torch.
    """
    names = [name for name, _ in model.named_parameters()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    independent = _independent(model)

    def logits(weights: Sequence[torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = functional_call(model, {**dict(zip(names, weights, strict=True)), **buffers}, (inputs,))
        return found

    def slope(weights: Sequence[torch.Tensor], part: Labelled, size: int, graph: bool) -> tuple[torch.Tensor, ...]:
        """∇θ of the loss of a part of a batch of so many images."""
        loss = cross_entropy(logits(weights, part.inputs), part.labels, reduction="sum") / size
        return torch.autograd.grad(loss, weights, create_graph=graph)

    model.train()
    weights = [parameter.detach().requires_grad_() for parameter in model.parameters()]
    first, size = batches[0], len(batches[0].labels)
    poisons = first.inputs[rows].detach().requires_grad_()
    if not independent:
        first = Labelled(first.inputs.index_put((rows,), poisons), first.labels)
    path = []
    for number, batch in enumerate((first, *batches[1:])):
        gradient = slope(weights, batch, len(batch.labels), graph=number > 0 or not independent)
        path.append((weights, gradient))
        weights = [(w - rate * g).detach().requires_grad_() for w, g in zip(weights, gradient, strict=True)]
    model.eval()
    loss = adversarial(logits(weights, targets.inputs), targets.labels)
    adjoint = torch.autograd.grad(loss, weights)
    for earlier, gradient in reversed(path[1:]):
        product = torch.autograd.grad(inner(gradient, adjoint), earlier, materialize_grads=True)
        adjoint = tuple(a - rate * p for a, p in zip(adjoint, product, strict=True))
    model.train()
    weights, gradient = path[0]
    if independent:
        gradient = slope(weights, Labelled(poisons, batches[0].labels[rows]), size, graph=True)
    (found,) = torch.autograd.grad(inner(gradient, adjoint), poisons)
    return loss.item(), -rate * found


def _independent(model: torch.nn.Module) -> bool:
    """Whether what the network makes of an image depends on that image alone while it trains."""
    return not any(isinstance(module, (BatchNorm, *DRAWING)) for module in model.modules())
