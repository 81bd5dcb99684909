"""The fields of gradient matching and of the other objectives of its loop, and those that other attacks share with it.

The defaults are those of Witches' Brew for CIFAR-10 (Geiping et al. 2021, appendix A).
"""

from itertools import pairwise
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator

from stages.config import Added, Config, NotIdentity
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


GradientObjective = Literal["cosine", "squared-euclidean"]
FeatureObjective = Literal["feature-collision", "bullseye"]
OF_GRADIENTS = ("adversarial_loss", "derivative", "private", "layers")
"""The fields of gradient matching that mean nothing to an objective on features."""


class Private(Config):
    """The poison gradient as a differentially private trainer would use it: clipped, and with Gaussian noise."""

    clip: Annotated[float, Field(gt=0)] = 1.0
    """The poison gradient's greatest length, over all parameters that take part; one that is longer is shortened."""
    noise: Annotated[float, Field(ge=0)]
    """The noise's standard deviation in each parameter, as a part of `clip`."""


class BrewAugmentation(Config):
    """The differentiable augmentation: one bilinear shift and flip an image and step (section 3.3)."""

    flip: bool = True
    shift: Annotated[float, Field(ge=0)] = 4
    """The largest shift in pixels, uniform in [-shift, shift] in each direction; fractions are interpolated."""


class Race(Config):
    """Successive halving (Jamieson and Talwalkar 2016): all restarts start, and at each stated step the worst are
    dropped, by B over the draws of the final B."""

    at: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    """After how many steps, in order."""
    keep: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The part that goes on, rounded up."""


class GradientMatching(Config):
    """Gradient matching (Algorithm 1), or the same loop with an objective on features (Table 2)."""

    kind: Literal["gradient-matching"] = "gradient-matching"
    objective: Literal[GradientObjective, FeatureObjective] = "cosine"
    """Of gradients: equation 3, or equation 2. Of penultimate features: that of Poison Frogs or Bullseye Polytope."""
    adversarial_loss: Literal["cross-entropy", "carlini-wagner", "self-concealment"] | None = "cross-entropy"
    """The loss whose gradient on the targets is to be matched, self-concealment for cases that intend no class; null
    where features are compared."""
    eps: Annotated[int, Field(ge=1, le=255)] = 16
    """The largest change of a pixel, in 1/255."""
    budget: Annotated[float, Field(gt=0, lt=1), NotIdentity()] = 0.01
    """P/N, the part of the training images that are poisons. The case carries it."""
    restarts: Annotated[int, Field(ge=1), NotIdentity()] = 8
    """R. Each restart is a step of its own."""
    race: Annotated[Race | None, NotIdentity()] = None
    """Whether the worst restarts are dropped on the way; null brews all to the end. Each leg of a race is a step."""
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
    derivative: Derivative | None = FiniteDifference()
    """Of gradients; null where features are matched, whose derivative is plain."""
    private: Annotated[Private | None, Added()] = None
    """Whether poisons are brewed against a differentially private victim (figure 4b); null is not."""
    layers: Annotated[Annotated[dict[str, Annotated[float, Field(ge=0)]], Field(min_length=1)] | None, Added()] = None
    """Weights of parameters in the objective, by name or pattern, as in `{body: 0}`, which matches by the last layer
    alone. Those not named weigh 1, and of the patterns that name one the longest counts. Null weighs all alike."""
    seed: int = 0

    @property
    def on_features(self) -> bool:
        """Whether the objective compares features, and not gradients."""
        return self.objective in get_args(FeatureObjective)

    @model_validator(mode="before")
    @classmethod
    def _without_gradients(cls, given: Any) -> Any:
        """Defaults that are of gradients are none of features."""
        if isinstance(given, dict) and given.get("objective") in get_args(FeatureObjective):
            return {"adversarial_loss": None, "derivative": None, **given}
        return given

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.on_features:
            self._refuse_gradients()
        elif self.adversarial_loss is None or self.derivative is None:
            missing = "derivative" if self.derivative is None else "adversarial_loss"
            raise ValueError(
                f"{missing} is null, but objective {self.objective} needs one; leave it out for its default"
            )
        self.schedule.refuse_unreached(self.steps, "step")
        if self.race is not None:
            self._refuse_no_race(self.race.at)
        return self

    def _refuse_gradients(self) -> None:
        for name in OF_GRADIENTS:
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{name} is given, but objective {self.objective} compares features and has no use for it; "
                    "leave it out or set it to null"
                )

    def _refuse_no_race(self, at: tuple[int, ...]) -> None:
        for before, after in pairwise(at):
            if before >= after:
                raise ValueError(f"race.at names step {after} after step {before}; name each once, in order")
        if at[-1] >= self.steps:
            raise ValueError(
                f"race.at names step {at[-1]}, but a restart has steps: {self.steps}; name steps below it, as the "
                "last leg goes on from there"
            )
        if self.restarts < 2:
            raise ValueError("race: there is 1 restart, and none to race it with; set restarts to 2 or more")
