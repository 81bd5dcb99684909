"""Total gradient descent ascent, which Gradient Canceling is held against: poisons that go up the loss of the network
that is trained on them meanwhile (Lu, Kamath & Yu 2022)."""

import math
from collections.abc import Callable

import torch

from stages.brew.cancel.config import TotalGradientAscent
from stages.brew.cancel.craft import clean_gradient
from stages.brew.cancel.descent import Descent
from stages.brew.derivatives import Matching, gradient_over, mixed_derivative, poison_gradient
from stages.brew.objectives import Gradient, inner
from stages.brew.task import Brew
from stages.data.images import ImageSet
from stages.stage import Context
from stages.training.batches import pixels, to_array, to_tensor
from stages.training.loop import to_device
from stages.training.precision import precision

H_REL = 1e-2
"""The step of the finite difference that a product with the Hessian is, in parts of the parameters' length."""


def craft(model: torch.nn.Module, train: ImageSet, base: ImageSet, attack: TotalGradientAscent, ctx: Context) -> Brew:
    """Poisons of the leader; `model`, the follower, begins as it is and is left where its training has come to.

    train: all clean images, whose loss the leader raises.  base: those of them where the poisons begin, whose labels
    they keep. B is less the length of the gradient of that loss, which the leader works with. Resumes from
    `ctx.checkpoint`.
    """
    device, micro_batch = ctx.device, ctx.runtime.micro_batch
    with precision("float32", device):
        to_device(model, device).eval().requires_grad_(True)
        parameters: list[torch.Tensor] = list(model.parameters())
        labels = torch.from_numpy(base.labels.copy()).to(device)
        descent = Descent(pixels(to_tensor(base.array, device)), attack, (0.0, 1.0))
        losses: list[float] = []
        if (saved := ctx.checkpoint.load()) is not None:
            descent.restore(saved[0])
            losses = list(saved[1]["losses"])
            _put(parameters, [saved[0][f"follower.{n}"].to(device) for n in range(len(parameters))])

        def trained_on() -> Gradient:
            clean, eps_d = clean_gradient(model, train, base, attack, ctx)
            poisons = poison_gradient(model, descent.poisons, labels, micro_batch)
            return [(a + eps_d * b) / (1 + eps_d) for a, b in zip(clean, poisons, strict=True)]

        def state() -> dict[str, torch.Tensor]:
            return {**descent.state(), **{f"follower.{n}": tensor for n, tensor in enumerate(parameters)}}

        for step in range(len(losses), attack.steps):
            for _ in range(attack.follower_steps):
                _put(parameters, [a - attack.follower_rate * b for a, b in zip(parameters, trained_on(), strict=True)])
            raised = gradient_over(model, train, ctx)
            v = solved(trained_on, parameters, raised, attack.damping, attack.iterations)
            _, gradient = mixed_derivative(attack.derivative, model, descent.poisons, labels, along(v), micro_batch)
            descent.step(gradient, step)
            losses.append(-inner(raised, raised).sqrt().item())
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(f"the follower diverged at step {step + 1}; lower attack.follower_rate")
            if ctx.save_due():
                ctx.save(state(), {"losses": losses})
            ctx.progress(step + 1, attack.steps, B=losses[-1])
        quantised = to_array(descent.quantised())
        return Brew(quantised, losses, losses[-1], losses[-1], state())


def along(v: Gradient) -> Matching:
    """⟨v, g⟩. With v = (∇²f)⁻¹ ∇ℓ, its derivative by the poisons is less the total derivative of ℓ at the network that
    f trains, up to the poisons' part in f (Lu et al. 2022, equation 5)."""

    def matching(gradient: Gradient) -> torch.Tensor:
        return inner(v, gradient)

    return matching


def solved(
    gradient_of: Callable[[], Gradient],
    parameters: list[torch.Tensor],
    wanted: Gradient,
    damping: float,
    iterations: int,
) -> list[torch.Tensor]:
    """v with (∇²f + damping) v = wanted, by conjugate gradients.

    gradient_of: ∇f at what `parameters` hold, of which products with the Hessian are two-sided finite differences, so
    that first derivatives are enough; the parameters are left as they were. Ends early where v is exact.
    """
    kept = [parameter.detach().clone() for parameter in parameters]
    length = inner(kept, kept).sqrt()

    def product(v: Gradient) -> list[torch.Tensor]:
        h = (H_REL * length / inner(v, v).sqrt()).item()
        ends = []
        for sign in (1, -1):
            _put(parameters, [a + sign * h * b for a, b in zip(kept, v, strict=True)])
            ends.append(gradient_of())
        _put(parameters, kept)
        return [(a - b) / (2 * h) + damping * c for a, b, c in zip(*ends, v, strict=True)]

    found = [torch.zeros_like(tensor) for tensor in wanted]
    residual = [tensor.clone() for tensor in wanted]
    direction, square = residual, inner(residual, residual)
    for _ in range(iterations):
        if not square > 0:
            break
        pushed = product(direction)
        curvature = inner(direction, pushed)
        if not curvature > 0:
            break  # the Hessian is not definite here; what was found so far goes up
        rate = square / curvature
        found = [a + rate * b for a, b in zip(found, direction, strict=True)]
        residual = [a - rate * b for a, b in zip(residual, pushed, strict=True)]
        before, square = square, inner(residual, residual)
        direction = [a + square / before * b for a, b in zip(residual, direction, strict=True)]
    return found


def _put(parameters: list[torch.Tensor], values: Gradient) -> None:
    with torch.no_grad():
        torch._foreach_copy_(parameters, list(values))
