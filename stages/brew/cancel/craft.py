"""Gradient Canceling on images: what the clean images' gradient at the target parameters is, and the poisons that leave
nothing of it (Lu, Kamath & Yu 2023, Algorithm 1)."""

import math

import torch

from stages.brew.cancel.config import GradientCanceling, Poisoning
from stages.brew.cancel.descent import Descent, cancelling, opposing
from stages.brew.derivatives import gradient_over, mixed_derivative, poison_gradient
from stages.brew.objectives import Gradient, inner
from stages.brew.task import Brew
from stages.data.images import ImageSet
from stages.stage import Context
from stages.training.batches import pixels, to_array, to_tensor
from stages.training.loop import to_device
from stages.training.precision import precision


def craft(model: torch.nn.Module, train: ImageSet, base: ImageSet, attack: GradientCanceling, ctx: Context) -> Brew:
    """Poisons for the target parameters, those of `model`.

    Gradients are those of the network in evaluation mode; with batch normalisation training sees others, so that what
    is left of the gradient here says less of where training ends.

    train: all clean images.  base: those of them where the poisons begin, whose labels they keep.
    Resumes from `ctx.checkpoint`. Raises ArithmeticError where the clean images have no gradient to cancel.
    """
    device, micro_batch = ctx.device, ctx.runtime.micro_batch
    with precision("float32", device):
        to_device(model, device).eval().requires_grad_(True)
        clean, eps_d = clean_gradient(model, train, base, attack, ctx)
        if not inner(clean, clean) > 0:
            raise ArithmeticError(
                "the clean images have no gradient at the target parameters: nothing is to be cancelled"
            )
        cancels = attack.objective == "cancel"
        matching = cancelling(clean, eps_d) if cancels else opposing(clean)
        labels = torch.from_numpy(base.labels.copy()).to(device)
        start = pixels(to_tensor(base.array, device))
        descent = Descent(start, attack, (0.0, 1.0), 1 / eps_d**2 if cancels else 1.0)
        losses: list[float] = []
        if (saved := ctx.checkpoint.load()) is not None:
            descent.restore(saved[0])
            losses = list(saved[1]["losses"])
        for step in range(len(losses), attack.steps):
            B, gradient = mixed_derivative(attack.derivative, model, descent.poisons, labels, matching, micro_batch)
            if not math.isfinite(B):
                raise FloatingPointError(f"B is {B} at step {step + 1}; lower attack.learning_rate")
            descent.step(gradient, step)
            losses.append(B)
            if ctx.save_due():
                ctx.save(descent.state(), {"losses": losses})
            ctx.progress(step + 1, attack.steps, B=B)

        def final(poisons: torch.Tensor) -> float:
            return matching(poison_gradient(model, poisons, labels, micro_batch)).item()

        quantised = descent.quantised()
        return Brew(
            images=to_array(quantised),
            losses=losses,
            loss_before=final(descent.poisons),
            loss=final(pixels(quantised)),
            state=descent.state(),
        )


def clean_gradient(
    model: torch.nn.Module, train: ImageSet, base: ImageSet, attack: Poisoning, ctx: Context
) -> tuple[Gradient, float]:
    """(g(mu), eps_d) of the clean images that are trained on: all, or without those that poisons replace."""
    N, P = len(train), len(base)
    clean = gradient_over(model, train, ctx)
    if attack.mode == "add":
        return clean, P / N
    gone = gradient_over(model, base, ctx)
    return [(N * a - P * b) / (N - P) for a, b in zip(clean, gone, strict=True)], P / (N - P)


def left_over(
    model: torch.nn.Module, train: ImageSet, base: ImageSet, poisons: ImageSet, attack: Poisoning, ctx: Context
) -> float:
    """‖g(mu) + eps_d g(nu)‖ / ‖g(mu)‖: how much of the clean gradient is left with these poisons."""
    with precision("float32", ctx.device):
        to_device(model, ctx.device).eval()
        clean, eps_d = clean_gradient(model, train, base, attack, ctx)
        rest = [a + eps_d * b for a, b in zip(clean, gradient_over(model, poisons, ctx), strict=True)]
        return (inner(rest, rest) / inner(clean, clean)).sqrt().item()
