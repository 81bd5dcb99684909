"""One epoch of one of MetaPoison's networks: it trains, and at each batch with poisons looks ahead from where it is.

Each poison is in one batch of the epoch, and gets its gradient there: the poisons are changed once an epoch, not a
batch, so that all have had their turn (MetaPoison, section 2.3).
"""

from collections import deque
from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from stages.brew.augment import Draw, adjoint, augment
from stages.brew.meta.config import Lookahead
from stages.brew.meta.lookahead import Labelled, lookahead
from stages.brew.objectives import ADVERSARIAL_LOSSES
from stages.data.images import ImageSet
from stages.stage import Context, derive_seed
from stages.training import layers
from stages.training.batch_norm import Part
from stages.training.batches import Batch, Batches, pixels
from stages.training.config import Augmentation, Training
from stages.training.loop import seeded
from stages.training.precision import precision
from stages.training.resume import network_state, restore_network
from stages.training.schedule import rate_factor


class Poisons(NamedTuple):
    """The poisons as they stand. ids: int64 [P], of the train images they replace.  images: float [P, C, H, W] in
    [0, 1], on the device."""

    ids: np.ndarray
    images: torch.Tensor


class Seen(NamedTuple):
    """What an epoch gives. gradient: of the adversarial losses at the poisons, [P, C, H, W].  losses: the adversarial
    loss after each look-ahead.  train_loss: the mean cross-entropy that the network had on its way, in nats."""

    gradient: torch.Tensor
    losses: list[float]
    train_loss: float


def run_epoch(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    images: ImageSet,
    poisons: Poisons,
    targets: Labelled,
    how: Lookahead,
    training: Training,
    learning_rate: float,
    epoch: int,
    ctx: Context,
) -> Seen:
    """Train the network, which is on the device, in place for epoch number `epoch` of its training.

    images: the train split as it is; the poisons take their places.  learning_rate: at the beginning of the training,
    whose schedule holds.  Its order and crops are those that `loop.train` has in this epoch under the context's seed.
    Resumes from `ctx.checkpoint`.
    """
    device = ctx.device
    threads, groups = max(1, int(ctx.runtime.cpus)), training.batch_norm_groups
    batches = Batches(images, training.batch_size, training.augmentation, device, threads=threads, groups=groups)
    draw = _draw(training.augmentation, len(poisons.ids), ctx.torch_rng("augment", epoch))
    augmented = poisons.images if draw is None else augment(poisons.images, draw)
    place = torch.full((int(images.ids.max()) + 1,), -1, device=device)
    place[torch.from_numpy(poisons.ids).to(device)] = torch.arange(len(poisons.ids), device=device)
    gradient, losses, trained, begin = torch.zeros_like(augmented), list[float](), 0.0, 0
    if (saved := ctx.checkpoint.load()) is not None:
        restore_network(model, optimizer, saved[0])
        gradient = saved[0]["gradient"].to(device)
        losses, trained, begin = saved[1]["losses"], saved[1]["trained"], saved[1]["batch"]
    part = Part(ctx.worker, groups)
    with layers.of_part(model, part):
        for number, window in enumerate(_windows(batches, ctx, epoch, begin, how.unroll), begin):
            rate = learning_rate * rate_factor(training.schedule, epoch + number / len(batches), training.epochs)
            clean = window[0]
            own = place[clean.ids] >= 0
            poisoned = [_poisoned(batch, place, augmented) for batch in window] if own.any() else []
            if poisoned:
                alpha = how.learning_rate or rate
                with seeded(derive_seed(ctx.seed, "ahead", epoch, number), device), precision("float32", device):
                    loss, found = lookahead(
                        model, poisoned, own.nonzero()[:, 0], alpha, targets, ADVERSARIAL_LOSSES[how.adversarial_loss]
                    )
                gradient[place[clean.ids[own]]] = found
                losses.append(loss)
            taken = poisoned[0] if poisoned and how.trajectory == "poisoned" else _clean(clean)
            part.total = clean.total
            with seeded(derive_seed(ctx.seed, "step", epoch, number), device), precision(training.precision, device):
                trained += _step(model, optimizer, taken, rate) * clean.total
            if number + 1 < len(batches) and ctx.save_due():
                facts = {"losses": losses, "trained": trained, "batch": number + 1}
                ctx.save({**network_state(model, optimizer), "gradient": gradient}, facts)
            ctx.progress(number + 1, len(batches), **({"adversarial_loss": losses[-1]} if losses else {}))
    if not np.isfinite(trained) or not gradient.isfinite().all():
        raise FloatingPointError(
            f"the training loss or the gradient at the poisons is not finite in epoch {epoch + 1}; lower "
            f"training.learning_rate (it is {learning_rate}) or attack.learning_rate"
        )
    return Seen(gradient if draw is None else adjoint(gradient, draw), losses, trained / len(images))


def _step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: Labelled, rate: float) -> float:
    """One step of the training; gives the loss before it."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    model.train()
    loss = cross_entropy(model(batch.inputs), batch.labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.item()


def _windows(batches: Batches, ctx: Context, epoch: int, begin: int, size: int) -> Iterator[list[Batch]]:
    """Each batch of the epoch from number `begin` on, with those that come next; after the last the first again."""

    def all_batches() -> Iterator[Batch]:
        for lap in count():
            for batch in batches.epoch(ctx.rng("epoch", epoch), 0 if lap else begin):
                yield batch._replace(images=batch.images.clone())  # they share their memory with the next

    window: deque[Batch] = deque(maxlen=size)
    number = begin
    for batch in all_batches():
        window.append(batch)
        if len(window) == size:
            yield list(window)
            number += 1
            if number == len(batches):
                return


def _draw(augmentation: Augmentation, poisons: int, generator: torch.Generator) -> Draw | None:
    """The crops and flips of training for the poisons, which have to be differentiated through."""
    if not augmentation.pad and not augmentation.flip:
        return None
    shift = torch.randint(-augmentation.pad, augmentation.pad + 1, (poisons, 2), generator=generator).float()
    flip = torch.rand(poisons, generator=generator) < 0.5
    return Draw(shift, flip if augmentation.flip else torch.zeros_like(flip))


def _clean(batch: Batch) -> Labelled:
    return Labelled(pixels(batch.images), batch.labels)


def _poisoned(batch: Batch, place: torch.Tensor, poisons: torch.Tensor) -> Labelled:
    inputs, found = pixels(batch.images), place[batch.ids]
    inputs[found >= 0] = poisons[found[found >= 0]]
    return Labelled(inputs, batch.labels)
