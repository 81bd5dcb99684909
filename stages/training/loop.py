"""The one training loop, which surrogates and victims share. It knows nothing of any attack."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from stages.data.images import ImageSet
from stages.stage import Context, derive_seed
from stages.training.batches import Batches, pixels, to_tensor
from stages.training.config import Training
from stages.training.precision import precision
from stages.training.schedule import rate_factor

CHECKPOINT_SECONDS = 30.0
"""A training keeps a checkpoint at the first end of an epoch after so many seconds."""


@dataclass
class History:
    """What a training leaves besides the network: one entry an epoch, and the watched images' logits."""

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    watched_epochs: list[int] = field(default_factory=list)
    watched_logits: list[torch.Tensor] = field(default_factory=list)
    """float16 [N, classes] each."""

    def curves(self) -> dict[str, Any]:
        """The JSON-ready part."""
        names = ("loss", "accuracy", "rate", "watched_epochs")
        return {name: getattr(self, name) for name in names}


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
) -> History:
    """Train `model` in place and return the history; resumes from `ctx.checkpoint` where there is one.

    stop_after: end after so many epochs of the same schedule (staggered ensembles).
    watch: images whose logits are kept every `watch_every` epochs and at the end; they never touch the training.
    """
    device = ctx.device
    to_device(model, device)
    optimizer = _optimizer(model, training, learning_rate)
    threads = max(1, int(ctx.runtime.cpus))
    batches = Batches(images, training.batch_size, training.augmentation, device, threads=threads)
    epochs = training.epochs if stop_after is None else min(stop_after, training.epochs)
    history, first = _resume(model, optimizer, ctx)
    saved = time.monotonic()
    for epoch in range(first, epochs):
        model.train()
        losses, correct = torch.zeros((), device=device), torch.zeros((), device=device)
        with _seeded(derive_seed(ctx.seed, "dropout", epoch), device):
            for number, (images_of_batch, labels, _) in enumerate(batches.epoch(ctx.rng("epoch", epoch))):
                rate = learning_rate * rate_factor(training.schedule, epoch + number / len(batches), training.epochs)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                with precision(training.precision, device):
                    logits = model(pixels(images_of_batch))
                    loss = cross_entropy(logits, labels)
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                optimizer.step()
                losses += loss.detach() * len(labels)
                correct += (logits.detach().argmax(1) == labels).sum()
        history.loss.append(losses.item() / len(images))
        history.accuracy.append(correct.item() / len(images))
        history.rate.append(rate)
        if not np.isfinite(history.loss[-1]):
            raise FloatingPointError(
                f"the training loss is {history.loss[-1]} after epoch {epoch + 1}; "
                f"lower training.learning_rate (it is {learning_rate})"
            )
        if watch is not None and ((epoch + 1) % watch_every == 0 or epoch + 1 == epochs):
            history.watched_epochs.append(epoch + 1)
            history.watched_logits.append(predict(model, watch, ctx).half())
        if time.monotonic() - saved > CHECKPOINT_SECONDS and epoch + 1 < epochs:
            _save(model, optimizer, history, epoch + 1, ctx)
            saved = time.monotonic()
        ctx.progress(epoch + 1, epochs, loss=history.loss[-1], accuracy=history.accuracy[-1])
    return history


def to_device(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """The network on the device, in the memory order in which images come (channels last)."""
    return model.to(device=device).to(memory_format=torch.channels_last)


@torch.no_grad()
def predict(model: torch.nn.Module, images: ImageSet, ctx: Context) -> torch.Tensor:
    """Logits of all images in evaluation mode, float32 [N, classes] on the CPU."""
    model.eval()
    rows = range(0, len(images), ctx.runtime.micro_batch)
    parts = (images.images[start : start + ctx.runtime.micro_batch] for start in rows)
    with precision("float32", ctx.device):
        return torch.cat([model(pixels(to_tensor(part, ctx.device))).float().cpu() for part in parts])


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's global generators, from which dropout draws, seeded for one block and put back after it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield


def _optimizer(model: torch.nn.Module, training: Training, learning_rate: float) -> torch.optim.Optimizer:
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


def _save(model: torch.nn.Module, optimizer: torch.optim.Optimizer, history: History, epoch: int, ctx: Context) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in state.items()}
    tensors |= {f"watched.{number}": logits for number, logits in enumerate(history.watched_logits)}
    ctx.checkpoint.save(tensors, {"epoch": epoch, "history": history.curves()})


def _resume(model: torch.nn.Module, optimizer: torch.optim.Optimizer, ctx: Context) -> tuple[History, int]:
    """The history so far and the epoch to go on with; (empty, 0) where there is no checkpoint."""
    saved = ctx.checkpoint.load()
    if saved is None:
        return History(), 0
    tensors, facts = saved
    model.load_state_dict({name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")})
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, entry = name.split(".", 2)
            state.setdefault(int(number), {})[entry] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    history = History(**facts["history"])
    history.watched_logits = [tensors[f"watched.{number}"] for number in range(len(history.watched_epochs))]
    return history, facts["epoch"]
