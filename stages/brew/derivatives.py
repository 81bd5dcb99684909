"""The mixed derivative d/dx of B(∇θ L(x; θ)): two ways to the same gradient.

With v = ∂B/∂g held fixed, d/dx B(g(x)) = ∇x ⟨v, ∇θ L(x; θ)⟩: a product of the mixed second derivative of L with v.

- `double_backward` differentiates through ∇θ L. Exact; the reference.
- `finite_difference` takes the same product as a difference of first derivatives, (∇x L(x; θ + h·v) - ∇x L(x; θ - h·v))
  / 2h. Plain forward and backward passes only, and the memory of plain training.

Both see the poisons in micro-batches whose size changes the memory and not the result: g is the gradient over the
whole poison set. Both take the network as it is (evaluation mode, gradients on) and leave it bit for bit as it was.
θ are the parameters that require a gradient: one that does not takes no part.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from stages.brew.config import Derivative, DoubleBackward, FiniteDifference
from stages.brew.objectives import Gradient, inner
from stages.data.images import ImageSet
from stages.stage import Context
from stages.training.batches import pixels, to_tensor

Matching = Callable[[Gradient], torch.Tensor]
"""B as a function of the poison gradient alone."""


def matched(model: torch.nn.Module) -> list[torch.Tensor]:
    """θ: the parameters by which the loss is differentiated, in the network's order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def mixed_derivative(
    how: Derivative,
    model: torch.nn.Module,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    matching: Matching,
    micro_batch: int,
) -> tuple[float, torch.Tensor]:
    """B and dB/dx. inputs: float [P, C, H, W]; labels: int64 [P]; returns (B, [P, C, H, W])."""
    if isinstance(how, DoubleBackward):
        return double_backward(model, inputs, labels, matching, micro_batch)
    return finite_difference(model, inputs, labels, matching, micro_batch, how)


def poison_gradient(
    model: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor, micro_batch: int
) -> list[torch.Tensor]:
    """g = ∇θ of the mean cross-entropy over all inputs, one tensor a parameter."""
    gradient, _ = _first_pass(model, inputs, labels, micro_batch, with_inputs=False)
    return gradient


def gradient_over(
    model: torch.nn.Module, images: ImageSet, ctx: Context, labels: np.ndarray | None = None
) -> list[torch.Tensor]:
    """∇θ of the mean cross-entropy over images as they are, read a micro-batch at a time; one tensor a parameter.

    labels: int64 [N]; null takes the images' own.  Takes the network as it is, on the context's device.
    """
    parameters = matched(model)
    wanted = torch.from_numpy((images.labels if labels is None else labels).copy()).to(ctx.device)
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for part in parts(len(images), ctx.runtime.micro_batch):
        logits = model(pixels(to_tensor(images.images[part], ctx.device)))
        loss = cross_entropy(logits, wanted[part], reduction="sum") / len(images)
        torch._foreach_add_(total, torch.autograd.grad(loss, parameters))
    return total


def double_backward(
    model: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor, matching: Matching, micro_batch: int
) -> tuple[float, torch.Tensor]:
    """The exact derivative: one graph where all poisons fit into one micro-batch, else g first, then a graph a part."""
    parameters = matched(model)
    if len(inputs) <= micro_batch:
        x = inputs.detach().requires_grad_()
        gradient = torch.autograd.grad(cross_entropy(model(x), labels), parameters, create_graph=True)
        value = matching(gradient)
        (derivative,) = torch.autograd.grad(value, x)
        return value.item(), derivative
    value, v = _direction(matching, poison_gradient(model, inputs, labels, micro_batch))
    derivative = torch.empty_like(inputs)
    for part in parts(len(inputs), micro_batch):
        x = inputs[part].detach().requires_grad_()
        loss = cross_entropy(model(x), labels[part], reduction="sum") / len(inputs)
        gradient = torch.autograd.grad(loss, parameters, create_graph=True)
        (derivative[part],) = torch.autograd.grad(inner(gradient, v), x)
    return value.item(), derivative


def finite_difference(
    model: torch.nn.Module,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    matching: Matching,
    micro_batch: int,
    how: FiniteDifference,
) -> tuple[float, torch.Tensor]:
    """The derivative by a step of length h_rel·|θ| along v, two-sided (error O(h²)) or one-sided (O(h))."""
    parameters = matched(model)
    gradient, at_centre = _first_pass(model, inputs, labels, micro_batch, with_inputs=how.sides == 1)
    value, v = _direction(matching, gradient)
    length = inner(v, v).sqrt()
    if not length > 0:
        return value.item(), torch.zeros_like(inputs)
    with torch.no_grad():
        kept = [parameter.detach().clone() for parameter in parameters]
        h = (how.h_rel * inner(kept, kept).sqrt() / length).item()
    try:
        _shift(parameters, kept, v, h)
        derivative = _input_gradient(model, inputs, labels, micro_batch)
        if how.sides == 1:
            derivative.sub_(at_centre).div_(h)
        else:
            _shift(parameters, kept, v, -h)
            derivative.sub_(_input_gradient(model, inputs, labels, micro_batch)).div_(2 * h)
    finally:
        _shift(parameters, kept, v, 0.0)
    return value.item(), derivative


def parts(total: int, size: int) -> Iterator[slice]:
    """The micro-batches, at most `size` each, of so many images."""
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def _direction(matching: Matching, gradient: Gradient) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """B and v = ∂B/∂g."""
    leaves = [tensor.detach().requires_grad_() for tensor in gradient]
    value = matching(leaves)
    return value.detach(), list(torch.autograd.grad(value, leaves))


def _shift(parameters: list[torch.Tensor], kept: list[torch.Tensor], v: list[torch.Tensor], h: float) -> None:
    """θ ← kept + h·v, from the kept copy each time, so that h = 0 restores every bit."""
    with torch.no_grad():
        torch._foreach_copy_(parameters, kept)
        if h:
            torch._foreach_add_(parameters, v, alpha=h)


def _first_pass(
    model: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor, micro_batch: int, *, with_inputs: bool
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """(∇θ L, ∇x L or an empty tensor) over the whole set."""
    parameters = matched(model)
    total: list[torch.Tensor] = []
    of_inputs = torch.empty_like(inputs) if with_inputs else inputs.new_empty(0)
    for part in parts(len(inputs), micro_batch):
        x = inputs[part].detach().requires_grad_(with_inputs)
        loss = cross_entropy(model(x), labels[part], reduction="sum") / len(inputs)
        gradient = torch.autograd.grad(loss, [*parameters, x] if with_inputs else parameters)
        if with_inputs:
            of_inputs[part] = gradient[-1]
            gradient = gradient[:-1]
        if total:
            torch._foreach_add_(total, gradient)
        else:
            total = list(gradient)
    return total, of_inputs


def _input_gradient(
    model: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor, micro_batch: int
) -> torch.Tensor:
    """∇x L at the network's present parameters: [P, C, H, W]. Computes no gradient of the weights."""
    gradient = torch.empty_like(inputs)
    for part in parts(len(inputs), micro_batch):
        x = inputs[part].detach().requires_grad_()
        loss = cross_entropy(model(x), labels[part], reduction="sum") / len(inputs)
        (gradient[part],) = torch.autograd.grad(loss, x)
    return gradient
