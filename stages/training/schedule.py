"""The learning rate as a factor of its start, a pure function of how far a training is."""

import math

from stages.training.config import Constant, Cosine, MultiStep


def rate_factor(schedule: MultiStep | Cosine | Constant, epoch: float, epochs: int) -> float:
    """The factor at `epoch` (fractional, from 0) of `epochs`. In [0, 1]."""
    if isinstance(schedule, Constant):
        return 1.0
    if isinstance(schedule, MultiStep):
        return schedule.factor ** sum(epoch >= milestone for milestone in schedule.milestones(epochs))
    done = epoch / epochs
    if done < schedule.warmup:
        return done / schedule.warmup
    return 0.5 * (1 + math.cos(math.pi * (done - schedule.warmup) / (1 - schedule.warmup)))
