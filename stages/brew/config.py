"""The fields of an attack. The defaults are those of Witches' Brew for CIFAR-10 (Geiping et al. 2021, appendix A)."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.config import Config, NotIdentity
from stages.training.config import MultiStep


class DoubleBackward(Config):
    """The exact mixed derivative, by differentiating through the poison gradient: the reference."""

    kind: Literal["double-backward"] = "double-backward"


class FiniteDifference(Config):
    """The mixed derivative by a finite step of the parameters along ∂B/∂g; no graph of a graph."""

    kind: Literal["finite-difference"] = "finite-difference"
    sides: Literal[1, 2] = 2
    """Two-sided takes the difference across θ ± h·v, one-sided between θ + h·v and θ."""
    h_rel: Annotated[float, Field(gt=0)] = 1e-2
    """The length of the step, as a part of the parameters' length: |h·v| = h_rel·|θ|."""


Derivative = Annotated[DoubleBackward | FiniteDifference, Field(discriminator="kind")]


class BrewAugmentation(Config):
    """The differentiable augmentation: one bilinear shift and flip an image and step (section 3.3)."""

    flip: bool = True
    shift: Annotated[float, Field(ge=0)] = 4
    """The largest shift in pixels, uniform in [-shift, shift] in each direction; fractions are interpolated."""


class GradientMatching(Config):
    """Gradient matching (Algorithm 1)."""

    kind: Literal["gradient-matching"] = "gradient-matching"
    objective: Literal["cosine", "squared-euclidean"] = "cosine"
    """Equation 3, or equation 2."""
    adversarial_loss: Literal["cross-entropy", "carlini-wagner"] = "cross-entropy"
    """The loss whose gradient on the targets is to be matched."""
    eps: Annotated[int, Field(ge=1, le=255)] = 16
    """The largest change of a pixel, in 1/255."""
    budget: Annotated[float, Field(gt=0, lt=1), NotIdentity()] = 0.01
    """P/N, the part of the training images that are poisons. The case carries it."""
    restarts: Annotated[int, Field(ge=1), NotIdentity()] = 8
    """R. Each restart is a step of its own."""
    steps: Annotated[int, Field(ge=1)] = 250
    """M."""
    step_size: Annotated[float, Field(gt=0)] = 0.1
    """τ of the signed Adam, in units of the dataset's standard deviation per channel, as in the authors' code,
    which also divides it by the number of surrogates: here it is used as it stands."""
    schedule: MultiStep = MultiStep()
    """Falls of the step size; null is M//2.667, M//1.6, M//1.142."""
    augmentation: BrewAugmentation | None = BrewAugmentation()
    """Null brews on the images as they are."""
    start: Literal["random", "zero"] = "random"
    """Where delta starts: uniformly in the ball, or at 0."""
    derivative: Derivative = FiniteDifference()
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self.schedule.refuse_unreached(self.steps, "step")
        return self
