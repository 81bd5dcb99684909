"""Target parameters: those of a clean network, corrupted within a ball around them until it classifies badly."""

import torch

from stages.brew.cancel.config import Corruption
from stages.brew.derivatives import gradient_over
from stages.brew.objectives import inner
from stages.data.images import ImageSet
from stages.stage import Context


def corrupt(model: torch.nn.Module, images: ImageSet, corruption: Corruption, ctx: Context) -> float:
    """Move the parameters of `model`, in place; gives ‖w - w0‖ / ‖w0‖, before the scaling.

    Ascent on the loss over the images with steps of one length, projected into the ball after each, or one step of the
    ball's radius in a direction drawn evenly (Sun et al. 2020, the multi-step and the random parameter corruption).
    Raises ArithmeticError where the loss has no gradient to go up.
    """
    parameters: list[torch.Tensor] = list(model.parameters())
    start = [parameter.detach().clone() for parameter in parameters]
    radius = corruption.eps_w * inner(start, start).sqrt()
    moved = [torch.zeros_like(parameter) for parameter in start]
    steps = corruption.steps if corruption.kind == "gradient" else 1
    for step in range(steps):
        direction = gradient_over(model, images, ctx) if corruption.kind == "gradient" else _drawn(start, ctx)
        norm = inner(direction, direction).sqrt()
        if not norm > 0:
            raise ArithmeticError(
                f"the loss over the train images has no gradient at step {step + 1} of the corruption, so there is no "
                "way up: the network is certain of every image; train it for fewer epochs, or use kind: random"
            )
        length = (2 * radius / steps if corruption.kind == "gradient" else radius) / norm
        torch._foreach_add_(moved, torch._foreach_mul(direction, length.item()))
        distance = inner(moved, moved).sqrt()
        if distance > radius:
            torch._foreach_mul_(moved, (radius / distance).item())
        with torch.no_grad():
            torch._foreach_copy_(parameters, torch._foreach_add(start, moved))
        ctx.progress(step + 1, steps)
    with torch.no_grad():
        torch._foreach_mul_(parameters, corruption.scale)
    return (inner(moved, moved) / inner(start, start)).sqrt().item()


def _drawn(like: list[torch.Tensor], ctx: Context) -> list[torch.Tensor]:
    generator = ctx.torch_rng("direction")
    return [torch.randn(tensor.shape, generator=generator).to(tensor) for tensor in like]
