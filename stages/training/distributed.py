"""What workers that train one network together say to each other, through torch.distributed.

Whoever starts them has set up torch's process group (gloo on CPUs, nccl on GPUs); a worker alone has none and says
nothing. Each has the rows rank, rank + count, … of every batch, and after each step all have the same network.
"""

import json
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import distributed, nn

from stages.stage import Context

Saved = tuple[dict[str, torch.Tensor], dict[str, Any]]
"""A checkpoint: tensors and JSON-ready facts."""


def parallel(model: nn.Module, ctx: Context) -> nn.Module:
    """`model` as each worker is to call it: gradients are then the mean over the workers."""
    if ctx.worker.count == 1:
        return model
    device = ctx.device
    devices = [device] if device.type == "cuda" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.15 has another name for it, and versions before do not
        # Buffers are made equal by `summed` and by batch normalisation itself: as means, not as those of rank 0.
        return nn.parallel.DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


def summed(figures: torch.Tensor, averaged: Sequence[torch.Tensor], ctx: Context) -> torch.Tensor:
    """`figures` (a float32 vector) added up over the workers; the tensors in `averaged` are replaced by their means."""
    if ctx.worker.count == 1:
        return figures
    everything = torch.cat([figures, *(tensor.flatten() for tensor in averaged)])
    distributed.all_reduce(everything)
    first, *means = everything.split([len(figures), *(tensor.numel() for tensor in averaged)])
    for tensor, mean in zip(averaged, means, strict=True):
        tensor.copy_(mean.view_as(tensor) / ctx.worker.count)
    return first


def from_first(saved: Saved | None, ctx: Context) -> Saved | None:
    """What the worker of rank 0 gives, on all: nobody begins from another checkpoint than the others."""
    if ctx.worker.count == 1:
        return saved
    from safetensors.torch import load, save

    tensors, facts = saved or ({}, None)
    facts = json.loads(_bytes_from_first(json.dumps(facts).encode(), ctx))
    if facts is None:
        return None
    here = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return load(_bytes_from_first(save(here) if ctx.worker.rank == 0 else b"", ctx)), facts


def _bytes_from_first(data: bytes, ctx: Context) -> bytes:
    length = torch.tensor([len(data)], device=ctx.device)
    distributed.broadcast(length, 0)
    if ctx.worker.rank == 0:
        content = torch.frombuffer(bytearray(data), dtype=torch.uint8).to(ctx.device)
    else:
        content = torch.empty(int(length.item()), dtype=torch.uint8, device=ctx.device)
    distributed.broadcast(content, 0)
    return content.cpu().numpy().tobytes()


def share(total: int, ctx: Context) -> range:
    """The rows of `total` that this worker sees to where they are shared out in a row."""
    rank, count = ctx.worker.rank, ctx.worker.count
    return range(total * rank // count, total * (rank + 1) // count)


def gathered(mine: torch.Tensor, total: int, ctx: Context) -> torch.Tensor:
    """All workers' rows [total, …], from those of each worker's `share`."""
    if ctx.worker.count == 1:
        return mine
    rows = share(total, ctx)
    whole = mine.new_zeros((total, *mine.shape[1:]), device=ctx.device)
    whole[rows.start : rows.stop] = mine.to(ctx.device)
    distributed.all_reduce(whole)
    return whole.to(mine.device)
