"""The fields of attacks without targets: Gradient Canceling (Lu, Kamath & Yu 2023) and its baselines.

No torch here: an experiment is planned, keyed and refused without loading it.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.brew.config import Derivative, DoubleBackward
from stages.config import Config, NotIdentity


class Corruption(Config):
    """How the target parameters come from those of a clean network (GradPC and RandomPC, Sun et al. 2020)."""

    kind: Literal["gradient", "random"] = "gradient"
    """Ascent on the loss over the train images, or a random direction."""
    eps_w: Annotated[float, Field(gt=0)] = 0.5
    """The bound: ‖w - w0‖ <= eps_w·‖w0‖, over all parameters together."""
    steps: Annotated[int, Field(ge=1)] = 10
    """Of the ascent, each of length 2·eps_w·‖w0‖ / steps along the gradient, projected into the ball."""
    scale: Annotated[float, Field(gt=0, le=1)] = 1.0
    """What the corrupted parameters are multiplied by at the end: nearer to the origin, the less tau."""
    seed: int = 0
    """Of the random direction."""


class Poisoning(Config):
    """What all of them share: how many poisons there are, and how they move. Poisons keep their labels."""

    eps_d: Annotated[float, Field(gt=0, le=1)] = 0.03
    """Poisons for each image of the clean train set, P = ⌈eps_d·N⌉, each begun from an image of its own."""
    mode: Literal["add", "replace"] = "add"
    """Whether the poisons come to the train set, N + P, or take the places of the images they are begun from."""
    steps: Annotated[int, Field(ge=1)] = 200
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    """Of gradient descent, falling to 0 along half a cosine. A poison's gradient is multiplied by P, so that a step
    does not depend on it; that of the objective `cancel` also by 1 / eps_d², so that what a step does to
    g(mu) + eps_d g(nu) does not depend on eps_d."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    derivative: Derivative = DoubleBackward()
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.mode == "replace" and self.eps_d == 1:
            raise ValueError(
                "eps_d is 1 with mode: replace, which leaves no clean image; lower eps_d, or use mode: add"
            )
        return self

    @property
    def budget(self) -> float:
        """P/N."""
        return self.eps_d

    @property
    def eps(self) -> None:
        """The largest change of a pixel: any, within the clean range."""
        return None


class GradientCanceling(Poisoning):
    """Gradient Canceling (Algorithm 1): poisons whose gradient at the target parameters cancels that of the clean
    images, so that training has no reason to leave them."""

    kind: Literal["gradient-canceling"] = "gradient-canceling"
    objective: Literal["cancel", "cosine"] = "cancel"
    """½ ‖g(mu) + eps_d g(nu)‖², or as a baseline the cosine of gradient matching, between g(nu) and -g(mu)."""
    corruption: Annotated[Corruption, NotIdentity()] = Corruption()
    """The target parameters, which are a step of their own."""


class TotalGradientAscent(Poisoning):
    """Total gradient descent ascent (TGDA; Lu, Kamath & Yu 2022): the leader moves the poisons up the loss on clean
    images, counting in how the follower, a network that is trained on them, answers. It names no target parameters."""

    kind: Literal["tgda"] = "tgda"
    follower_steps: Annotated[int, Field(ge=1)] = 10
    """Descent steps of the follower, each over the whole train set with the poisons, before each step of the leader."""
    follower_rate: Annotated[float, Field(gt=0)] = 0.05
    iterations: Annotated[int, Field(ge=1)] = 10
    """Conjugate gradients' iterations for the inverse of the follower's Hessian; each is two passes over the set."""
    damping: Annotated[float, Field(gt=0)] = 0.1
    """What is added to the Hessian's diagonal: the inverse needs a definite one."""
