"""One restart of Algorithm 1: from a start in the ball, M steps of signed Adam on B, averaged over the surrogates."""

import math
from collections.abc import Sequence

import numpy as np
import torch

from stages.brew.augment import Draw, adjoint, augment
from stages.brew.config import GradientMatching
from stages.brew.perturbation import Perturbation
from stages.brew.task import Brew, Task
from stages.brew.terms import Term, term_of
from stages.stage import Context, Saved
from stages.training.batches import pixels, to_array, to_tensor
from stages.training.loop import to_device
from stages.training.precision import precision

EVALUATION_DRAWS = 4
"""Draws of the augmentation over which the final B is averaged, the same before and after quantisation."""


def craft(
    task: Task,
    attack: GradientMatching,
    ctx: Context,
    evaluation_seed: int | None = None,
    start: Saved | None = None,
    until: int | None = None,
) -> Brew:
    """Brew poisons so that training on them steps towards the targets being called by their intended class (see
    `Loop`)."""
    surrogates, base = task.surrogates, task.base
    device, micro_batch = ctx.device, ctx.runtime.micro_batch
    with precision("float32", device):
        for model in surrogates:
            to_device(model, device).eval().requires_grad_(True)
        terms = [term_of(model, task, attack, ctx) for model in surrogates]
        perturbation = Perturbation(
            pixels(to_tensor(base.array, device)),
            torch.tensor(task.scale, device=device),
            attack,
            ctx.torch_rng("start") if attack.start == "random" else None,
        )
        end = attack.steps if until is None else until
        losses = _resume(perturbation, ctx.checkpoint.load() or start)
        for step in range(len(losses), end):
            draw = _draw(attack, len(base), ctx.torch_rng("augment", step))
            inputs = _augmented(perturbation.poisons, draw, micro_batch)
            gradient, loss = torch.zeros_like(inputs), 0.0
            for number, term in enumerate(terms):
                value, part = term.derivative(inputs, ctx.torch_rng("noise", step, number))
                _check_finite(value, step, term)
                gradient += part
                loss += value / len(terms)
            perturbation.step(_carried_back(gradient, draw, micro_batch))
            losses.append(loss)
            if ctx.save_due():
                ctx.save(perturbation.state(), {"losses": losses})
            ctx.progress(step + 1, end, B=loss)

        drawn = ctx if evaluation_seed is None else ctx.seeded(evaluation_seed)

        def final(poisons: torch.Tensor) -> float:
            return _mean_loss(terms, poisons, attack, drawn)

        quantised = perturbation.quantised()
        return Brew(
            images=to_array(quantised),
            losses=losses,
            loss_before=final(perturbation.poisons) if end == attack.steps else None,
            loss=final(pixels(quantised)),
            state=perturbation.state(),
        )


def _check_finite(value: float, step: int, term: Term) -> None:
    if not math.isfinite(value):
        raise FloatingPointError(f"B is {value} at step {step + 1}: {term.not_finite}")


def _draw(attack: GradientMatching, count: int, generator: torch.Generator) -> Draw | None:
    return None if attack.augmentation is None else Draw.random(attack.augmentation, count, generator)


def _mean_loss(terms: Sequence[Term], poisons: torch.Tensor, attack: GradientMatching, ctx: Context) -> float:
    """B averaged over the surrogates and over fixed draws of the augmentation and of what else is random."""
    values = []
    for number in range(EVALUATION_DRAWS if attack.augmentation is not None else 1):
        draw = _draw(attack, len(poisons), ctx.torch_rng("evaluate", number))
        inputs = _augmented(poisons, draw, ctx.runtime.micro_batch)
        for member, term in enumerate(terms):
            values.append(term.value(inputs, ctx.torch_rng("evaluate noise", number, member)))
    return float(np.mean(values))


def _augmented(images: torch.Tensor, draw: Draw | None, micro_batch: int) -> torch.Tensor:
    if draw is None:
        return images
    parts = [slice(start, start + micro_batch) for start in range(0, len(images), micro_batch)]
    return torch.cat([augment(images[part], draw.of(part)) for part in parts])


def _carried_back(gradient: torch.Tensor, draw: Draw | None, micro_batch: int) -> torch.Tensor:
    if draw is None:
        return gradient
    parts = [slice(start, start + micro_batch) for start in range(0, len(gradient), micro_batch)]
    return torch.cat([adjoint(gradient[part], draw.of(part)) for part in parts])


def _resume(perturbation: Perturbation, saved: Saved | None) -> list[float]:
    """Put back what was saved, if anything was, and give the losses up to it."""
    if saved is None:
        return []
    tensors, facts = saved
    perturbation.restore(tensors)
    return list(facts["losses"])
