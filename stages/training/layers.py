"""Layers that look at a whole batch, or that draw, made to do the same for any number of workers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torchvision.ops import StochasticDepth

from stages.training.batch_norm import BatchNorm, Part, normalise

DRAWING = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, StochasticDepth)
"""Layers that multiply their input by what they draw."""


@contextmanager
def of_part(model: nn.Module, part: Part) -> Iterator[None]:
    """Within the block `model` takes `part` of each batch, and does with it what it would in the whole.

    A single worker without groups runs torch's own layers as they are. Parameters and names stay in any case.
    """
    changed: list[nn.Module] = []
    try:
        for module in model.modules() if part.worker.count > 1 or part.groups > 1 else ():
            how: Callable[..., torch.Tensor] | None = None
            if isinstance(module, BatchNorm):
                how = normalise
            elif isinstance(module, DRAWING) and part.worker.count > 1:
                how = _drawn_for_all
            if how is not None:
                vars(module)["forward"] = partial(how, module, part)
                changed.append(module)
        yield
    finally:
        for module in changed:
            del vars(module)["forward"]


def unequal_buffers(model: nn.Module, part: Part) -> list[torch.Tensor]:
    """The running statistics, where a step moves them on each worker by its own groups only: none of a layer that is
    not in training mode."""
    if part.worker.count == 1 or not part.own:
        return []
    found = [module for module in model.modules() if isinstance(module, BatchNorm) and module.training]
    buffers = [buffer for module in found for buffer in (module.running_mean, module.running_var)]
    return [buffer for buffer in buffers if buffer is not None]


def _drawn_for_all(module: nn.Module, part: Part, images: torch.Tensor) -> torch.Tensor:
    """Every worker draws for the whole batch, from generators that stand at the same place, and takes its rows."""
    if not module.training:
        return type(module).forward(module, images)
    whole = torch.ones((part.total, *images.shape[1:]), dtype=images.dtype, device=images.device)
    if images.dim() == 4 and images.is_contiguous(memory_format=torch.channels_last):
        whole = whole.to(memory_format=torch.channels_last)
    drawn: torch.Tensor = type(module).forward(module, whole)
    return images * drawn[part.worker.rank :: part.worker.count]
