"""What every crafting loop is given, and what it gives back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from stages.data.images import ImageSet
from stages.stage import Context, Saved


@dataclass(frozen=True)
class Task:
    """One case, as an attacker sees it.

    surrogates: networks on [0, 1] images; the loop moves them to the device and leaves their weights as they were.
    base: the images that become poisons.  targets: test images.  intended: the class they are to be called;
    where an adversarial loss drives them from a class instead, that class, their own.
    scale: the dataset's standard deviation per channel.
    """

    surrogates: Sequence[torch.nn.Module]
    base: ImageSet
    targets: ImageSet
    intended: int
    scale: Sequence[float]


@dataclass
class Brew:
    """What one restart gives.

    images: uint8 [P, H, W, C].  losses: the objective B at each step [M], before the step.  loss_before: B of the
    poisons as floats, None before the last step.  loss: B of the quantised poisons, by which restarts are compared.
    state: what another loop goes on from.
    """

    images: np.ndarray
    losses: list[float]
    loss_before: float | None
    loss: float
    state: dict[str, torch.Tensor]


class Loop(Protocol):
    """A crafting loop, registered under its attack's kind in `stages.brew.attacks.LOOPS`."""

    def __call__(
        self,
        task: Task,
        attack: Any,
        ctx: Context,
        evaluation_seed: int | None = None,
        start: Saved | None = None,
        until: int | None = None,
    ) -> Brew:
        """Craft poisons for the task.

        evaluation_seed: of the draws over which the final B is averaged; null takes the step's own, restarts that are
        compared share one.  start: where a loop of the same seed ended, `state` and {"losses": …}, to go on from there.
        until: the step after which to end; null is the last.
        Resumes from `ctx.checkpoint`; every draw is a pure function of the step's seed and the step's number, so that
        a brew in parts is to the last bit the brew in one.
        """
