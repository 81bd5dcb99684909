"""What a training keeps so that it can go on within an epoch, bit for bit, on any number of workers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from stages.stage import Context
from stages.training.distributed import Saved, from_first


@dataclass
class History:
    """What a training leaves besides the network: one entry an epoch, and the watched images' logits."""

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    watched_epochs: list[int] = field(default_factory=list)
    watched_logits: list[torch.Tensor] = field(default_factory=list)
    """float16 [N, classes] each."""
    watched_heads: list[torch.Tensor] = field(default_factory=list)
    """The last layer's weights at the watched epochs, float32 [classes, d] each; empty where nobody asked for them."""
    alignment: list[float] = field(default_factory=list)
    """What an observer of the network said at the watched epochs; empty without one."""

    def curves(self) -> dict[str, Any]:
        """The JSON-ready part."""
        names = ("loss", "accuracy", "rate", "watched_epochs", *(("alignment",) if self.alignment else ()))
        return {name: getattr(self, name) for name in names}


@dataclass
class Place:
    """Where a training is: before batch number `batch` of an epoch.

    figures: float32 [2], the sum of the losses and the number of right answers in the epoch so far, over all workers.
    generators: the states of torch's generators there, empty at the beginning of an epoch, which seeds them.
    """

    epoch: int
    batch: int
    figures: torch.Tensor
    generators: dict[str, torch.Tensor] = field(default_factory=dict)


def generator_states(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of torch's global generators, from which dropout draws."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_generators(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """Put the generators where they were; what was kept on another kind of device is passed over."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def network_state(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """All tensors of a network and its optimizer, named for `restore_network`."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in state.items()}
    return tensors


def restore_network(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Put a network and its optimizer where a `network_state` was, among whatever other tensors."""
    model.load_state_dict(_under("model.", tensors))
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in _under("optimizer.", tensors).items():
        number, entry = name.split(".", 1)
        state.setdefault(int(number), {})[entry] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def save(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, history: History, place: Place, ctx: Context
) -> None:
    """Keep everything that `resume` needs."""
    tensors = network_state(model, optimizer)
    tensors |= {f"watched.{number}": logits for number, logits in enumerate(history.watched_logits)}
    tensors |= {f"head.{number}": weights for number, weights in enumerate(history.watched_heads)}
    tensors |= {f"generator.{name}": state for name, state in place.generators.items()}
    tensors["figures"] = place.figures
    ctx.save(tensors, {"epoch": place.epoch, "batch": place.batch, "history": history.curves()})


def resume(model: torch.nn.Module, optimizer: torch.optim.Optimizer, ctx: Context) -> tuple[History, Place]:
    """The history so far and where to go on; (empty, the beginning) where there is no checkpoint."""
    saved: Saved | None = from_first(ctx.checkpoint.load() if ctx.worker.rank == 0 else None, ctx)
    if saved is None:
        return History(), Place(0, 0, torch.zeros(2, device=ctx.device))
    tensors, facts = saved
    restore_network(model, optimizer, tensors)
    history = History(**facts["history"])
    history.watched_logits = [tensors[f"watched.{number}"] for number in range(len(history.watched_epochs))]
    history.watched_heads = [tensors[f"head.{number}"] for number in range(len(_under("head.", tensors)))]
    figures = tensors["figures"].to(ctx.device)
    return history, Place(facts["epoch"], facts["batch"], figures, _under("generator.", tensors))
