"""The one training loop, which surrogates and victims share. It knows nothing of any attack."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from stages.data.images import ImageSet
from stages.models.classifier import Classifier
from stages.stage import Context, derive_seed
from stages.training import layers
from stages.training.batch_norm import Part
from stages.training.batches import Batch, Batches, pixels, to_tensor
from stages.training.config import Training
from stages.training.distributed import gathered, parallel, share, summed
from stages.training.precision import precision
from stages.training.resume import History, Place, generator_states, restore_generators, resume, save
from stages.training.schedule import rate_factor

MOST_KNOWN = 2**28
"""Most numbers that features are kept as, 1 GiB: of more, images go through a frozen body anew in each epoch."""


def train(
    model: torch.nn.Module,
    images: ImageSet,
    training: Training,
    learning_rate: float,
    ctx: Context,
    *,
    stop_after: int | None = None,
    watch: ImageSet | None = None,
    watch_every: int = 1,
    watch_head: bool = False,
    observe: Callable[[torch.nn.Module], float] | None = None,
) -> History:
    """Train `model` in place and return the history; resumes from `ctx.checkpoint` where there is one.

    stop_after: end after so many epochs of the same schedule (staggered ensembles).
    watch: images whose logits are kept every `watch_every` epochs and at the end; they never touch the training.
    watch_head: whether the weights of the last layer, `model.head`, are kept at those epochs too.
    observe: says something of the network at those epochs, and leaves it as it is (see `gradient_alignment`).
    Several workers (`ctx.worker`) call it at once, and all get the same network and history.
    """
    device, groups = ctx.device, training.batch_norm_groups
    to_device(model, device)
    optimizer = optimizer_of(model, training, learning_rate)
    threads = max(1, int(ctx.runtime.cpus))
    batches = Batches(
        images, training.batch_size, training.augmentation, device, threads=threads, worker=ctx.worker, groups=groups
    )
    epochs = training.epochs if stop_after is None else min(stop_after, training.epochs)
    history, place = resume(model, optimizer, ctx)
    part = Part(ctx.worker, groups)
    with layers.of_part(model, part):
        step = _step(model, optimizer, training, part, ctx, _known_features(model, images, training, ctx))
        while place.epoch < epochs:
            epoch = place.epoch
            model.train()
            with seeded(derive_seed(ctx.seed, "dropout", epoch), device):
                restore_generators(place.generators, device)
                for number, batch in enumerate(batches.epoch(ctx.rng("epoch", epoch), place.batch), place.batch):
                    rate = learning_rate * rate_factor(
                        training.schedule, epoch + number / len(batches), training.epochs
                    )
                    place.figures = place.figures + step(batch, rate)
                    if number + 1 < len(batches) and ctx.save_due():
                        here = Place(epoch, number + 1, place.figures, generator_states(device))
                        save(model, optimizer, history, here, ctx)
            loss, correct = place.figures.tolist()
            history.loss.append(loss / len(images))
            history.accuracy.append(correct / len(images))
            history.rate.append(rate)
            if not np.isfinite(history.loss[-1]):
                raise FloatingPointError(
                    f"the training loss is {history.loss[-1]} after epoch {epoch + 1}; "
                    f"lower training.learning_rate (it is {learning_rate})"
                )
            if watch is not None and ((epoch + 1) % watch_every == 0 or epoch + 1 == epochs):
                history.watched_epochs.append(epoch + 1)
                history.watched_logits.append(predict(model, watch, ctx).half())
                if watch_head:
                    history.watched_heads.append(model.get_parameter("head.weight").detach().float().cpu().clone())
                if observe is not None:
                    history.alignment.append(observe(model))
            place = Place(epoch + 1, 0, torch.zeros_like(place.figures))
            if place.epoch < epochs and ctx.save_due():
                save(model, optimizer, history, place, ctx)
            ctx.progress(epoch + 1, epochs, loss=history.loss[-1], accuracy=history.accuracy[-1])
    return history


def _known_features(
    model: torch.nn.Module, images: ImageSet, training: Training, ctx: Context
) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """The features of images by their ids, worked out once, where training does not move them and they have room."""
    if not (isinstance(model, Classifier) and model.frozen and training.augmentation.none):
        return None
    if len(images) * model.head.in_features > MOST_KNOWN:
        return None
    features = _passed(model.eval().features, images, ctx).to(ctx.device)
    rows = torch.zeros(int(images.ids.max()) + 1, dtype=torch.int64, device=ctx.device)
    rows[torch.from_numpy(images.ids.copy()).to(ctx.device)] = torch.arange(len(images), device=ctx.device)
    return lambda ids: features[rows[ids]]


def _step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    training: Training,
    part: Part,
    ctx: Context,
    known: Callable[[torch.Tensor], torch.Tensor] | None,
) -> Callable[[Batch, float], torch.Tensor]:
    """One step of the optimizer as a function of the batch and the rate; gives (sum of the losses, right answers) over
    all workers. known: features by ids, which take the place of the images, and the head that of the network."""
    device, workers = ctx.device, ctx.worker.count
    trained = model if known is None else model.get_submodule("head")
    network, averaged = parallel(trained, ctx), layers.unequal_buffers(model, part)

    def step(batch: Batch, rate: float) -> torch.Tensor:
        part.total = batch.total
        for group in optimizer.param_groups:
            group["lr"] = rate
        with precision(training.precision, device):
            logits = network(pixels(batch.images) if known is None else known(batch.ids))
            if workers == 1:
                loss = cross_entropy(logits, batch.labels)
                total = loss.detach() * batch.total
            else:
                # The gradients become the mean over the workers, whose parts of the batch may differ in size.
                total = cross_entropy(logits, batch.labels, reduction="sum")
                loss, total = total * (workers / batch.total), total.detach()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
        optimizer.step()
        correct = (logits.detach().argmax(1) == batch.labels).sum()
        return summed(torch.stack([total.float(), correct.float()]), averaged, ctx)

    return step


def to_device(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """The network on the device, in the memory order in which images come (channels last)."""
    return model.to(device=device).to(memory_format=torch.channels_last)


def predict(model: torch.nn.Module, images: ImageSet, ctx: Context) -> torch.Tensor:
    """Logits of all images in evaluation mode, float32 [N, classes] on the CPU; several workers share the images."""
    return _passed(model.eval(), images, ctx)


@torch.no_grad()
def _passed(network: Callable[[torch.Tensor], torch.Tensor], images: ImageSet, ctx: Context) -> torch.Tensor:
    """What a network makes of all images, float32 [N, …] on the CPU; several workers share the images."""
    shared = len(images) >= ctx.worker.count
    rows, size = share(len(images), ctx) if shared else range(len(images)), ctx.runtime.micro_batch
    parts = (images.images[start : min(start + size, rows.stop)] for start in rows[::size])
    with precision("float32", ctx.device):
        mine = torch.cat([network(pixels(to_tensor(part, ctx.device))).float().cpu() for part in parts])
    return gathered(mine, len(images), ctx) if shared else mine


def accuracy(model: torch.nn.Module, images: ImageSet, ctx: Context) -> float:
    """The part of the images that the network calls right, in [0, 1]."""
    return float((predict(model, images, ctx).argmax(1).numpy() == images.labels).mean())


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's global generators, from which dropout draws, seeded for one block and put back after it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield


def optimizer_of(model: torch.nn.Module, training: Training, learning_rate: float) -> torch.optim.Optimizer:
    """The optimizer that a training asks for, before its first step."""
    if training.optimizer == "adam":
        betas = (training.momentum, 0.999)
        return torch.optim.Adam(model.parameters(), learning_rate, betas, weight_decay=training.weight_decay)
    return torch.optim.SGD(
        model.parameters(),
        learning_rate,
        momentum=training.momentum,
        nesterov=training.nesterov,
        weight_decay=training.weight_decay,
    )
