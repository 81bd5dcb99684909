"""The fields of Poison Frogs. The defaults are those of the one-shot kill, and the authors' code where the paper says
nothing (Shafahi et al. 2018; inceptionv3-transferLearn-poison)."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from stages.config import Config, NotIdentity


class PoisonFrogs(Config):
    """Feature collision by forward-backward splitting (Algorithm 1). Each base image becomes a poison of its own."""

    kind: Literal["poison-frogs"] = "poison-frogs"
    beta0: Annotated[float, Field(ge=0)] = 0.25
    """β = β0 · d_feature² / d_input², how much likeness to the base counts, for pixels in 0..255 (section 3.1)."""
    learning_rate: Annotated[float, Field(gt=0)] = 500 * 255
    """λ of the first step, for pixels in 0..255, as in the authors' code."""
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """λ of a poison is multiplied by it after a step that raised its objective, and that step is taken back."""
    steps: Annotated[int, Field(ge=1)] = 1500
    """maxIters."""
    eps: Annotated[int, Field(ge=1, le=255)] | None = None
    """Null keeps poisons near their bases by β alone. A number is the largest change of a pixel, in 1/255, and then the
    backward step projects onto that ball instead (the l-infinity variant), so that β0 has no part in it."""
    watermark: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The opacity with which the target is laid over each base before all else; 0.2 and 0.3 in section 4.2."""
    budget: Annotated[float, Field(gt=0, lt=1), NotIdentity()] = 0.01
    """P/N, the part of the training images that are poisons: one image for the one-shot kill. The case carries it."""
    restarts: Annotated[int, NotIdentity()] = 1
    """The algorithm draws nothing at random, so one is all there is."""

    seed: ClassVar[int] = 0
    race: ClassVar[None] = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.restarts != 1:
            raise ValueError(
                f"restarts is {self.restarts}, but Algorithm 1 of Poison Frogs draws nothing at random, so all would "
                "be the same; leave it out"
            )
        if self.eps is not None and self.watermark:
            raise ValueError(
                f"eps is {self.eps} and watermark {self.watermark}, but eps bounds the change from the clean image, "
                "which a watermark alone exceeds; set one of them"
            )
        return self
