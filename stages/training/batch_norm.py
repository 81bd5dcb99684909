"""Batch normalisation over parts of a batch that do not depend on how many workers have it.

Group j of k is the images j, j + k, j + 2k, … of a batch, of which a worker has the rows rank, rank + count, …. Where
k is a multiple of the number of workers each group lies on one worker whole and torch's own normalisation does it;
else (k = 1 above all) the workers put their statistics together. In training alone: evaluation is torch's own.

torch's SyncBatchNorm is k = 1 on GPUs; it refuses CPUs, knows no groups and wants an image on every worker.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.functional import batch_norm

from stages.stage import Worker

BatchNorm = nn.modules.batchnorm._BatchNorm
"""What all of torch's batch normalisations are."""


@dataclass
class Part:
    """The rows of the present batch that this worker has. total: images of the batch over all workers."""

    worker: Worker
    groups: int
    total: int = 0

    @property
    def own(self) -> bool:
        """Whether every group lies on one worker whole."""
        return self.groups % self.worker.count == 0

    def slices(self) -> list[tuple[int, slice]]:
        """The groups of which this worker has rows, and which of its rows those are."""
        rank, workers = self.worker.rank, self.worker.count
        period = self.groups // math.gcd(self.groups, workers)
        return [((rank + first * workers) % self.groups, slice(first, None, period)) for first in range(period)]


def normalise(module: BatchNorm, part: Part, images: torch.Tensor) -> torch.Tensor:
    """What `module` makes of this worker's rows, [B, C, …] -> the same; its running statistics move by the mean of
    the groups' (of this worker's groups, where each lies on one worker whole)."""
    if not module.training:
        return type(module).forward(module, images)
    if part.own:
        normalised, mean, variance = _own_groups(module, part, images)
    else:
        weight, bias = (
            torch.full((images.shape[1],), fill, dtype=_wide(images), device=images.device) if given is None else given
            for given, fill in ((module.weight, 1.0), (module.bias, 0.0))
        )
        normalised, mean, variance = _Together.apply(images, weight, bias, module.eps, part)
    if module.running_mean is not None and module.running_var is not None:
        assert module.num_batches_tracked is not None
        with torch.no_grad():
            module.num_batches_tracked += 1
            factor = 1 / int(module.num_batches_tracked) if module.momentum is None else module.momentum
            module.running_mean.lerp_(mean, factor)
            module.running_var.lerp_(variance, factor)
    return normalised


def _own_groups(module: BatchNorm, part: Part, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(normalised, mean [C], variance [C]), the last two as means over this worker's groups."""
    slices = part.slices()
    statistics = torch.zeros((len(slices), 2, images.shape[1]), dtype=_wide(images), device=images.device)

    def of(rows: slice, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
        # With a momentum of 1 the running statistics are those of this group.
        return batch_norm(images[rows], mean, variance, module.weight, module.bias, True, 1.0, module.eps)

    if len(slices) == 1:
        normalised = of(slice(None), *statistics[0])
    else:
        normalised = torch.empty_like(images)
        for (_, rows), (mean, variance) in zip(slices, statistics, strict=True):
            normalised[rows] = of(rows, mean, variance)
    mean, variance = statistics.mean(0)
    return normalised, mean, variance


class _Together(torch.autograd.Function):
    """Normalises rows of groups that several workers have, with the derivative through the groups' statistics."""

    @staticmethod
    def forward(
        ctx: Any, images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, part: Part
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        channels, dims = images.shape[1], [0, *range(2, images.dim())]
        wide = _wide(images)
        own = torch.zeros(
            (part.groups, 3, channels), dtype=wide, device=images.device
        )  # count, mean, sum of squares about it
        for group, rows in part.slices():
            values = images[rows].to(wide)
            if len(values):
                variance, mean = torch.var_mean(values, dims, correction=0)
                size = values.numel() // channels
                own[group] = torch.stack([torch.full_like(mean, size), mean, variance * size])
        everyones = [torch.empty_like(own) for _ in range(part.worker.count)]
        distributed.all_gather(everyones, own)
        counts, means, squares = torch.stack(everyones, dim=2).unbind(1)  # [groups, workers, channels] each
        count = counts.sum(1)
        mean = (counts * means).sum(1) / count
        square = (squares + counts * (means - mean[:, None]).square()).sum(1)
        inverse = torch.rsqrt(square / count + eps)
        normalised = torch.empty_like(images)
        for group, rows in part.slices():
            centred = images[rows].to(wide) - _along(mean[group], images)
            normalised[rows] = (centred * _along(inverse[group] * weight, images) + _along(bias, images)).to(images)
        ctx.save_for_backward(images, weight, mean, inverse, count)
        ctx.part, ctx.dims = part, dims
        running_mean, running_variance = mean.mean(0), (square / (count - 1)).mean(0)
        ctx.mark_non_differentiable(running_mean, running_variance)
        return normalised, running_mean, running_variance

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        images, weight, mean, inverse, count = ctx.saved_tensors
        own = torch.zeros((len(mean), 2, len(weight)), dtype=mean.dtype, device=images.device)

        def rows_of(group: int, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
            """(normalised images before weight and bias, the gradient of what was made of them)."""
            centred = images[rows].to(mean) - _along(mean[group], images)
            return centred * _along(inverse[group], images), gradients[0][rows].to(mean)

        for group, rows in ctx.part.slices():
            standard, gradient = rows_of(group, rows)
            own[group] = torch.stack([gradient.sum(ctx.dims), (gradient * standard).sum(ctx.dims)])
        everyones = own.clone()
        distributed.all_reduce(everyones)
        mean_gradient, mean_product = (everyones / count[:, None]).unbind(1)
        of_images = torch.empty_like(images)
        for group, rows in ctx.part.slices():
            standard, gradient = rows_of(group, rows)
            gradient = gradient - _along(mean_gradient[group], images) - standard * _along(mean_product[group], images)
            of_images[rows] = (gradient * _along(inverse[group] * weight, images)).to(images)
        of_bias, of_weight = own.sum(0)
        return of_images, of_weight, of_bias, None, None


def _wide(images: torch.Tensor) -> torch.dtype:
    """What statistics are computed in: float32 for narrower images."""
    return torch.promote_types(images.dtype, torch.float32)


def _along(values: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """[C] as [1, C, 1, …], to go with images [B, C, …]."""
    return values.view(1, -1, *[1] * (images.dim() - 2))
