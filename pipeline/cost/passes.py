"""Training passes, forward and backward over the poisons, that a step of crafting costs: as they were measured."""

from stages.brew.config import Derivative, DoubleBackward, GradientMatching
from stages.stage import Runtime

MICRO_BATCH = Runtime().micro_batch


def passes_of_lookahead(steps: int) -> float:
    """Training passes that a look-ahead costs, of a network without batch normalisation: each step is one, and going
    back through each but the first, which needs the poisons alone, two (tests/bench/test_meta_cost.py)."""
    return steps + 2 * (steps - 1)


def passes_of_step(attack: GradientMatching, poisons: int) -> float:
    """Training passes that a step of brewing costs."""
    if attack.derivative is None:
        return 0.7 if poisons <= MICRO_BATCH else 1.0  # all features come first where poisons are in parts
    return passes_of_derivative(attack.derivative)


def passes_of_derivative(how: Derivative) -> float:
    """Training passes that a mixed derivative costs (README, "Brewing by finite differences"; results/bench)."""
    if isinstance(how, DoubleBackward):
        return 3.2
    return 2.4 if how.sides == 2 else 1.8
